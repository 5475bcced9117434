"""`make demo`: its overrides, its images and its weights fit together."""

import json
from pathlib import Path

from alignflow.adaptation.plan import Folders, Plan
from alignflow.adaptation.readiness import require_arms, require_keys
from alignflow.command_line import parser, settings

BUNDLE = Path(__file__).parents[2] / "bundle"
DEMO = BUNDLE / "demo"


def test_the_demo_compares_with_references_in_the_batch_and_distills_nothing(tmp_path):
    line = ["adapt", "--source", "x", "--references", "x", "--out", "x", "--config"]
    given = parser().parse_args([*line, str(BUNDLE / "configs/demo.json")])
    sections = json.loads((BUNDLE / "configs/adapt.json").read_text()) | settings(given)
    require_keys(sections, BUNDLE / "configs")
    require_arms(sections["arms"], sections["hand_over"])
    folders = Folders(
        configs=BUNDLE / "configs",
        root=tmp_path,
        source=DEMO / "source",
        references=DEMO / "references",
        test=DEMO / "test",
        model_dir=BUNDLE / "models/nuclei",
    )
    names = {job.name for job in Plan(folders, sections, [0], {"test": folders.test}, 0).jobs}
    assert {f"score/{arm}-0-test" for arm in ("source", "in_batch", "adapted")} <= names
    assert "align" in names and "distill" not in names and "train" not in names


def test_no_patient_of_the_demo_is_on_two_sides():
    seen = []
    for part in ("references", "test"):
        cases = json.loads((DEMO / part / "dataset.json").read_text())["training"]
        seen += [{Path(case["image"]).name for case in cases}, {c["group"] for c in cases}]
        assert {path.name for path in (DEMO / part / "images").iterdir()} == seen[-2]
    images, patients, tested, others = seen
    assert images.isdisjoint(tested) and patients.isdisjoint(others)
    assert (len(images), len(tested), len(others)) == (3, 56, 29)
