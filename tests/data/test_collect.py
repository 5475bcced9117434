"""Exports of a hospital, sorted."""

import csv
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from alignflow.data.collect import collect
from alignflow.data.datalist import dataset_json
from alignflow.data.formats import load
from alignflow.errors import InputError

VOLUME = np.random.default_rng(0).integers(-500, 900, (6, 5, 4)).astype(np.int16)
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DICOMDIR = Path(get_testdata_file("MR_small.dcm", download=False)).parent / "dicomdirtests/DICOMDIR"


def report(folder):
    return json.loads((folder / "collection.json").read_text())


def test_a_mixed_folder(tmp_path, write_series):
    export, out = tmp_path / "export", tmp_path / "out"
    first = write_series(export / "a", VOLUME)
    write_series(export / "a", VOLUME[..., :3] // 2)  # beside the other, in one folder
    write_series(export / "b/c", VOLUME[..., :1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(export / "b", VOLUME[..., :1], SOPClassUID=CAPTURE)
    write_series(export / "b", VOLUME[..., :1], modality="PR")
    (export / "copy").write_bytes(first[0].read_bytes())  # no suffix, as on a medium
    (export / "readme.txt").write_text("hello")
    collect(str(export), str(out))
    found = sorted((load(path) for path in (out / "images").iterdir()), key=lambda i: i.shape[3])
    np.testing.assert_array_equal(found[0][0], VOLUME[..., :3] // 2)
    np.testing.assert_array_equal(found[1][0], VOLUME)
    assert report(out)["left_out"] == {
        "copies of an image": 1,
        "files that are not DICOM": 1,
        "localizers": 1,
        "objects without image": 1,
        "secondary captures": 1,
    }


def test_orientations_of_one_series_come_apart(tmp_path, write_series):
    export, out = tmp_path / "export", tmp_path / "out"
    write_series(export, VOLUME, series_uid="1.2.3.4")
    turned = np.eye(3)[:, [1, 2, 0]]
    write_series(export / "b", VOLUME[..., :3], series_uid="1.2.3.4", direction=turned)
    collect(str(export), str(out))
    assert sorted(load(path).shape[3] for path in (out / "images").iterdir()) == [3, 4]


def test_rounding_of_directions_does_not_part_a_series(tmp_path, write_series):
    export, out = tmp_path / "export", tmp_path / "out"
    for k, path in enumerate(write_series(export, VOLUME, direction=np.eye(3))):
        header = pydicom.dcmread(path)
        header.ImageOrientationPatient = [1, [0.000499, 0.000501][k % 2], 0, 0, 1, 0]
        header.save_as(path)
    collect(str(export), str(out))
    np.testing.assert_array_equal(load(out / "images/series_001")[0], VOLUME)


def test_irregular_series(tmp_path, write_series):
    export = tmp_path / "export"
    write_series(export / "a", VOLUME)[1].unlink()
    write_series(export / "b", VOLUME)
    with pytest.raises(
        InputError, match='slices are missing.*"resample" or "leave_out" or "slices"'
    ):
        collect(str(export), str(tmp_path / "refused"))
    assert not (tmp_path / "refused").exists()
    collect(str(export), str(tmp_path / "left"), "leave_out")
    assert len(list((tmp_path / "left/images").iterdir())) == 1
    ((reason, count),) = report(tmp_path / "left")["left_out"].items()
    assert "slices are missing" in reason and count == 3
    collect(str(export), str(tmp_path / "slices"), "slices")
    shapes = sorted(load(path).shape[3] for path in (tmp_path / "slices/images").iterdir())
    assert shapes == [1, 1, 1, 4]


def test_a_gap_is_resampled_and_told(tmp_path, write_series, caplog):
    ramp = (100 * np.arange(7) + np.arange(6)[:, None, None] * np.ones((6, 5, 1))).astype(np.int16)
    files = write_series(tmp_path / "export", ramp, modality="CT")
    files[2].unlink()
    files[3].unlink()
    with caplog.at_level("INFO"):
        collect(str(tmp_path / "export"), str(tmp_path / "out"), "resample")
    image = load(tmp_path / "out/images/series_001.nii.gz")
    np.testing.assert_array_equal(image[0], ramp)  # linear, so what was missing comes back
    whole = tmp_path / "whole"
    write_series(whole, ramp)
    np.testing.assert_allclose(image.affine, load(whole).affine, atol=1e-4)
    assert image.meta["native_dtype"] == "int16"
    facts = {
        "from_slices": 5,
        "from_steps_mm": [2.5, 7.5],
        "to_slices": 7,
        "to_step_mm": 2.5,
    }
    assert f"'series_001': resampled, {json.dumps(facts)}" in caplog.text
    expected = {"modality": "CT", "files": 5, "resampled": facts}
    assert report(tmp_path / "out")["images"] == {"series_001": expected}
    assert [path.name for path in (tmp_path / "out/images").iterdir()] == ["series_001.nii.gz"]
    assert dataset_json(tmp_path / "out") == {"modality": "CT"}


def test_irregular_frames(tmp_path, write_enhanced):
    export = tmp_path / "export"
    export.mkdir()
    ramp = np.repeat(np.array([0, 100, 200, 400], np.int16)[None, None], 6, 0).repeat(5, 1)
    write_enhanced(export / "gap.dcm", ramp, [2, 0, 3, 1], [0, 2.5, 5, 10])
    with pytest.raises(InputError, match='slices are 2.5 to 5 mm apart.*set "irregular"'):
        collect(str(export), str(tmp_path / "refused"))
    collect(str(export), str(tmp_path / "out"), "resample")
    (path,) = (tmp_path / "out/images").iterdir()
    image = load(path)
    np.testing.assert_array_equal(image[0, 0, 0], 100 * np.arange(5))
    assert path.name == "series_001.nii.gz"
    write_enhanced(export / "whole.dcm", ramp, [2, 0, 3, 1], [0, 2.5, 5, 7.5])
    collect(str(export), str(tmp_path / "slices"), "slices")
    (path,) = (tmp_path / "slices/images").iterdir()
    np.testing.assert_array_equal(load(path)[0], ramp)
    (reason,) = report(tmp_path / "slices")["left_out"]
    assert reason.startswith("images of an irregular series: slices are 2.5 to 5 mm apart")


def test_pixels_that_cannot_be_read(tmp_path, write_series):
    files = write_series(tmp_path / "export", VOLUME)
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:-40])
    with pytest.raises(InputError, match='cannot be read .*"leave_out" or'):
        collect(str(tmp_path / "export"), str(tmp_path / "out"), "resample")


def test_a_tilted_gantry_is_resampled(tmp_path, write_series):
    tilted = np.eye(3)
    tilted[:, 2] = [0, 0.36, 1]  # 0.9 mm, a pixel, for each slice of 2.5 mm
    write_series(tmp_path / "export", VOLUME, direction=tilted)
    collect(str(tmp_path / "export"), str(tmp_path / "out"), "resample")
    image = load(tmp_path / "out/images/series_001.nii.gz")
    expected = np.full((6, 8, 4), VOLUME.min())
    for k in range(4):
        expected[:, k : k + 5, k] = VOLUME[..., k]
    np.testing.assert_array_equal(image[0], expected)
    assert report(tmp_path / "out")["images"]["series_001"]["resampled"]["tilt_degrees"] == 19.8


def test_repetitions_are_dropped_and_different_slices_at_one_place_refused(tmp_path, write_series):
    export = tmp_path / "export"
    files = write_series(export, VOLUME)
    again = pydicom.dcmread(files[1])
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    again.save_as(export / "again.dcm")
    collect(str(export), str(tmp_path / "out"))
    assert len(list((tmp_path / "out/images/series_001").iterdir())) == 4
    assert report(tmp_path / "out")["left_out"] == {"slices that repeat another": 1}
    np.testing.assert_array_equal(load(tmp_path / "out/images/series_001")[0], VOLUME)
    again.PixelData = again.PixelData[::-1]
    again.save_as(export / "again.dcm")
    for irregular in ("refuse", "resample"):
        with pytest.raises(InputError, match="different slices at one place, '.*' and '.*'; keep"):
            collect(str(export), str(tmp_path / "no"), irregular)
    assert not (tmp_path / "no").exists()


def test_stacks_of_other_pixel_size_come_apart(tmp_path, write_series):
    export, out = tmp_path / "export", tmp_path / "out"
    write_series(export, VOLUME, series_uid="1.2.3.4")
    write_series(export / "b", VOLUME[..., :3], series_uid="1.2.3.4", spacing=(0.5, 0.5, 2.5))
    collect(str(export), str(out))
    assert sorted(load(path).shape[3] for path in (out / "images").iterdir()) == [3, 4]


def test_secondary_captures_alone_are_images(tmp_path, write_series):
    write_series(tmp_path / "export", VOLUME[..., :1], SOPClassUID=CAPTURE)
    collect(str(tmp_path / "export"), str(tmp_path / "out"))
    assert len(report(tmp_path / "out")["images"]) == 1


def test_dicomdir(tmp_path):
    collect(str(DICOMDIR), str(tmp_path / "out"), "slices")
    listed = [
        r for r in pydicom.dcmread(DICOMDIR).DirectoryRecordSequence if "ReferencedFileID" in r
    ]
    images = report(tmp_path / "out")["images"]
    left = sum(report(tmp_path / "out")["left_out"].values())
    assert sum(entry["files"] for entry in images.values()) + left == len(listed) == 31


def test_bad_sources(tmp_path, write_series):
    for source in (None, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="not there; give a folder, a DICOMDIR or a URL"):
            collect(source, str(tmp_path / "out"))
    files = write_series(tmp_path / "export", VOLUME, modality="PR")
    with pytest.raises(InputError, match="no DICOM image in it \\(found: 4 objects without image"):
        collect(str(tmp_path / "export"), str(tmp_path / "out"))
    with pytest.raises(InputError, match="no DICOMDIR; give the folder"):
        collect(str(files[0]), str(tmp_path / "out"))
    with pytest.raises(InputError, match="not empty; give a new folder"):
        collect(str(tmp_path / "export"), str(tmp_path))
    with pytest.raises(InputError, match='"irregular": .*refuse, resample, leave_out, slices'):
        collect(str(tmp_path / "export"), str(tmp_path / "out"), "mend")


@pytest.mark.parametrize(
    "names", [["..", "secret.dcm"], ["/", "etc", "x"], ["A", "..", "..", "B"], "../secret.dcm"]
)
def test_a_dicomdir_that_leads_out_of_its_folder(tmp_path, write_series, names):
    [secret] = write_series(tmp_path, VOLUME[..., :1])
    secret.rename(tmp_path / "secret.dcm")
    directory = pydicom.dcmread(DICOMDIR)
    records = [r for r in directory.DirectoryRecordSequence if "ReferencedFileID" in r]
    records[0].ReferencedFileID = names
    (tmp_path / "medium").mkdir()
    directory.save_as(tmp_path / "medium/DICOMDIR")
    with pytest.raises(InputError, match="which is not below its folder; give the folder"):
        collect(str(tmp_path / "medium/DICOMDIR"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_slices_that_share_an_instance_uid_are_kept(tmp_path, write_series):
    for path in write_series(tmp_path / "export", VOLUME):
        header = pydicom.dcmread(path)
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
        header.save_as(path)
    collect(str(tmp_path / "export"), str(tmp_path / "out"))
    np.testing.assert_array_equal(load(tmp_path / "out/images/series_001")[0], VOLUME)
    assert report(tmp_path / "out")["left_out"] == {}


def test_patients_are_numbered_and_not_named(tmp_path, write_series):
    owners = {5: "Smith-B", 6: "Smith-A", 7: "Smith-B"}
    for value, name in owners.items():
        write_series(tmp_path / f"export/{value}", np.full((6, 5, 2), value), PatientID=name)
    collect(str(tmp_path / "export"), str(tmp_path / "out"))
    text = (tmp_path / "out/index.csv").read_text()
    found = {}
    for row in csv.DictReader(text.splitlines()):
        value = int(load(tmp_path / "out/images" / row["stem"]).max())
        found[owners[value]] = {row["patient"]} | found.get(owners[value], set())
    assert found == {"Smith-B": {"patient_001"}, "Smith-A": {"patient_002"}}
    assert "Smith" not in text + (tmp_path / "out/collection.json").read_text()


def test_two_patients_with_one_series_uid_are_two_images(tmp_path, write_series):
    for k, name in enumerate(("A", "B")):
        folder = tmp_path / "export" / name
        write_series(folder, VOLUME + k, series_uid="1.2.3.4", PatientID=name)
    collect(str(tmp_path / "export"), str(tmp_path / "out"))
    found = sorted(int(load(path).min()) for path in (tmp_path / "out/images").iterdir())
    assert found == [VOLUME.min(), VOLUME.min() + 1]


def test_files_of_several_frames_that_share_a_uid_are_all_kept(tmp_path, write_enhanced):
    (tmp_path / "export").mkdir()
    for k in range(2):
        path = tmp_path / f"export/{k}.dcm"
        write_enhanced(path, VOLUME + k, range(4), [0, 2.5, 5, 7.5])
        header = pydicom.dcmread(path)
        header.SOPInstanceUID, header.SeriesInstanceUID = "1.2.3.4.5", "1.2.3.4"
        header.save_as(path)
    collect(str(tmp_path / "export"), str(tmp_path / "out"))
    found = sorted(int(load(path).min()) for path in (tmp_path / "out/images").iterdir())
    assert found == [VOLUME.min(), VOLUME.min() + 1]
