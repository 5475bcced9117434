"""What is stated in two places must agree: versions, licences, metadata."""

import json
import logging.config
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

import alignflow
from alignflow.packing import describe
from alignflow.stage1 import Stage1

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
METADATA = json.loads((ROOT / "bundle/configs/metadata.json").read_text())


def pins(requirements):
    return dict(requirement.split("==") for requirement in requirements)


def test_every_requirement_is_pinned_exactly():
    extras = PROJECT["optional-dependencies"].values()
    for requirement in [*PROJECT["dependencies"], *sum(extras, [])]:
        assert re.fullmatch(r"[\w.-]+==[\w.]+", requirement)


def test_metadata_states_the_pinned_versions():
    pinned = pins(PROJECT["dependencies"])
    assert METADATA["monai_version"] == pinned["monai"]
    assert METADATA["pytorch_version"] == pinned["torch"]
    assert METADATA["numpy_version"] == pinned["numpy"]
    required = METADATA["required_packages_version"]
    assert required == {name: pinned[name] for name in required}


def test_metadata_version_is_the_package_version_and_in_the_changelog():
    assert METADATA["version"] == alignflow.__version__
    assert METADATA["version"] in METADATA["changelog"]
    assert f"## {alignflow.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_metadata_describes_the_shipped_weights():
    stage1 = Stage1.load(str(ROOT / "bundle/models/nuclei"))
    for key in ("network_data_format", "image_classes", "label_classes", "pred_classes"):
        assert describe(METADATA, stage1)[key] == METADATA[key]


def test_versions_stand_in_pyproject_alone():
    for name in ("Makefile", "environment.yml"):
        text = (ROOT / name).read_text()
        assert not re.search(r"==\d", text), f"{name} pins a version of its own"


def test_conda_creates_the_versions_of_pyproject():
    """Conda gives Python and pip alone; pip installs this project, and so its pins."""
    python, pip, installed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert pip == "pip"
    name, _, wanted = python.partition("=")
    assert name == "python" and wanted in SpecifierSet(PROJECT["requires-python"])
    [line] = installed["pip"]
    project, extras = re.fullmatch(r"-e (\.)\[([\w,]+)\]", line).groups()
    assert (ROOT / "environment.yml").parent / project == ROOT
    optional = PROJECT["optional-dependencies"]
    created = [*PROJECT["dependencies"], *(p for e in extras.split(",") for p in optional[e])]
    assert len(pins(created)) == len(set(created))  # no two versions of one package
    assert f'-e ".[{extras}]"' in (ROOT / "Makefile").read_text()  # what `make` installs


@pytest.mark.parametrize(
    ("card", "sections"),
    [
        ("README.md", "Training data,Metrics,Intended use,Out of scope,Limits,Licence,References"),
        ("data_card.md", "Source,Weights,Limits,The demo's synthetic pairs"),
    ],
)
def test_cards_have_their_sections(card, sections):
    headings = re.findall("^## (.+)$", (ROOT / "bundle/docs" / card).read_text(), re.MULTILINE)
    for section in sections.split(","):
        assert any(heading.startswith(section) for heading in headings), section


def test_the_data_card_answers_all_criteria_of_the_smd_card():
    text = (ROOT / "bundle/docs/data_card.md").read_text()
    rows = re.findall(r"^\| (Co\w+) \| ([^|]+\?) \| ([^|]{20,}) \|$", text, re.MULTILINE)
    assert len(rows) == 7


def test_licences():
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence and licence == (ROOT / "bundle/LICENSE").read_text()
    for part in ("source", "references", "test"):
        assert (
            json.loads((ROOT / f"bundle/demo/{part}/dataset.json").read_text())["licence"]
            == "CC0-1.0"
        )


@pytest.fixture
def restored_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours = logging.getLogger("alignflow")
    ours.handlers.clear()
    ours.propagate = True
    ours.setLevel(logging.NOTSET)


def test_logging_is_quiet_for_others_and_open_for_ours(restored_logging):
    logging.config.fileConfig(ROOT / "bundle/configs/logging.conf", disable_existing_loggers=False)
    assert not logging.getLogger("ignite").isEnabledFor(logging.INFO)
    assert logging.getLogger("alignflow.training").isEnabledFor(logging.INFO)
