"""What writers write is clean; what is planted in a header, a name or a path is found."""

import gzip
import json

import itk
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from alignflow.data.spec import SourceSpec
from alignflow.data.writer import write_dicom_pair, write_image, write_label
from alignflow.privacy.deidentification import check_folders, names_of

GRID = {"shape": [8, 6], "affine": np.diag([1.0, 1.0, 2.0, 1.0]).tolist()}
PERSON = "Mustermann^Erika"


def spec(suffix, dtype="uint8"):
    return SourceSpec(
        channels=1,
        labels={"background": 0.0, "lesion": 1.0},
        modality="MR",
        window=(0.0, 255.0),
        image_suffix=suffix,
        label_suffix=".png" if suffix == ".jpg" else suffix,
        image_dtype=dtype,
        label_dtype="uint8",
        geometries=[GRID],
    )


def findings(folder, names=()):
    found = check_folders([folder], names)["findings"]
    return {(f["file"], f["field"]): f["value"] for f in found}


@pytest.fixture
def image():
    return torch.rand(1, 8, 6, generator=torch.Generator().manual_seed(0)) * 255


@pytest.fixture
def written(image, tmp_path):
    """A pair in every format that is written."""
    label = (image > 128).long()
    for suffix in (".png", ".jpg", ".tif", ".bmp", ".nii.gz", ".nrrd", ".mha"):
        stem = suffix.replace(".", "")
        write_image(image, tmp_path / f"out/{stem}/images/pair_00000", spec(suffix), GRID)
        write_label(label, tmp_path / f"out/{stem}/labels/pair_00000", spec(suffix), GRID)
    return tmp_path / "out"


@pytest.fixture
def dicom(image, tmp_path):
    pytest.importorskip("highdicom")
    folders = (tmp_path / "dcm/images", tmp_path / "dcm/labels")
    write_dicom_pair(image, (image > 128).long(), folders, spec(".dcm"), GRID, "run", 0)
    return tmp_path / "dcm"


def test_files_as_written_are_clean(written):
    found = check_folders([written], ["case_of_mueller", str(written)])
    assert found["findings"] == []
    assert found["files"] == {"picture": 9 - 1, "nifti": 2, "nrrd or metaimage": 4}


def test_dicom_as_written_is_clean(dicom):
    assert check_folders([dicom], ["case_of_mueller"]) == {"files": {"dicom": 2}, "findings": []}


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientName", PERSON),
        ("PatientID", "0815"),
        ("PatientBirthDate", "19640812"),
        ("PatientSex", "F"),
        ("PatientWeight", "70"),
        ("PatientAge", "059Y"),
        ("InstitutionName", "Charite"),
        ("StudyDate", "20260101"),
        ("SeriesDescription", "Synthetic image 0 of E. Mustermann"),
        ("StudyInstanceUID", "1.2.276.0.7230010.3.1"),
        ("ImageComments", "see letter"),
    ],
)
def test_each_attribute_of_a_person_is_found(dicom, keyword, value):
    path = dicom / "images/pair_00000.dcm"
    dataset = pydicom.dcmread(path)
    setattr(dataset, keyword, value)
    dataset.save_as(path)
    assert findings(dicom) == {("images/pair_00000.dcm", keyword): value}


def test_what_lies_deep_private_or_is_not_marked_is_found(dicom):
    path = dicom / "labels/pair_00000.dcm"
    dataset = pydicom.dcmread(path)
    alias = pydicom.Dataset()
    alias.PatientID = "0815"
    dataset.OtherPatientIDsSequence = [alias]
    dataset.private_block(0x0011, "vendor", create=True).add_new(1, "LO", "secret")
    del dataset.SyntheticData
    dataset.save_as(path)
    fields = {field for _, field in findings(dicom)}
    assert {"PatientID", "SyntheticData", "(0011,1001)"} <= fields


def test_text_in_headers_is_found(written):
    png, info = written / "png/images/pair_00000.png", PngInfo()
    info.add_text("Comment", "from ward 7", zip=True)
    Image.open(png).save(png, pnginfo=info)
    jpg, exif = written / "jpg/images/pair_00000.jpg", Image.Exif()
    exif[270] = "from ward 8"
    Image.open(jpg).save(jpg, exif=exif)
    nifti = written / "niigz/images/pair_00000.nii.gz"
    volume = nib.load(nifti)
    volume = nib.Nifti1Image(np.asarray(volume.dataobj), volume.affine, volume.header)
    volume.header["descrip"] = b"from ward 9"
    nib.save(volume, nifti)
    nrrd = written / "nrrd/images/pair_00000.nrrd"
    picture = itk.imread(str(nrrd))
    picture["ward"] = "from ward 10"
    itk.imwrite(picture, str(nrrd))
    assert findings(written) == {
        ("png/images/pair_00000.png", "text 'Comment'"): "from ward 7",
        ("jpg/images/pair_00000.jpg", "EXIF 270"): "from ward 8",
        ("niigz/images/pair_00000.nii.gz", "descrip"): "from ward 9",
        ("nrrd/images/pair_00000.nrrd", "ward"): "from ward 10",
    }


def test_names_of_inputs_are_found_in_any_file(tmp_path):
    source, out = tmp_path / "clinic/source", tmp_path / "out"
    (source / "images").mkdir(parents=True)
    out.mkdir()
    for name in ("mueller_01", "0001", "123456789", "pair_00000"):
        (source / f"images/{name}.nii.gz").touch()
    (source / "dataset.json").touch()  # every data set's name for its list, ours too
    names = names_of([str(source), None])
    assert names == {str(source), "mueller_01"}  # the others stand in files by chance
    (out / "provenance.json").write_text(json.dumps({"dataset_dir": str(source)}))
    (out / "weights.bin").write_bytes(b"\0\1mueller_01\2")
    (out / "umlaut.bin").write_bytes(b"\0" + "müller_01".encode() + b"\1")
    (out / "list.gz").write_bytes(gzip.compress(b"from mueller_01.nii.gz"))
    (out / "mueller_01.txt").touch()
    (out / "fine.txt").write_text("mueller_012 and amueller_01")
    assert findings(out, names | {"müller_01"}) == {
        ("umlaut.bin", "content"): "müller_01",
        ("provenance.json", "content"): str(source),
        ("weights.bin", "content"): "mueller_01",
        ("list.gz", "content"): "mueller_01",
        ("mueller_01.txt", "file name"): "mueller_01",
    }
    assert check_folders([out], names, [out])["files"] == {}


def test_persons_of_dicom_inputs_are_names(tmp_path, dicom):
    path = dicom / "images/pair_00000.dcm"
    dataset = pydicom.dcmread(path)
    dataset.PatientName, dataset.StudyInstanceUID = PERSON, "1.2.276.0.7230010.3.1"
    dataset.save_as(path)
    assert {PERSON, "1.2.276.0.7230010.3.1"} <= names_of([dicom])


def test_a_damaged_file_is_a_finding(tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    assert ("cut.png", "unreadable") in findings(tmp_path)
