"""The label environment has the project's versions, but where MONAI Label wants older ones."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"([A-Za-z0-9_.-]+)==([\w.]+)")
# numpymaxflow and pydicom-seg want them below 2 and 4; new decoders want numpy from 2 on
OLDER = {"numpy", "jsonschema", "imagecodecs", "pyjpegls", "pylibjpeg-openjpeg"}


def pins(lines):
    return {m[1].lower(): m[2] for line in lines if (m := PIN.match(line))}


def test_the_label_environment_has_the_versions_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = pins(project["dependencies"] + extras["test"] + extras["dicom"])
    text = (ROOT / "scripts/label_app/requirements.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(PIN.fullmatch(line) for line in lines)
    found = pins(lines)
    needed = pins(project["dependencies"]).keys()
    assert needed <= found.keys(), needed - found.keys()
    differing = {name for name in wanted.keys() & found.keys() if wanted[name] != found[name]}
    assert differing == OLDER
