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
    return arm("source", "without", np.linspace(30, 90, 50))


def test_better_worse_and_unclear(base):
    noise = np.random.default_rng(0).normal(0, 2, 50)

    def judged(gain):
        found = judge([base, arm("pairs", "aligned", base.dice + gain)])
        return found["answer"], found["text"][0]

    answer, first = judged(5 - noise.mean() + noise)
    assert answer == "better" and first.startswith(
        "Yes, the segmenter 'pairs' (with aligned pairs)"
    )
    assert "Dice is 65.0 against 60.0 for the segmenter 'source' (real pairs alone)" in first
    assert "on 50 labelled images, a difference of +5.0 points (95% interval +4." in first
    answer, first = judged(-5 + noise)
    assert answer == "worse" and first.startswith("No, ")
    answer, first = judged(10 * noise - 10 * noise.mean())
    assert answer == "unclear" and "not shown to be better or worse" in first
    answer, first = judged(0.4)
    assert answer == "unclear" and "+0.4 points" in first


def test_one_side_alone_is_no_comparison(base):
    pairs, unaligned = arm("p", "aligned", base.dice), arm("u", "unaligned", base.dice + 20)
    for arms in (None, [], [base], [pairs], [unaligned], [base, unaligned]):
        verdict = judge(arms)
        assert verdict["answer"] == "unknown"
        assert "cannot be known without labelled images of the site" in verdict["text"][1]


def test_trainings_that_disagree_leave_it_open(base):
    """Each of three trainings gains or loses surely; of them together nothing is sure."""
    moved = base.dice + np.array([[-4], [2], [6]])
    verdict = judge([arm("source", "without", base.dice.repeat(3, 0)), arm("p", "aligned", moved)])
    assert verdict["answer"] == "unclear"
    assert "had 50 labelled images and 3 trainings of each segmenter" in verdict["text"][1]
    one = judge([base, arm("p", "aligned", moved + 10)])["text"][1]
    assert "the means of 3 and 1 trainings" in one


def test_one_patient_alone_gives_no_interval(base):
    one = ["p"] * 50
    arms = [arm("source", "without", base.dice, groups=one)]
    verdict = judge([*arms, arm("p", "aligned", base.dice + 10, groups=one)])
    assert verdict["answer"] == "unknown"
    assert "+10.0 points (too few images or patients for an interval)" in verdict["text"][0]


def test_the_strongest_rival_counts(base):
    """Pairs that beat a weak segmenter and lose to a strong one did not make things better."""
    strong = arm("strong", "without", base.dice + 8)
    pairs = arm("pairs", "aligned", base.dice + 4)
    assert judge([base, pairs])["answer"] == "better"
    assert judge([base, strong, pairs])["answer"] == "worse"


def test_what_the_interval_leaves_out_is_said(base):
    pairs = [arm(f"pairs{k}", "aligned", base.dice + k, settings=str(k)) for k in (1, 2)]
    text = " ".join(judge([base, *pairs])["text"])
    assert "The best of 2 segmenters with pairs was chosen on these images" in text
    assert "one training of each segmenter" in text and "another draw of references" in text
    unsure = " ".join(judge([base, arm("p", "synthetic", base.dice)])["text"])
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
