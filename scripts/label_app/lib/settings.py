"""What a workflow is run with, and which of it a client may change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).resolve().parents[3] / "bundle/configs"
PACKAGE = Path(__file__).resolve().parents[2]

ALIGN = {"epochs": 6, "steps_per_epoch": 50, "batch_size": 8}
ALIGN |= {"num_masks": 96, "num_samples": 64}
SEGMENT = {"epochs": 15, "steps_per_epoch": 100, "batch_size": 16, "learning_rate": 1e-3}
SEGMENT |= {"synthetic_share": 0.5, "num_pairs": 200}
WITNESS = {"num_masks": 64, "num_samples": 64}


def chosen(request: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The defaults, with those that the request has; its other keys are MONAI Label's own."""
    return {key: request.get(key, value) for key, value in defaults.items()}


def environment() -> dict[str, str]:
    """Of a workflow's process: this checkout's package."""
    path = os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
    return dict(os.environ) | {"PYTHONPATH": path.rstrip(os.pathsep), "PYTHONUNBUFFERED": "1"}
