import numpy as np
import pytest

from alignflow.evaluation.paired import images_needed, paired_gain, sureness


def scores(seed, size, trainings=1):
    rng = np.random.default_rng(seed)
    other = rng.normal(60, 20, (trainings, size))
    return other + 2 + rng.normal(0, 10, (trainings, size)), other


def test_interval_is_that_of_the_normal_approximation():
    ours, other = scores(0, 400)
    gain = paired_gain(ours, other)
    difference = (ours - other)[0]
    half = 1.96 * difference.std(ddof=1) / 20
    assert gain["value"] == pytest.approx(difference.mean())
    assert gain["low"] == pytest.approx(difference.mean() - half, abs=0.12 * half)
    assert gain["high"] == pytest.approx(difference.mean() + half, abs=0.12 * half)
    assert gain["spread"] == pytest.approx(difference.std(ddof=1))
    assert (gain["images"], gain["groups"], gain["trainings"]) == (400, 400, 1)


def test_a_gain_of_every_image_is_sure_and_swapping_sides_turns_it_round():
    ours, other = np.full((1, 5), 71.0), np.full((1, 5), 70.0)
    assert paired_gain(ours, other)["low"] == paired_gain(ours, other)["high"] == 1
    assert paired_gain(ours, other)["above_0"] == 1
    assert paired_gain(other, ours)["value"] == -1 and paired_gain(other, ours)["above_0"] == 0


def test_images_repeated_within_groups_count_once():
    ours, other = scores(1, 60)
    alone = paired_gain(ours, other)
    repeated = paired_gain(
        ours.repeat(10, axis=1), other.repeat(10, axis=1), [str(k // 10) for k in range(600)]
    )
    width = alone["high"] - alone["low"]
    assert repeated["high"] - repeated["low"] == pytest.approx(width, rel=0.1)
    assert repeated["groups"] == 60 and repeated["images"] == 600
    ungrouped = paired_gain(ours.repeat(10, axis=1), other.repeat(10, axis=1))
    assert ungrouped["high"] - ungrouped["low"] < width / 2


def test_trainings_that_disagree_widen_the_interval():
    ours, other = scores(2, 200, trainings=3)
    moved = ours + np.array([[-5.0], [0.0], [5.0]])
    one, two = paired_gain(ours, other), paired_gain(moved, other)
    assert two["value"] == pytest.approx(one["value"])
    assert two["high"] - two["low"] > 2 * (one["high"] - one["low"])


def test_images_without_a_score_are_left_out():
    ours, other = scores(3, 50)
    gap = other.copy()
    gap[0, :10] = np.nan
    assert paired_gain(ours, gap)["images"] == 40
    assert paired_gain(ours, gap)["value"] == pytest.approx((ours - other)[:, 10:].mean())


def test_one_image_has_no_interval():
    gain = paired_gain(np.array([[50.0]]), np.array([[40.0]]))
    assert gain["value"] == 10 and gain["low"] is gain["high"] is gain["spread"] is None


def test_the_number_of_images_shows_the_gain_four_times_in_five():
    size = images_needed(3.0, 15.0)
    rng = np.random.default_rng(0)
    studies = rng.normal(3, 15, (4000, size))
    low = studies.mean(axis=1) - 1.96 * studies.std(axis=1, ddof=1) / np.sqrt(size)
    assert (low > 0).mean() == pytest.approx(0.8, abs=0.03)
    assert images_needed(1.5, 15.0) == pytest.approx(4 * size, abs=4)


@pytest.mark.parametrize(
    ("value", "low", "high", "answer"),
    [
        (3, 1, 5, "better"),
        (-3, -5, -1, "worse"),
        (3, -1, 7, "unclear"),
        (3, 0, 6, "unclear"),
        (0.4, 0.3, 0.5, "unclear"),
        (0, 0, 0, "unclear"),
        (3, None, None, "unknown"),
    ],
)
def test_an_answer_needs_an_interval_without_0_and_a_difference_that_matters(
    value, low, high, answer
):
    assert sureness({"value": value, "low": low, "high": high}, 0.5) == answer
