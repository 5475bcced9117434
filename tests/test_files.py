import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignflow.files import replacing, save_tensors, sha256


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
