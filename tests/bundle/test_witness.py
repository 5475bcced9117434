"""`run witness`: a score for every image of a site."""

import json
import math

import numpy as np
import pytest

FEW = {
    "device": "cpu",
    "num_masks": 4,
    "num_samples": 4,
    "views": 2,
    "solver_steps": 2,
    "mask_steps": 2,
    "masks::max_attempts": 2,
}


@pytest.fixture
def score(run_config, three_class_models, tmp_path):
    """`score(site)`: the scores that `run witness` writes."""

    def call(site, name="out"):
        folders = {"model_dir": str(three_class_models), "reference_dir": str(site)}
        folders["output_dir"] = str(tmp_path / name)
        run_config("align", "train", "witness", FEW | folders)
        return json.loads((tmp_path / name / "witness.json").read_text())

    return call


def test_every_image_of_the_site_has_a_score(score, three_class_dataset):
    scores = score(three_class_dataset)
    names = {path.name for path in (three_class_dataset / "images").iterdir()}
    assert scores.keys() == names and all(map(math.isfinite, scores.values()))
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    again = score(three_class_dataset, "again")
    np.testing.assert_allclose([again[name] for name in scores], list(scores.values()), atol=1e-5)
