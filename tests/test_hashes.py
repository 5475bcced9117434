"""A packed bundle against its list: what tools of others say, and every way to tamper with it."""

import os
import shutil
import subprocess
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignflow.errors import InputError
from alignflow.hashes import SUMS, is_inside, sums_of, verify

FILES = {
    "configs/train.json": b"{}\n",
    "alignflow/__init__.py": b"",
    "alignflow/data/case.py": b"x = 1\n",
    "models/model.pt": bytes(range(256)),
    "docs/README.md": b"# Card\n",
}


@pytest.fixture
def packed(tmp_path):
    """A folder with the files and their list."""
    root = tmp_path / "packed"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / SUMS).write_bytes(sums_of(FILES))
    return root


def zipped(path, names):
    """A zip with these names, of which those of `FILES` have their content."""
    listed = FILES | {SUMS: sums_of(FILES)}
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, listed.get(name.removeprefix("top/"), b"print('ran')"))
    return path


def test_sha256sum_takes_the_list(packed):
    if shutil.which("sha256sum") is None:
        pytest.skip("no coreutils here")
    subprocess.run(["sha256sum", "-c", "--strict", SUMS], cwd=packed, check=True)
    (packed / "configs/train.json").write_bytes(b"{ }\n")
    assert subprocess.run(["sha256sum", "-c", SUMS], cwd=packed).returncode == 1


def test_an_untouched_bundle_passes(packed):
    assert verify(packed) == len(FILES)


def change(root):
    (root / "configs/train.json").write_bytes(b'{"seed": "$1"}')


def change_the_package(root):
    (root / "alignflow/data/case.py").write_bytes(b"x = 2\n")


def remove(root):
    (root / "alignflow/data/case.py").unlink()


def add_a_config(root):
    (root / "configs/other.json").write_text("{}")


def link_a_folder(root):
    os.symlink(root / "docs", root / "alignflow/more")


CODE = [
    (change, "'configs/train.json' is changed"),
    (change_the_package, "'alignflow/data/case.py' is changed"),
    (remove, "'alignflow/data/case.py' is missing"),
    (add_a_config, "'configs/other.json' is not listed"),
    (link_a_folder, "'alignflow/more' is a link"),
]


@pytest.mark.parametrize(("tamper", "message"), CODE)
def test_what_a_run_would_execute(packed, tamper, message):
    tamper(packed)
    with pytest.raises(InputError, match=message) as caught:
        verify(packed)
    assert "\n" not in str(caught.value)


def test_what_has_no_list_is_no_packed_bundle(packed):
    (packed / SUMS).unlink()
    with pytest.raises(InputError, match=f"no {SUMS}, so it is not a packed bundle"):
        verify(packed)


def test_what_is_made_by_runs_is_fine_and_what_could_run_is_not(packed):
    for name in ("output/images/pair_00000.png", "models/checkpoints/image_checkpoint_1.pt"):
        (packed / name).parent.mkdir(parents=True)
        (packed / name).write_bytes(b"")
    (packed / "alignflow/__pycache__").mkdir()
    (packed / "alignflow/__pycache__/x.pyc").write_bytes(b"")
    (packed / "models/model.pt").write_bytes(b"trained again")
    with pytest.raises(InputError, match="'models/model.pt' is changed"):
        verify(packed)
    (packed / "models/model.pt").write_bytes(FILES["models/model.pt"])
    with pytest.raises(InputError, match=r"x.pyc' is not listed .*; remove it"):
        verify(packed)
    shutil.rmtree(packed / "alignflow/__pycache__")
    verify(packed)
    (packed / "SHA256SUMS.asc").write_bytes(b"")  # a signature by another tool
    verify(packed)
    (packed / "torch.py").write_text("print('ran')")  # found before the real one
    with pytest.raises(InputError, match="'torch.py' is not listed"):
        verify(packed)


def test_a_zip_is_read_where_it_lies(tmp_path):
    names = [f"top/{name}" for name in (*FILES, SUMS)]
    before = sorted(tmp_path.iterdir())
    assert verify(zipped(tmp_path / "good.zip", names)) == len(FILES)
    assert sorted(tmp_path.iterdir()) == [*before, tmp_path / "good.zip"]
    for extra, problem in [
        ("top/../../evil.py", "outside the folder"),
        ("/top/evil.py", "outside the folder"),
        ("top/a\\..\\evil.py", "outside the folder"),
        ("other/evil.py", "outside of top/"),
        ("top/evil.py", "not listed"),
        ("top/docs/README.md", "duplicated"),
    ]:
        with pytest.warns() if problem == "duplicated" else open(os.devnull):
            path = zipped(tmp_path / "bad.zip", [*names, extra])
        with pytest.raises(InputError, match=problem):
            verify(path)
    with pytest.raises(InputError, match="'alignflow/__init__.py' is missing"):
        verify(zipped(tmp_path / "bad.zip", [n for n in names if "__init__" not in n]))
    with pytest.raises(InputError, match="neither a folder nor a zip"):
        verify(tmp_path / "nowhere.zip")


@pytest.mark.parametrize("line", ["", "x", "0" * 64 + "  ../out", "0" * 64 + " one space"])
def test_a_damaged_list(packed, line):
    with open(packed / SUMS, "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match=f"{SUMS} has the line"):
        verify(packed)


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b c", "/", "C:", "\\", "\0", "\n"])))
def test_names_that_are_inside_stay_inside(parts):
    name = "/".join(parts)
    plain = bool(parts) and set(parts) <= {"a", "b c"}
    assert is_inside(name) == plain
    if plain:
        assert os.path.normpath(f"/top/{name}") == f"/top/{name}"
