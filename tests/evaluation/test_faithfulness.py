"""The segmenter on a data set it must solve, Dice against counted pixels."""

import numpy as np
import pytest
import torch
from torch import nn

from alignflow.errors import InputError
from alignflow.evaluation.faithfulness import (
    bootstrap_interval,
    dice,
    dice_table,
    image_scores,
    train_segmenter,
)


def bright_discs(count, seed):
    """Noise in two channels, brighter within the disc that the label marks."""
    rng = np.random.default_rng(seed)
    i, j = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    items = []
    for _ in range(count):
        (x, y), r = rng.uniform(10, 22, 2), rng.uniform(5, 9)
        label = torch.as_tensor(np.hypot(i - x, j - y) <= r)[None]
        image = torch.as_tensor(rng.normal(-0.5, 0.1, (2, 32, 32))) + 0.8 * label
        items.append({"image": image.float(), "label": label.to(torch.uint8)})
    return items


def stack(items):
    return [torch.stack([item[key] for item in items]) for key in ("image", "label")]


class Oracle(nn.Module):
    """Logits whose largest is the class that the image's first channel names."""

    def __init__(self, num_classes):
        super().__init__()
        self.classes = nn.Parameter(torch.arange(num_classes).float())

    def forward(self, image):
        return -((image[:, :1] - self.classes[:, None, None]) ** 2)


def test_segmenter_learns_bright_discs():
    settings = {"steps": 80, "batch_size": 8, "learning_rate": 5e-3, "precision": "fp32"}
    segmenter = train_segmenter(bright_discs(24, 0), 2, progress=False, **settings)
    result = dice(segmenter, *stack(bright_discs(12, 1)), 2)
    assert result["mean"] > 0.9
    assert result["mean"] == pytest.approx(result["class1"])
    assert 0 < result["low"] <= result["mean"] <= result["high"] <= 1


def test_segmenter_follows_its_seed():
    settings = {"steps": 2, "batch_size": 4, "precision": "fp32", "progress": False}
    items = bright_discs(8, 0)
    weights = [
        torch.cat([p.flatten() for p in train_segmenter(items, 2, seed=s, **settings).parameters()])
        for s in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


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
    result = dice(Oracle(3), predicted, label, 3)
    assert result["class1"] == pytest.approx((expected[0][0] + 0) / 2)
    assert result["class2"] == pytest.approx(1.0)
    assert result["mean"] == pytest.approx((expected[0][0] + 0.5) / 2)


def test_absent_class_has_no_figure():
    labels = torch.ones(2, 1, 8, 8, dtype=torch.uint8)
    result = dice(Oracle(3), labels.float(), labels, 3)
    assert result == {"mean": 1.0, "low": 1.0, "high": 1.0, "class1": 1.0}


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    sample = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval([sample], np.mean)
    half = 1.96 * sample.std() / 20
    assert (low, high) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.02)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="multiples of 8"):
        train_segmenter([{"image": torch.zeros(1, 12, 16)}], 2)
    with pytest.raises(InputError, match="two or more"):
        image_scores(np.array([[0.5], [np.nan]]))
