"""DICOM in, DICOM out: CT series with segmentations, each text in their headers a planted one."""

import copy
import gzip
import json
import logging
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from datasets import slice_dataset
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, SegmentationStorage

from alignflow.data.datalist import build_datalist, stated_labels
from alignflow.data.dicomweb import require_client, store
from alignflow.data.formats import load
from alignflow.errors import InputError

highdicom = pytest.importorskip("highdicom")

TEXTS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
DATE = "18770816"
TIME = "031415.926535"
AGE, WEIGHT, COUNT = "097Y", "2718281", "1414213"  # how planted numbers begin
GROUPS = (0x0008, 0x0010, 0x0018, 0x0032, 0x0040)  # of numbers that say nothing of the grid
NEEDED = {  # to read the pixels at all, or to write a segmentation of them
    "Modality",
    "SpecificCharacterSet",
    "PhotometricInterpretation",
    "RescaleType",
    "ImageType",
    "PatientSex",
    "CodingSchemeDesignator",
    "SliceThickness",
    "SpacingBetweenSlices",
    "GantryDetectorTilt",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
}
CORNERS = [(0, 0, 0), (23, 0, 0), (0, 19, 0), (23, 19, 0)]
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


def planted(number, count):
    """A unique text of at most 16 characters, of those that every text attribute may hold."""
    return f"PLANT{number}X{count:06d}"


def plant(dataset, number):
    """Give every attribute of text, date, number or identity a value; return these values."""
    values = {DATE, TIME}
    for tag, (vr, _, _, retired, _) in DicomDictionary.items():
        name = keyword_for_tag(tag)
        if tag < 0x00080000 or retired or name in NEEDED or tag >> 16 == 0x0062:
            continue
        if vr in TEXTS:
            values.add(planted(number, len(values)))
            dataset.add_new(tag, vr, planted(number, len(values) - 1))
        elif vr in ("DA", "TM", "DT"):
            dataset.add_new(tag, vr, {"DA": DATE, "TM": TIME, "DT": DATE + TIME}[vr])
        elif vr in ("AS", "DS", "IS") and tag >> 16 in GROUPS:
            count = len(values) % 1000
            numbers = {"AS": AGE, "DS": f"{WEIGHT}{count:03d}.5", "IS": f"{COUNT}{count:03d}"}
            dataset.add_new(tag, vr, numbers[vr])
            values.add(numbers[vr])
    block = dataset.private_block(0x0011, planted(number, 999999), create=True)
    block.add_new(1, "LO", planted(number, 999998))
    alias = pydicom.Dataset()
    alias.PatientID = planted(number, 999997)
    dataset.OtherPatientIDsSequence = [alias]
    for name in UIDS:
        values.add(str(dataset[name].value))
    return values | {planted(number, k) for k in (999999, 999998, 999997)}


def slices(number, volume):
    """A CT series of (Z, Y, X) HU, oblique, one data set per slice; and what was planted in it."""
    turn = np.deg2rad(30)
    row, column = [np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0]
    made, values = [], set()
    for k, pixels in enumerate(volume):
        dataset = pydicom.Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        dataset.StudyInstanceUID = UID(f"1.2.826.0.1.{number}.77001")
        dataset.SeriesInstanceUID = UID(f"1.2.826.0.1.{number}.77002")
        dataset.FrameOfReferenceUID = UID(f"1.2.826.0.1.{number}.77003")
        dataset.SOPInstanceUID = UID(f"1.2.826.0.1.{number}.77004.{k + 1}")
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        if k == 0:
            values |= plant(dataset, number)
        else:
            for element in made[0]:
                if element.tag not in dataset:
                    dataset.add(copy.deepcopy(element))
            values.add(str(dataset.SOPInstanceUID))
        dataset.Modality, dataset.SpecificCharacterSet = "CT", "ISO_IR 192"
        dataset.PatientSex = "O"
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelSpacing, dataset.SliceThickness = [1.1, 0.8], 3
        dataset.ImagePositionPatient = [-40.0, 12.5, 7.0 + 3 * k]
        dataset.ImageOrientationPatient = [round(float(x), 9) for x in (*row, *column)]
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored = 1, 16, 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.PixelData = (pixels.astype(np.int16) + 1024).astype("<i2").tobytes()
        made.append(dataset)
    return made, values


def segmentation(images, label):
    """The segmentation of a series by highdicom, which copies the patient of the images."""
    segment = highdicom.seg.SegmentDescription(
        1,
        "lesion",
        codes.cid7150.MorphologicallyAbnormalStructure,
        codes.SCT.Neoplasm,
        "MANUAL",
    )
    return highdicom.seg.Segmentation(
        images,
        label,
        "BINARY",
        [segment],
        series_instance_uid=highdicom.UID(),
        series_number=2,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    )


@pytest.fixture(scope="session")
def dicom_source(tmp_path_factory):
    """(folder of pairs, folder of references, all planted values)."""
    root, site = tmp_path_factory.mktemp("dicom"), tmp_path_factory.mktemp("dicom_site")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:20, :24]
    values = set()
    for number in range(1, 6):
        flat = (np.hypot(x - 11, y - 6 - number) < 6).astype(np.uint8)
        label = np.stack([0 * flat, flat, flat, flat])  # highdicom leaves the empty slice out
        volume = 100 * label.astype(int) - 40 + rng.normal(0, 15, label.shape)
        images, found = slices(number, volume.astype(np.int16))
        values |= found
        folder = (root / f"images/case{number}") if number < 4 else site / f"case{number}"
        folder.mkdir(parents=True)
        for k, dataset in enumerate(images):
            dataset.save_as(folder / f"slice{9 - k}.dcm", enforce_file_format=True)
        if number < 4:
            (root / "labels").mkdir(exist_ok=True)
            segmentation(images, label).save_as(root / f"labels/case{number}.dcm")
    return root, site, values


@pytest.fixture(scope="session")
def dicom_models(dicom_source, train, tmp_path_factory):
    """`models/` of a training on the source, with the MLflow store."""
    output = tmp_path_factory.mktemp("dicom_bundle") / "models"
    output.mkdir()
    with said_in(output / "said.txt"):
        train(dicom_source[0], output, mlflow=True)
    return output


@contextmanager
def said_in(path):
    """A file of all that goes to the console, to logs of any level, and into warnings."""
    root, saved = logging.getLogger(), [os.dup(1), os.dup(2)]
    level = root.level
    with open(path, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        root.addHandler(handler := logging.StreamHandler(file))
        root.setLevel(logging.DEBUG)
        try:
            os.dup2(file.fileno(), 1)  # libraries in C write there
            os.dup2(file.fileno(), 2)
            with redirect_stdout(file), redirect_stderr(file):
                yield path
        finally:
            file.flush()
            for descriptor, copy_ in zip((1, 2), saved, strict=True):
                os.dup2(copy_, descriptor)
                os.close(copy_)
            root.removeHandler(handler)
            root.setLevel(level)
            logging.captureWarnings(False)


@pytest.fixture(scope="session")
def dicom_pairs(dicom_models, infer, tmp_path_factory):
    output = tmp_path_factory.mktemp("dicom_pairs")
    infer(dicom_models, output, output_format="dicom")
    return output


def test_pairs_are_ct_with_segmentations_on_slices_of_the_source(dicom_pairs, dicom_source):
    header = pydicom.dcmread(dicom_source[0] / "images/case1/slice9.dcm")
    for k in range(4):
        image = pydicom.dcmread(dicom_pairs / f"images/pair_{k:05d}.dcm")
        mask = pydicom.dcmread(dicom_pairs / f"labels/pair_{k:05d}.dcm")
        assert (image.SOPClassUID, mask.SOPClassUID) == (CTImageStorage, SegmentationStorage)
        assert (image.Rows, image.Columns) == (20, 24)
        for name in ("PixelSpacing", "ImageOrientationPatient"):
            np.testing.assert_allclose(image[name].value, header[name].value, atol=1e-6)
        position = np.array(image.ImagePositionPatient) - [-40, 12.5, 7]
        np.testing.assert_allclose(position[:2], 0, atol=1e-6)
        assert np.abs(position[2] - [3, 6, 9]).min() < 1e-6  # slice 0 has no foreground
        assert image.pixel_array.min() >= -200 and image.pixel_array.max() <= 300  # HU


def test_the_folder_is_a_data_set_again(dicom_pairs):
    labels = stated_labels(dicom_pairs)
    dataset = slice_dataset(build_datalist(dicom_pairs), labels=labels)
    assert (len(dataset), dataset.spec.modality) == (4, "CT")
    assert list(dataset.spec.labels.values()) == [0, 1]


def test_equal_commands_give_equal_bytes(dicom_models, dicom_pairs, infer, tmp_path):
    infer(dicom_models, tmp_path, output_format="dicom")
    for path in dicom_pairs.rglob("*.dcm"):
        assert path.read_bytes() == (tmp_path / path.relative_to(dicom_pairs)).read_bytes()


def test_an_unknown_format_is_refused(dicom_models, infer, refused, tmp_path):
    line = refused(infer, dicom_models, tmp_path, output_format="nrrd")
    assert "output_format" in line and "null" in line and "dicom" in line


def assert_holds_none(data, values, where):
    """What all planted texts and numbers begin with, each date and each UID."""
    shared = ["PLANT", WEIGHT, COUNT]
    rest = [v for v in values if not v.startswith((*shared, AGE))]
    for value in [*shared, *rest]:
        assert value.encode() not in data, f"{value} in {where}"


def content(path):
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def test_nothing_of_the_inputs_headers_comes_out(
    dicom_source, dicom_models, dicom_pairs, align, infer, segment, tmp_path
):
    root, site, values = dicom_source
    assert len(values) > 1500
    written = b"".join(path.read_bytes() for path in root.rglob("*.dcm"))
    assert all(value.encode() in written for value in values if "PLANT1X" in value)
    for value in (AGE, WEIGHT, COUNT):
        assert value.encode() in written

    with said_in(tmp_path / "said.txt"):
        align(dicom_models, site, tmp_path / "aligned", mlflow=True)
        infer(tmp_path / "aligned", tmp_path / "nifti")
        infer(tmp_path / "aligned", tmp_path / "dicom", output_format="dicom")
        segment(dicom_models, root, tmp_path / "segmenter", pairs_dir=str(tmp_path / "dicom"))
    for path in (dicom_models / "said.txt", tmp_path / "said.txt"):
        assert "wrote" in path.read_text()  # what was caught is what was said

    folders = [dicom_models, dicom_pairs, tmp_path]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert {".dcm", ".gz", ".pt", ".json", ".db"} <= {path.suffix for path in files}
    for path in files:
        data = content(path)
        assert_holds_none(data, values, path)
        if path.suffix in (".json", ".txt", ".db", ".dcm"):  # too short a text for pixels
            assert AGE.encode() not in data, path


def test_sex_age_and_weight_change_nothing(dicom_source, tmp_path):
    """Values of one letter cannot be looked for: what is read is the same with another one."""
    root = shutil.copytree(dicom_source[0], tmp_path / "other")
    for path in root.rglob("*.dcm"):
        header = pydicom.dcmread(path)
        header.PatientSex = "F" if header.PatientSex == "O" else "O"
        header.PatientAge, header.PatientWeight = "012Y", 40
        header.save_as(path)
    labels = {"background": 0, "lesion": 1}
    first, other = (
        slice_dataset(build_datalist(r), labels=labels) for r in (dicom_source[0], root)
    )
    assert first.fingerprint == other.fingerprint
    assert first.spec == other.spec


@pytest.mark.filterwarnings("ignore")
def test_errors_and_warnings_say_nothing_of_the_headers(dicom_source, run_config, tmp_path):
    """Damaged files, and values that no standard allows, which libraries like to quote."""
    root, site, values = dicom_source
    series = sorted((site / "case4").iterdir())
    bad = shutil.copytree(site / "case4", tmp_path / "bad/odd_values")
    for path in bad.iterdir():
        data = path.read_bytes()  # equal lengths: text in place of dates, ages and numbers
        for planted_, text in ((DATE, "PLANTDAY"), (AGE, "PLAN"), (WEIGHT, "PLANTNO")):
            data = data.replace(planted_.encode(), text.encode())
        path.write_bytes(data)
    cut = tmp_path / "bad/cut.dcm"
    cut.write_bytes(series[0].read_bytes()[:-700])
    gap = shutil.copytree(site / "case4", tmp_path / "bad/gap")
    (gap / series[1].name).unlink()
    two = shutil.copytree(site / "case4", tmp_path / "bad/two")
    for path in (site / "case5").iterdir():
        shutil.copy(path, two / f"other_{path.name}")
    alone = shutil.copy(root / "labels/case1.dcm", tmp_path / "bad/alone.dcm")
    with said_in(tmp_path / "said.txt"):
        load(bad)
        for path in (cut, gap, two, alone):
            with pytest.raises(InputError) as caught:
                load(path)
            print(path.name, caught.value)
        for source, irregular in (
            (gap, "refuse"),
            (gap, "leave_out"),
            (tmp_path / "bad", "slices"),
        ):
            options = {"source": str(source), "output_dir": str(tmp_path / "out")}
            try:
                run_config("collect", "infer", "collect", options | {"irregular": irregular})
            except RuntimeError as error:
                print(irregular, error, error.__cause__)
                continue
            (tmp_path / "out/collection.json").rename(tmp_path / f"{irregular}.json")
            shutil.rmtree(tmp_path / "out")
    said = (tmp_path / "said.txt").read_bytes()
    reports = [path.read_bytes() for path in tmp_path.glob("*.json")]
    assert_holds_none(b"".join([said, *reports]), values, "what was said")
    for name in (b"cut.dcm", b"gap", b"two", b"alone.dcm", b"slices are missing"):
        assert name in said


PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory):
    """URL of the DICOMweb service of an Orthanc of its own, empty at first."""
    program = shutil.which("Orthanc")
    if program is None or not PLUGIN.exists():
        pytest.skip("orthanc and orthanc-dicomweb are not installed")
    pytest.importorskip("dicomweb_client")
    folder = tmp_path_factory.mktemp("orthanc")
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    config = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": ports[0],
        "DicomPort": ports[1],
        "RemoteAccessAllowed": False,
        "Plugins": [str(PLUGIN)],
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    with open(folder / "log", "w") as log:
        server = subprocess.Popen([program, folder / "orthanc.json"], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{ports[0]}/dicom-web"
    try:
        deadline = time.monotonic() + 120
        while not _answers(f"{url}/studies"):
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait()


def _answers(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


def test_round_trip_through_a_server(
    orthanc, dicom_source, dicom_models, align, infer, run_config, tmp_path
):
    _, site, _ = dicom_source
    store(orthanc, sorted(site.rglob("*.dcm")))

    collected = tmp_path / "collected"
    options = {"source": f"{orthanc}/series?Modality=CT", "output_dir": str(collected)}
    run_config("collect", "infer", "collect", options)
    found = [load(path) for path in sorted((collected / "images").iterdir())]
    sent = [load(path) for path in sorted(site.iterdir())]
    assert len(found) == len(sent) == 2
    found.sort(key=lambda image: float(image.sum()))
    sent.sort(key=lambda image: float(image.sum()))
    for image, original in zip(found, sent, strict=True):
        np.testing.assert_array_equal(image, original)
        np.testing.assert_allclose(image.affine, original.affine, atol=1e-4)

    align(dicom_models, collected, tmp_path / "aligned")
    pairs = tmp_path / "pairs"
    infer(tmp_path / "aligned", pairs, output_format="dicom", dicomweb_url=orthanc)

    client = require_client()(orthanc)
    study = pydicom.dcmread(pairs / "images/pair_00000.dcm").StudyInstanceUID
    back = {str(d.SOPInstanceUID): d for d in client.retrieve_study(study)}
    assert len(back) == 8
    for kind in ("images", "labels"):
        for path in (pairs / kind).iterdir():
            written = pydicom.dcmread(path)
            dataset = back[str(written.SOPInstanceUID)]
            dataset.save_as(tmp_path / "back.dcm", enforce_file_format=True)
            np.testing.assert_array_equal(dataset.pixel_array, written.pixel_array)
            assert dataset.SyntheticData == "YES"
            if kind == "images":
                ours, theirs = (sitk.ReadImage(f) for f in (path, tmp_path / "back.dcm"))
                places = [
                    [i.TransformIndexToPhysicalPoint(c) for c in CORNERS] for i in (ours, theirs)
                ]
                affine = np.diag([-1, -1, 1, 1]) @ load(path).affine.numpy()
                places.append([(affine @ [*c, 1])[:3] for c in CORNERS])
            else:
                volumes = [
                    highdicom.seg.segread(f).get_volume(combine_segments=True)
                    for f in (path, tmp_path / "back.dcm")
                ]
                indices = np.array(CORNERS)[:, ::-1]
                places = [v.map_indices_to_reference(indices) for v in volumes]
                image = sitk.ReadImage(pairs / "images" / path.name)
                places.append([image.TransformIndexToPhysicalPoint(c) for c in CORNERS])
            for other in places[1:]:
                np.testing.assert_allclose(other, places[0], atol=1e-4)


VOLUME_CORNERS = [(i, j, k) for i in (0, 23) for j in (0, 19) for k in (0, 3)]


def test_volumes_go_through_a_server_as_series(
    orthanc, dicom_source, dicom_models, infer, run_config, tmp_path
):
    root, pairs = dicom_source[0], tmp_path / "pairs"
    options = {"dataset_dir": str(root), "num_pairs": None, "whole_volumes": True, "seed": 5}
    infer(dicom_models, pairs, output_format="dicom", dicomweb_url=orthanc, **options)
    first = pydicom.dcmread(pairs / "images/pair_00000/000001.dcm")
    options = {
        "source": f"{orthanc}/studies/{first.StudyInstanceUID}",
        "output_dir": str(tmp_path / "collected"),
    }
    run_config("collect", "infer", "collect", options)
    back = {}
    for path in (tmp_path / "collected/images").iterdir():
        uid = pydicom.dcmread(sorted(path.iterdir())[0]).SeriesInstanceUID
        back[uid] = path
    assert len(back) == 3  # a series for each volume, and not for each slice
    for number in range(3):
        written = pairs / f"images/pair_{number:05d}"
        slices = [pydicom.dcmread(path) for path in sorted(written.iterdir())]
        assert len(slices) == 4 and len({s.SeriesInstanceUID for s in slices}) == 1
        returned = back[slices[0].SeriesInstanceUID]
        mask_path = pairs / f"labels/pair_{number:05d}.dcm"
        mask_back = tmp_path / f"collected/masks/{returned.name}.dcm"
        images = [load(p) for p in (root / f"images/case{number + 1}", written, returned)]
        masks = [load(p, True, i) for p, i in zip((mask_path, mask_back), images[1:], strict=True)]
        np.testing.assert_array_equal(images[1], images[2])
        np.testing.assert_array_equal(masks[0], masks[1])
        assert masks[0].any(dim=(0, 1, 2)).tolist() == [False, True, True, True]
        # the grid of the mask's own series, as SimpleITK and highdicom have it from the server
        affine = np.diag([-1, -1, 1, 1]) @ images[0].affine.numpy()
        places = np.array([(affine @ [*c, 1])[:3] for c in VOLUME_CORNERS])
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(returned)))
        image = reader.Execute()
        found = [image.TransformIndexToPhysicalPoint(c) for c in VOLUME_CORNERS]
        np.testing.assert_allclose(found, places, atol=1e-4)
        volume = highdicom.seg.segread(mask_back).get_volume(combine_segments=True)
        # highdicom counts slices against the normal of rows and columns
        indices = [(3 - k, j, i) for i, j, k in VOLUME_CORNERS]
        found = volume.map_indices_to_reference(np.array(indices))
        np.testing.assert_allclose(found, places, atol=1e-4)


def test_synthetic_pairs_are_collected_with_their_masks(
    orthanc, dicom_models, infer, run_config, tmp_path
):
    infer(dicom_models, tmp_path / "pairs", output_format="dicom", dicomweb_url=orthanc, seed=3)
    study = pydicom.dcmread(tmp_path / "pairs/images/pair_00000.dcm").StudyInstanceUID
    options = {"source": f"{orthanc}/studies/{study}", "output_dir": str(tmp_path / "out")}
    run_config("collect", "infer", "collect", options)
    assert len(build_datalist(tmp_path / "out")) == 4
    report = json.loads((tmp_path / "out/collection.json").read_text())
    assert (len(report["images"]), report["masks"], report["left_out"]) == (4, 4, {})


def test_a_server_that_is_not_there(dicom_models, infer, run_config, refused, tmp_path):
    nowhere = "http://127.0.0.1:9/dicom-web"
    options = {"source": f"{nowhere}/studies/1.2", "output_dir": str(tmp_path / "out")}
    line = refused(run_config, "collect", "infer", "collect", options)
    assert nowhere in line and "correct the URL" in line
    line = refused(infer, dicom_models, tmp_path / "pairs", dicomweb_url=nowhere)
    assert "dicomweb_url" in line and "output_format" in line
