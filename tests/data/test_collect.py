"""Exports of a hospital, sorted."""

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from alignflow.data.collect import collect
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


def test_irregular_series(tmp_path, write_series):
    export = tmp_path / "export"
    write_series(export / "a", VOLUME)[1].unlink()
    write_series(export / "b", VOLUME)
    with pytest.raises(InputError, match='slices are missing.*"leave_out" or "slices"'):
        collect(str(export), str(tmp_path / "refused"))
    assert not (tmp_path / "refused").exists()
    collect(str(export), str(tmp_path / "left"), "leave_out")
    assert len(list((tmp_path / "left/images").iterdir())) == 1
    ((reason, count),) = report(tmp_path / "left")["left_out"].items()
    assert "slices are missing" in reason and count == 3
    collect(str(export), str(tmp_path / "slices"), "slices")
    shapes = sorted(load(path).shape[3] for path in (tmp_path / "slices/images").iterdir())
    assert shapes == [1, 1, 1, 4]


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
    with pytest.raises(InputError, match='"irregular": .*refuse, leave_out, slices'):
        collect(str(tmp_path / "export"), str(tmp_path / "out"), "resample")


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
