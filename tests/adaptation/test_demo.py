"""`make demo`: its overrides, its images and its weights fit together."""

import json
from pathlib import Path

from alignflow.adaptation.plan import Folders, Plan
from alignflow.adaptation.readiness import require_arms, require_keys
from alignflow.command_line import parser, settings

BUNDLE = Path(__file__).parents[2] / "bundle"
DEMO = BUNDLE / "demo"


def test_the_demo_compares_cheap_ways_and_distills_nothing(tmp_path):
    line = ["adapt", "--source", "x", "--references", "x", "--out", "x", "--config"]
    given = parser().parse_args([*line, str(BUNDLE / "configs/demo.json")])
    sections = json.loads((BUNDLE / "configs/adapt.json").read_text()) | settings(given)
    require_keys(sections, BUNDLE / "configs")
    require_arms(sections["arms"], sections["hand_over"])
    site, models = DEMO / "site", BUNDLE / "models/nuclei"
    folders = Folders(
        BUNDLE / "configs", tmp_path, DEMO / "source", site / "references", site / "test", models
    )
    plan = Plan(folders, sections, [0], {"test": site / "test"}, sections["rounds"])
    names = {job.name for job in plan.jobs}
    arms = ("source", "histogram", "fourier", "convolution", "adapted")
    assert {f"score/{arm}-0-test" for arm in arms} <= names
    assert "align" in names and "distill" not in names and "train" not in names


def test_no_image_of_the_demo_is_on_two_sides():
    """No patient is in the references and in the test images, or in the source and at the site."""
    listed = {
        part: json.loads((DEMO / part / "dataset.json").read_text())["training"]
        for part in ("source", "site/test")
    }
    groups = {part: {case["group"] for case in cases} for part, cases in listed.items()}
    assert groups["source"].isdisjoint(groups["site/test"])
    shown = {path.name for path in (DEMO / "site/references/images").iterdir()}
    tested = {Path(case["image"]).name for case in listed["site/test"]}
    assert shown.isdisjoint(tested) and len(groups["site/test"]) == len(tested) == 60
