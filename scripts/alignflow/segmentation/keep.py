"""Chooses the weights of a training to keep."""

from __future__ import annotations

import math
from typing import Any

from ignite.engine import Engine, Events
from torch import Tensor, nn

Score = dict[str, Any]


class KeepWeights:
    """Handler of a validator: keeps a copy of the network's weights and their scores.

    Args:
        network: network in training.
        keep: "last" for the weights of the last validation, "best" for the highest Dice.

    Attributes:
        state: state dict on the CPU.
        scores: "dice" and "iou", each "mean" and a list by class ("classes"), and "epoch".
    """

    def __init__(self, network: nn.Module, keep: str = "last") -> None:
        self.network = network
        self.keep = keep
        self.state: dict[str, Tensor] = {}
        self.scores: Score = {}

    def attach(self, engine: Engine) -> None:
        """Register at COMPLETED, when the metrics are known."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Keep the weights if they are the last or the best so far."""
        dice = engine.state.metrics["dice"]
        best = self.scores["dice"]["mean"] if self.scores else -math.inf
        if self.keep == "best" and self.scores and not dice > best:
            return
        state = self.network.state_dict()
        self.state = {name: value.detach().cpu().clone() for name, value in state.items()}
        self.scores = {name: _score(engine, name) for name in ("dice", "iou")}
        self.scores["epoch"] = engine.state.epoch


def _score(engine: Engine, name: str) -> Score:
    state: Any = engine.state
    details: Tensor = state.metric_details[name]
    classes = details.nanmean(dim=0).tolist()
    mean = state.metrics[name]
    return {"mean": _finite(mean), "classes": [_finite(value) for value in classes]}


def _finite(value: float) -> float:
    """-1 if no image has the class: JSON cannot represent NaN."""
    return -1.0 if math.isnan(value) else float(value)
