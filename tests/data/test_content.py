"""Files that are not what their names say, each with its own fix."""

import gzip
import io
import shutil
import tarfile

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from alignflow.data.datalist import build_datalist
from alignflow.data.formats import load
from alignflow.errors import InputError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(4, 3, 2), np.eye(4)), path)
    return path


def test_not_packed(packed, refuse):
    packed.write_bytes(gzip.decompress(packed.read_bytes()))
    refuse(packed, r"a.nii.gz': not packed, though its name ends in .gz; rename it to 'a.nii'$")
    assert load(packed.rename(packed.with_name("a.nii"))).shape == (1, 4, 3, 2)


def test_packed(packed, refuse):
    path = packed.rename(packed.with_name("a.nii"))
    refuse(path, r"a.nii': packed with gzip, .*; rename it to 'a.nii.gz'$")
    refuse(path.rename(path.with_name("a.png")), "a.png': packed with gzip, .*; unpack it$")


def test_archives(packed, refuse):
    content = gzip.decompress(packed.read_bytes())
    for kind, mode in (("tar", "w"), ("tar", "w:gz"), ("bzip2", "w:bz2"), ("xz", "w:xz")):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as archive:
            entry = tarfile.TarInfo("a.nii")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        packed.write_bytes(buffer.getvalue())
        refuse(packed, f"a {kind} archive; unpack it and give the file in it")


def test_packed_twice(packed, refuse):
    packed.write_bytes(gzip.compress(packed.read_bytes()))
    refuse(packed, "packed with gzip twice; unpack it once")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.png", "a.dcm", "a.nrrd"])
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (LFS, "a Git LFS pointer, not the file; get it with `git lfs pull`"),
        (b"/annex/objects/MD5E-s9--0.nii.gz\n", "a git-annex pointer, .* `datalad get`"),
        (b"PK\x03\x04 and more", "a zip archive; unpack it"),
        (b"\n<!DOCTYPE html><html><body>Log in</body></html>", "a web page, not an image"),
    ],
)
def test_stand_ins(tmp_path, name, content, match, refuse):
    (tmp_path / name).write_bytes(content)
    refuse(tmp_path / name, match)


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("../.git/annex/objects/xx", "annex/objects/xx', which is not there; get it with `datalad"),
        ("../old/a.png", "a link to '../old/a.png', which is not there; correct the link"),
    ],
)
def test_links_to_nothing(tmp_path, target, match, refuse):
    (tmp_path / "a.png").symlink_to(target)
    refuse(tmp_path / "a.png", match)


def test_a_mask_is_called_one(tmp_path):
    (tmp_path / "a.png").write_bytes(LFS)
    with pytest.raises(InputError, match="^mask '.*a.png': a Git LFS pointer"):
        load(tmp_path / "a.png", is_mask=True)


@pytest.mark.parametrize("place", ["images/a.png", "masks/a.png", "dataset.json"])
def test_links_to_nothing_are_listed(tmp_path, place):
    """A listed file that is not here yet is told of by its own line, not as a missing file."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / folder / "a.png")
    (tmp_path / "dataset.json").write_text(
        '{"training": [{"image": "images/a.png", "label": "masks/a.png"}]}'
    )
    (tmp_path / place).unlink()
    (tmp_path / place).symlink_to("../.git/annex/objects/xx")
    with pytest.raises(InputError, match=f"{place}': a link to .* `datalad get`"):
        [case] = build_datalist(tmp_path)
        load(case["image"])
        load(case["label"], is_mask=True)


def test_a_slice_that_is_not_here(write_series, tmp_path):
    """Without its line the series would be read without it."""
    files = sorted(write_series(tmp_path / "p0", np.ones((4, 3, 3), np.int16)))
    shutil.move(files[0], tmp_path / "stored")
    files[0].symlink_to("../.git/annex/objects/xx")
    with pytest.raises(InputError, match=f"{files[0].name}': a link to .* `datalad get`"):
        load(tmp_path / "p0")
    files[0].unlink()
    (tmp_path / "p0/slice").write_bytes(LFS)
    with pytest.raises(InputError, match="p0/slice': a Git LFS pointer"):
        load(tmp_path / "p0")
