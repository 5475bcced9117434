"""The model-zoo zip, without weights: what is in it, who can read it, equal bytes."""

import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from monai.apps.utils import extractall
from monai.bundle import load_bundle_config

from alignflow.errors import InputError
from alignflow.hashes import SUMS, verify
from alignflow.packing import pack, requirements

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "pyproject.toml"


def packed(path, **options):
    return pack(path, bundle=ROOT / "bundle", project=PROJECT, **options)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "alignflow.zip"
    packed(path)
    return path


def test_what_is_in_it(archive):
    names = set(zipfile.ZipFile(archive).namelist())
    for folder in ("configs", "docs"):
        for path in (ROOT / "bundle" / folder).glob("*.*"):
            assert f"alignflow/{folder}/{path.name}" in names
    for path in (ROOT / "scripts/alignflow").rglob("*.py"):
        assert f"alignflow/{path.relative_to(ROOT / 'scripts')}" in names
    assert {f"alignflow/{n}" for n in ("LICENSE", "requirements.txt", SUMS)} <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pt")]


def test_monai_reads_and_unpacks_it(archive, tmp_path):
    parser = load_bundle_config(str(archive), "inference.json")
    assert "network_def" in parser
    extractall(archive, tmp_path)
    assert verify(tmp_path / "alignflow") == verify(archive)
    assert (tmp_path / "alignflow/models").is_dir()


def test_equal_contents_give_equal_bytes(archive, tmp_path):
    packed(tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.zip"]


def test_requirements_are_those_of_pyproject():
    pinned = tomllib.loads(PROJECT.read_text())["project"]
    lines = requirements(PROJECT).splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == pinned["dependencies"]
    for extra in ("dicom", "encoder", "eval", "export"):
        assert all(f"# {pin}" in lines for pin in pinned["optional-dependencies"][extra])


def test_metadata_of_a_zip_without_weights_is_that_of_the_bundle(archive):
    content = zipfile.ZipFile(archive).read("alignflow/configs/metadata.json")
    assert json.loads(content) == json.loads((ROOT / "bundle/configs/metadata.json").read_text())


def test_what_cannot_be_packed(tmp_path):
    out = tmp_path / "out.zip"
    for options, words in [
        ({"bundle": tmp_path}, "no LICENSE"),
        ({"project": tmp_path / "none.toml"}, "none.toml': no such file"),
        ({"model_dir": tmp_path}, "no stage1.json"),
    ]:
        with pytest.raises(InputError, match=words):
            pack(out, **{"bundle": ROOT / "bundle", "project": PROJECT} | options)
    assert not list(tmp_path.iterdir())


def test_on_the_command_line(tmp_path, archive):
    def call(*arguments):
        line = [sys.executable, "-m", "alignflow.packing", *arguments]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)

    done = call("pack", "--output", str(tmp_path / "alignflow.zip"))
    assert done.returncode == 0, done.stderr
    assert "NO weights" in done.stdout
    assert (tmp_path / "alignflow.zip").read_bytes() == archive.read_bytes()
    done = call("verify", str(tmp_path / "nowhere"))
    assert done.returncode == 1 and done.stderr.startswith("error: '")
    assert done.stderr.count("\n") == 1
