"""Alarms ring for what makes a report worthless, and for nothing else."""

import numpy as np
import torch

from alignflow.report.alarms import alarms
from alignflow.report.arms import Arm


def test_alarms():
    noise = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    smooth = torch.nn.functional.avg_pool2d(noise, 9, stride=1, padding=4)
    good, bad = (Arm(n, "aligned", "", np.full((1, 4), v), None) for n, v in (("a", 70), ("b", 2)))
    assert alarms([good], {"rejection_rate": 0.3}, smooth, smooth + 0.05 * noise) == []
    found = alarms([good, bad], {"rejection_rate": 1.0}, noise, smooth)
    assert [text[:18] for text in found] == [
        "The segmenter 'b' ",
        "100% of the masks ",
        "Synthetic images l",
    ]
    assert alarms([], {}, noise, noise) == []
