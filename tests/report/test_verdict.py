"""The verdict says no more than its interval does."""

import numpy as np
import pytest

from alignflow.report.arms import Arm
from alignflow.report.report import look
from alignflow.report.verdict import judge


def arm(name, kind, dice, settings="s", groups=None):
    values = np.atleast_2d(np.asarray(dice, dtype=float))
    return Arm(name, kind, settings, values, values, groups)


@pytest.fixture
def base():
    return arm("source", "without", np.linspace(0.3, 0.9, 50))


def test_better_worse_and_unclear(base):
    noise = np.random.default_rng(0).normal(0, 0.02, 50)
    better = judge([base, arm("pairs", "aligned", base.dice + 0.05 + noise)])
    assert better.answer == "better" and better.headline.startswith("Yes")
    assert " 4." in better.headline or " 5." in better.headline
    worse = judge([base, arm("pairs", "aligned", base.dice - 0.05 + noise)])
    assert worse.answer == "worse" and worse.headline.startswith("No")
    unclear = judge([base, arm("pairs", "aligned", base.dice + 10 * noise - 10 * noise.mean())])
    assert unclear.answer == "unclear" and "too little to tell from chance" in unclear.headline
    small = judge([base, arm("pairs", "aligned", base.dice + 0.004)])
    assert small.answer == "unclear" and "0.4 points" in small.headline


def test_without_scores_it_cannot_be_known():
    for arms in (None, []):
        verdict = judge(arms)
        assert verdict.answer == "unknown"
        assert "cannot be known without labelled images of the site" in verdict.sentences[0]


def test_one_side_alone_is_no_comparison(base):
    for alone in (base, arm("pairs", "aligned", base.dice), arm("u", "unaligned", base.dice)):
        assert judge([alone]).answer == "unknown"
    assert judge([base, arm("u", "unaligned", base.dice + 0.2)]).answer == "unknown"


def test_trainings_that_disagree_leave_it_open(base):
    """Each of three trainings gains or loses surely; of them together nothing is sure."""
    moved = base.dice + np.array([[-0.04], [0.02], [0.06]])
    verdict = judge([arm("source", "without", base.dice.repeat(3, 0)), arm("p", "aligned", moved)])
    assert verdict.answer == "unclear"
    assert "over images and trainings" in " ".join(verdict.sentences)


def test_one_patient_alone_gives_no_interval(base):
    one = ["p"] * 50
    arms = [arm("source", "without", base.dice, groups=one)]
    verdict = judge([*arms, arm("p", "aligned", base.dice + 0.1, groups=one)])
    assert verdict.answer == "unknown" and "one patient or sequence" in verdict.headline
    assert "is +10.0 points, no interval" in verdict.sentences[0]
    assert "no interval" in judge(arms).sentences[0]


def test_the_strongest_rival_counts(base):
    """Pairs that beat a weak segmenter and lose to a strong one did not make things better."""
    strong = arm("strong", "without", base.dice + 0.08)
    pairs = arm("pairs", "aligned", base.dice + 0.04)
    assert judge([base, pairs]).answer == "better"
    assert judge([base, strong, pairs]).answer == "worse"


def test_what_the_interval_leaves_out_is_said(base):
    pairs = [arm(f"pairs{k}", "aligned", base.dice + 0.01 * k, settings=str(k)) for k in (1, 2)]
    text = " ".join(judge([base, *pairs]).sentences)
    assert "The best of 2 segmenters with pairs was chosen on these images" in text
    assert "1 with pairs and 1 without" in text and "another training" in text
    unsure = " ".join(judge([base, arm("p", "synthetic", base.dice)]).sentences)
    assert "cannot be checked" in unsure


@pytest.mark.parametrize(
    ("value", "low", "high", "answer"),
    [
        (0.4, 0.3, 0.5, "Yes: "),
        (0.4, -0.1, 0.9, "No change shown: "),
        (0.0, 0.0, 0.0, "No change shown: "),
        (0.04, 0.03, 0.05, "No change shown: "),
        (-0.4, -0.5, -0.3, "No, they look less like it: "),
        (0.4, None, None, "Not known: "),
    ],
)
def test_images_look_more_alike_only_where_the_interval_says_so(value, low, high, answer):
    text = look({"value": value, "low": low, "high": high}, "unseen images")
    assert text.startswith(answer)
