import json

import numpy as np
import pytest

from alignflow.adaptation.verdict import judge

ARMS = ["source", "augmented", "adapted"]
INTERVAL = {"value": 0.5, "low": 0.4, "high": 0.6, "floor": {"value": 0.0}}


@pytest.fixture
def adapted(tmp_path):
    """`adapted(where, {arm: (trainings, images)})`: a folder with those scores."""

    def build(where, dice):
        for arm, rows in dice.items():
            for seed, row in enumerate(rows):
                path = tmp_path / f"scores/{where}/{arm}-{seed}/scores.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                images = {
                    f"{k:03d}.png": {"dice": {"polyp": None if np.isnan(v) else v}}
                    for k, v in enumerate(row)
                }
                path.write_text(json.dumps({"images": images}))
        return tmp_path

    (tmp_path / "aligned").mkdir()
    record = {
        "kept_epoch": 3,
        "before": {"left_out": 1.0},
        "kept": {"left_out": 0.4},
        "left_out": 3,
        "appearance": {"gap": 2.0, "floor": 0.1},
    }
    (tmp_path / "aligned/align.json").write_text(json.dumps(record))
    (tmp_path / "evaluation").mkdir()
    record = {
        "unseen": False,
        "encoder": {"name": "random"},
        "metrics": {"kid": {"unaligned": INTERVAL, "aligned": INTERVAL | {"value": 0.3}}},
        "fall": {"kid": {"value": 0.4}},
        "faithfulness": {"dice": {"unaligned": {"mean": 0.8}, "aligned": {"mean": 0.7}}},
    }
    (tmp_path / "evaluation/evaluation.json").write_text(json.dumps(record))
    return build


def dice(gain, images=60, trainings=2, seed=0, noise=0.05):
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.3, 0.8, images)
    return {
        arm: base + step + rng.normal(0, noise, (trainings, images))
        for arm, step in zip(ARMS, gain, strict=True)
    }


def test_small_distances_keep_their_digits_and_a_random_encoder_is_called_so(adapted, tmp_path):
    root = adapted("test", dice((0, 0.02, 0.1)))
    path = tmp_path / "evaluation/evaluation.json"
    record = json.loads(path.read_text())
    record["metrics"]["kid"]["aligned"] |= {"value": 0.000486}
    path.write_text(json.dumps(record))
    said = text(judge(root, ARMS, [0, 1], "augmented", tmp_path))
    assert "aligned 0.000486 (" in said and "of random weights" in said
    record["encoder"]["name"] = "imagenet"
    path.write_text(json.dumps(record))
    assert "random" not in text(judge(root, ARMS, [0, 1], "augmented", tmp_path))


def text(found):
    return " ".join(found["text"])


def test_a_sure_gain(adapted, tmp_path):
    root = adapted("test", dice((0, 0.02, 0.1)))
    found = judge(root, ARMS, [0, 1], "augmented", tmp_path)
    assert found["text"][0].startswith("Yes") and found["answer"] == "better"
    gain = found["site"]["gains"]["adapted - source"]
    assert 8 < gain["low"] < gain["value"] < gain["high"] < 12
    assert found["handed_over"] == "adapted" and "aligned pairs help" in text(found)
    assert "2 trainings of each" in text(found)


def test_a_sure_loss_hands_over_the_better_one_and_says_so(adapted, tmp_path):
    root = adapted("test", dice((0.05, 0.1, 0)))
    found = judge(root, ARMS, [0, 1], "adapted", tmp_path)
    assert found["text"][0].startswith("No:") and found["answer"] == "worse"
    assert found["handed_over"] == "augmented" and "aligned pairs harm" in text(found)
    assert "strong augmentation alone; it is handed over" in text(found)


def test_what_cannot_be_told_apart(adapted, tmp_path):
    root = adapted("test", dice((0, 0, 0), noise=0.2, images=20, trainings=1))
    found = judge(root, ARMS, [0], "augmented", tmp_path)
    assert found["text"][0].startswith("Not shown") and found["answer"] == "unclear"
    assert "another seed may move this" in text(found)
    gain = found["site"]["gains"]["adapted - source"]
    assert gain["low"] < 0 < gain["high"]
    spread = gain["spread"]
    expected = int(np.ceil((2.8 * spread / 2) ** 2))
    assert found["images_needed"]["2"] == expected and f"{expected} images for 2" in text(found)


def test_without_labels_nothing_is_claimed(adapted):
    root = adapted("validation", dice((0, 0, 0.1)))
    found = judge(root, ARMS, [0, 1], "augmented", None)
    assert found["text"][0].startswith("Unknown") and not found["labelled"]
    assert found["site"] is None and found["handed_over"] == "augmented"
    assert found["answer"] == "unknown"
    assert "--test" in text(found) and "images for 2 points" in text(found)
    assert "Yes" not in text(found)
    assert "1.00 before, 0.40 after" in text(found) and "unaligned 0.500" in text(found)
    assert found["spread_measured"] and 0 < found["spread"] < 10


def test_without_any_scores_the_spread_is_that_of_the_benchmark(adapted):
    found = judge(adapted("nowhere", {}), ARMS, [0], "adapted", None)
    assert not found["spread_measured"] and found["validation"] is None
    assert found["images_needed"] == {"2": 441, "5": 71}
    assert found["handed_over"] == "adapted"


def test_images_of_one_patient_count_together(adapted, tmp_path):
    scores = {arm: rows.repeat(10, axis=1) for arm, rows in dice((0, 0, 0.02), images=6).items()}
    root = adapted("test", scores)
    site = tmp_path / "site"
    for folder in ("images", "masks"):
        (site / folder).mkdir(parents=True)
        for k in range(60):
            (site / folder / f"{k:03d}.png").write_bytes(b"x")
    alone = judge(root, ARMS, [0, 1], "adapted", site)["site"]["gains"]["adapted - source"]
    cases = [
        {"image": f"images/{k:03d}.png", "label": f"masks/{k:03d}.png", "group": f"p{k // 10}"}
        for k in range(60)
    ]
    (site / "dataset.json").write_text(json.dumps({"training": cases}))
    grouped = judge(root, ARMS, [0, 1], "adapted", site)["site"]["gains"]["adapted - source"]
    assert (alone["groups"], grouped["groups"]) == (60, 6)
    assert grouped["high"] - grouped["low"] > 1.5 * (alone["high"] - alone["low"])


def test_images_without_foreground_do_not_count(adapted, tmp_path):
    scores = dice((0, 0, 0.1))
    for rows in scores.values():
        rows[:, :5] = np.nan
    found = judge(adapted("test", scores), ARMS, [0, 1], "adapted", tmp_path)
    assert found["site"]["gains"]["adapted - source"]["images"] == 55
    json.dumps(found, allow_nan=False)
