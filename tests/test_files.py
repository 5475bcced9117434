import hashlib
import resource

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignflow.data.spec import SourceSpec
from alignflow.data.writer import write_dicom_pair, write_image
from alignflow.errors import InputError
from alignflow.files import load_tensors, replacing, save_tensors, sha256, storage_error
from alignflow.pictures import save_sheet


def test_creates_folders_and_keeps_suffixes(tmp_path):
    path = tmp_path / "a/b/case.nii.gz"
    with replacing(str(path)) as temporary:
        assert temporary.name.endswith("case.nii.gz") and temporary.parent == path.parent
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_replaces_what_was_there(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_block_that_writes_nothing_fails(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "x.txt"):
        pass
    assert not list(tmp_path.iterdir())


@given(st.binary(max_size=1000))
@settings(deadline=None)
def test_sha256(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "content"
    path.write_bytes(content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()


def test_equal_tensors_have_equal_files_in_every_process(tmp_path, monkeypatch):
    content = {"weight": torch.arange(4.0), "steps": 3}
    save_tensors(content, tmp_path / "here.pt")
    monkeypatch.setattr("os.getpid", lambda: 123456)
    save_tensors(content, tmp_path / "there.pt")
    assert sha256(tmp_path / "here.pt") == sha256(tmp_path / "there.pt")
    read = torch.load(tmp_path / "there.pt", weights_only=True)
    assert torch.equal(read["weight"], content["weight"]) and read["steps"] == 3
    again = load_tensors(tmp_path / "there.pt")
    assert torch.equal(again["weight"], content["weight"]) and again["steps"] == 3


def test_a_changed_bit_is_noticed_wherever_it_matters(tmp_path):
    path = tmp_path / "weights.pt"
    content = {"a": torch.randn(40), "b": torch.arange(7)}
    save_tensors(content, path)
    whole = path.read_bytes()
    noticed = 0
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            read = load_tensors(path)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            noticed += 1
        else:  # padding, dates, names that nobody reads
            assert all(torch.equal(read[name], content[name]) for name in content)
    assert noticed > 200


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_tensors_cut_off(tmp_path, length):
    path = tmp_path / "weights.pt"
    save_tensors({"a": torch.randn(40)}, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match="weights.pt': damaged"):
        load_tensors(path)


def spec(suffix):
    return SourceSpec(
        channels=1,
        labels={"background": 0.0, "disc": 255.0},
        modality="MR",
        window=(0.0, 255.0),
        image_suffix=suffix,
        label_suffix=suffix,
        image_dtype="uint8",
        label_dtype="uint8",
        geometries=[],
    )


def noise():
    return np.random.default_rng(0).uniform(0, 255, (1, 320, 320)).astype(np.float32)


def write_picture(suffix, folder):
    geometry = {"shape": [320, 320], "affine": np.eye(4).tolist()}
    if suffix == ".dcm":
        index = np.zeros((320, 320), dtype=np.uint8)
        index[9:30, 9:30] = 1
        pair = (folder / "images", folder / "labels")
        return write_dicom_pair(noise(), index, pair, spec(suffix), geometry, "run", 0)[0]
    return write_image(noise(), folder / "image", spec(suffix), geometry)


def write_tensors(folder):
    save_tensors(torch.zeros(100_000), folder / "a/tensors.pt")
    return folder / "a/tensors.pt"


def write_sheet(folder):
    tiles = np.repeat(noise()[0].astype(np.uint8)[None, ..., None], 3, axis=-1)
    save_sheet(folder / "sheet.png", [tiles], columns=1, y_up=False)
    return folder / "sheet.png"


WRITERS = {
    suffix: (lambda folder, suffix=suffix: write_picture(suffix, folder))
    for suffix in (".png", ".jpg", ".nii", ".nii.gz", ".nrrd", ".mha", ".dcm")
} | {"tensors": write_tensors, "sheet": write_sheet}


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_nothing_half_written(kind, small_disk):
    if kind == ".dcm":
        pytest.importorskip("highdicom")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(2**18 - 2**14))
    with pytest.raises(InputError) as caught:
        WRITERS[kind](small_disk / "out")
    line = str(caught.value)
    assert str(small_disk / "out") in line and " disk" in line and "free space" in line
    assert "MiB free" in line and "\n" not in line
    assert files(small_disk) == [filler]


@pytest.mark.parametrize("kind", WRITERS)
def test_files_that_may_not_grow(kind, in_child, tmp_path):
    if kind == ".dcm":
        pytest.importorskip("highdicom")
    with pytest.raises(InputError, match="out.*ulimit -f.*free space"):
        in_child(lambda: WRITERS[kind](tmp_path / "out"), (resource.RLIMIT_FSIZE, 2**13))
    assert files(tmp_path) == []
    assert WRITERS[kind](tmp_path / "out").is_file()


def test_folders_that_cannot_be_written(tmp_path, read_only):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="file/out': cannot be written .*another folder"),
        replacing(tmp_path / "file/out/a.json"),
    ):
        pass
    (tmp_path / "out").mkdir()
    read_only(tmp_path / "out")
    with pytest.raises(InputError, match="cannot be written .Read-only file system"):
        write_tensors(tmp_path / "out")


def test_other_errors_are_none_of_storage(tmp_path):
    others = (ValueError("no"), FileNotFoundError(2, "no", "x"), PermissionError(13, "no", "/x"))
    for error in others:
        assert storage_error(error, tmp_path) is None
    wrapped = RuntimeError("database or disk is full")
    assert "disk is full" in str(storage_error(wrapped, tmp_path / "not/there"))
