"""Dice against counted pixels, and its interval."""

import numpy as np
import pytest
import torch
from torch import nn

from alignflow.errors import InputError
from alignflow.evaluation.faithfulness import (
    bootstrap_interval,
    dice_table,
    image_scores,
    summary,
)


class Oracle(nn.Module):
    """Logits whose largest is the class that the image's first channel names."""

    def __init__(self, num_classes):
        super().__init__()
        self.classes = nn.Parameter(torch.arange(num_classes).float())

    def forward(self, image):
        return -((image[:, :1] - self.classes[:, None, None]) ** 2)


def test_dice_is_that_of_counted_pixels():
    predicted, label = torch.zeros(3, 1, 8, 8), torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    label[0, 0, :4] = 1  # 32 pixels, 16 of them found, 8 found elsewhere
    predicted[0, 0, 2:5] = 1
    label[1, 0, 0, :2], label[1, 0, 7] = 1, 2  # 2 pixels, none found; 8, all found
    predicted[1, 0, 7] = 2
    predicted[2] = 1  # foreground where there is none: the image does not count
    expected = [[2 * 16 / (32 + 24), np.nan], [0.0, 1.0], [np.nan, np.nan]]
    table = dice_table(Oracle(3), predicted, label, 3)
    assert np.allclose(table, expected, equal_nan=True)
    result = summary(table)
    assert result["class1"] == pytest.approx((expected[0][0] + 0) / 2)
    assert result["class2"] == pytest.approx(1.0)
    assert result["mean"] == pytest.approx((expected[0][0] + 0.5) / 2)


def test_absent_class_has_no_figure():
    labels = torch.ones(2, 1, 8, 8, dtype=torch.uint8)
    result = summary(dice_table(Oracle(3), labels.float(), labels, 3))
    assert result == {"mean": 1.0, "low": 1.0, "high": 1.0, "class1": 1.0}


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    sample = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval([sample], np.mean)
    half = 1.96 * sample.std() / 20
    assert (low, high) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.02)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="two or more"):
        image_scores(np.array([[0.5], [np.nan]]))
