"""Three sentences that claim no more than the scores show."""

import json
import re

import numpy as np
import pytest

from alignflow.adaptation.verdict import judge

ARMS = ["source", "adapted"]


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
    record = {"before": {"left_out": 1.0}, "kept": {"left_out": 0.4}, "left_out": 3}
    (tmp_path / "aligned/align.json").write_text(json.dumps(record))
    return build


def dice(gain, images=60, trainings=2, noise=0.05, arms=ARMS):
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.8, images)
    return {
        arm: base + step + rng.normal(0, noise, (trainings, images))
        for arm, step in zip(arms, gain, strict=True)
    }


def verdict(root, test=None, hand_over="adapted", arms=ARMS, seeds=(0, 1), **options):
    """The verdict, whose text must be three sentences and whose figures must be JSON."""
    found = judge(root, arms, seeds, hand_over, test, **options)
    assert len(found["text"]) == 3
    for sentence in found["text"]:
        assert re.findall(r"[.!?](?=\s|$)", sentence) == ["."] and sentence.endswith(".")
    json.dumps(found, allow_nan=False)
    return found


def test_a_sure_gain(adapted, tmp_path):
    adapted("validation", dice((0, -0.1)))
    found = verdict(adapted("test", dice((0, 0.1))), tmp_path)
    gain = found["site"]["gains"]["adapted - source"]
    assert found["answer"] == "better" and 5 < gain["low"] < gain["value"] < gain["high"] < 15
    first, second, third = found["text"]
    shown = f"{gain['value']:+.1f} points (95% interval {gain['low']:+.1f} to {gain['high']:+.1f})"
    assert first.startswith("Yes, the adapted segmenter is better") and shown in first
    assert all(f"{found['site']['dice'][arm]:.1f}" in first for arm in ARMS)
    assert found["handed_over"] == "adapted" and "Dice on these images is the highest" in second
    assert "60 labelled images and 2 trainings of each segmenter" in third
    assert "source's own validation images changed by -" in third


def test_a_sure_loss_hands_over_the_other_segmenter(adapted, tmp_path):
    found = verdict(adapted("test", dice((0.1, 0))), tmp_path)
    assert found["answer"] == "worse" and found["handed_over"] == "source"
    assert found["text"][0].startswith("No, the adapted segmenter is worse")
    assert "holds the source segmenter" in found["text"][1]


def test_an_interval_that_holds_0_is_no_answer(adapted, tmp_path):
    root = adapted("test", dice((0, 0.005), noise=0.2, images=20, trainings=1))
    found = verdict(root, tmp_path, seeds=[0])
    gain = found["site"]["gains"]["adapted - source"]
    assert found["answer"] == "unclear" and gain["low"] < 0 < gain["high"]
    first, second, third = found["text"]
    assert first.startswith("The adapted segmenter is not shown to be better or worse")
    assert "this may be chance" in second and "one training of each" in third
    expected = int(np.ceil((2.8 * gain["spread"] / 2) ** 2))
    assert found["images_needed"] == expected and f"About {expected} independent" in third
    assert "this comparison had 20 labelled images" in third


def test_a_difference_too_small_to_name_is_no_answer(adapted, tmp_path):
    found = verdict(adapted("test", dice((0, 0.004), noise=0.001)), tmp_path)
    assert found["site"]["gains"]["adapted - source"]["low"] > 0
    assert found["answer"] == "unclear" and "Yes" not in found["text"][0]


def test_without_labels_nothing_is_claimed(adapted):
    root = adapted("validation", dice((0, 0.1)))
    found = verdict(root)
    assert found["answer"] == "unknown" and not found["labelled"] and found["site"] is None
    first, second, third = found["text"]
    assert "cannot be known without labelled images" in first
    assert "3 unseen references was 1.00 before alignment and 0.40 after" in first
    assert "validation images changed by +9.3 points (95% interval" in first
    assert found["handed_over"] == "adapted" and "hand_over names it" in second
    assert f"About {found['images_needed']} " in third and "--test DIR" in third
    assert verdict(root, hand_over="source")["handed_over"] == "source"


def test_annotated_references_stand_in_for_labelled_images(adapted):
    adapted("folds/0", {"source": [[0.5, 0.6]], "adapted": [[0.7, 0.9]]})
    root = adapted("folds/1", {"source": [[0.4]], "adapted": [[0.6]]})
    found = verdict(root, folds=2, seeds=(0,))
    gain = found["site"]["gains"]["adapted - source"]
    assert gain["value"] == pytest.approx(100 * (0.2 + 0.3 + 0.2) / 3)
    assert found["answer"] == "better" and found["handed_over"] == "adapted"
    assert "3 annotated references, each left out of the training" in found["text"][0]


def test_without_any_scores_the_spread_is_that_of_the_benchmark(adapted):
    found = verdict(adapted("nowhere", {}))
    assert found["validation"] is None and found["spread"] == 15
    assert found["images_needed"] == 441 and "of 15 points" in found["text"][2]


@pytest.mark.parametrize("labelled", [True, False])
def test_where_there_is_no_gap_the_source_segmenter_is_handed_over(adapted, tmp_path, labelled):
    adapted("validation", {"source": [[0.9, 0.8]] * 2})
    root = adapted("test", {"source": [[0.7, 0.8, np.nan]] * 2})
    (root / "gap.json").write_text(json.dumps({"gap": 0.12, "floor": 0.15, "adapt": False}))
    found = verdict(root, tmp_path if labelled else None)
    assert found["answer"] == "no_gap" and found["handed_over"] == "source"
    first, second, third = found["text"]
    assert first.startswith("Nothing was adapted") and "(distance 0.12, by chance 0.15)" in first
    assert ("75.0 on 2 labelled images" in first) == labelled
    assert ("cannot be known" in first) != labelled and ("--test" in third) != labelled
    assert "nothing was adapted" in second


@pytest.mark.parametrize("labelled", [True, False])
def test_where_nothing_was_found_the_verdict_asks_for_masks(adapted, tmp_path, labelled):
    adapted("validation", {"source": [[0.9, 0.8]] * 2})
    root = adapted("test", {"source": [[0.7, 0.8, np.nan]] * 2})
    gap = {"gap": 2.0, "floor": 0.15, "adapt": False, "reason": "no structure"}
    (root / "gap.json").write_text(json.dumps(gap))
    found = verdict(root, tmp_path if labelled else None)
    assert found["answer"] == "nothing_found" and found["handed_over"] == "source"
    first, second, third = found["text"]
    assert "no structure was found in any reference" in first and "told apart" not in first
    assert "nothing was adapted" in second and third.startswith("Annotate some references")


def test_a_gap_changes_nothing(adapted, tmp_path):
    root = adapted("test", dice((0, 0.1)))
    (root / "gap.json").write_text(json.dumps({"gap": 2.0, "floor": 0.15, "adapt": True}))
    assert verdict(root, tmp_path)["answer"] == "better"


@pytest.mark.parametrize("labelled", [True, False])
def test_a_trial_is_called_one_and_answers_nothing(adapted, tmp_path, labelled):
    root = adapted("test", dice((0, 0.1)))
    found = verdict(root, tmp_path if labelled else None, trial=True)
    assert found["trial"] and found["answer"] == "unknown" and found["images_needed"] is None
    assert found["text"][0].startswith("Trial run, not a result: whether the adapted segmenter")
    assert found["text"][2] == "For a result, run the same command without --quick."
    assert not verdict(root, tmp_path)["trial"]


def test_a_baseline_may_win(adapted, tmp_path):
    arms = ["source", "other", "adapted"]
    root = adapted("test", dice((0, 0.2, 0.1), arms=arms))
    found = verdict(root, tmp_path, arms=arms)
    assert found["answer"] == "better" and found["handed_over"] == "other"
    assert "the segmenter 'other'" in found["text"][1]


def test_images_of_one_patient_count_together(adapted, tmp_path):
    root = adapted("test", {a: r.repeat(10, axis=1) for a, r in dice((0, 0.02), images=6).items()})
    site = tmp_path / "site"
    for folder in ("images", "masks"):
        (site / folder).mkdir(parents=True)
        for k in range(60):
            (site / folder / f"{k:03d}.png").write_bytes(b"x")

    def judged(patients):
        """Gain with its interval, and the text, where the images are of so many patients."""
        cases = [
            {"image": f"images/{k:03d}.png", "label": f"masks/{k:03d}.png", "group": f"p{number}"}
            for k, number in enumerate(np.arange(60) * patients // 60)
        ]
        (site / "dataset.json").write_text(json.dumps({"training": cases}))
        found = verdict(root, site)
        return found["site"]["gains"]["adapted - source"], found["text"], found["answer"]

    alone, grouped = judged(60)[0], judged(6)[0]
    assert (alone["groups"], grouped["groups"]) == (60, 6)
    assert grouped["high"] - grouped["low"] > 1.5 * (alone["high"] - alone["low"])
    assert "60 labelled images of 6 patients or sequences" in judged(6)[1][0]
    _, text, answer = judged(1)
    assert answer == "unknown" and "too few images or patients for an interval" in text[0]


def test_images_without_foreground_do_not_count(adapted, tmp_path):
    scores = dice((0, 0.1))
    for rows in scores.values():
        rows[:, :5] = np.nan
    found = verdict(adapted("test", scores), tmp_path)
    assert found["site"]["gains"]["adapted - source"]["images"] == found["site"]["images"] == 55
