"""Saves the weights that later stages load."""

from __future__ import annotations

from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import nn

from alignflow.alignment.parameters import plain_state
from alignflow.files import save_tensors


class SaveWeights:
    """Handler: writes a module's state dict when training is complete.

    Low-rank updates are merged into the weights.

    Args:
        module: module with the weights, usually a sampler with the averaged network.
        path: path of the file; written under a temporary name, then renamed.
    """

    def __init__(self, module: nn.Module, path: str) -> None:
        self.module = module
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        """Register at COMPLETED."""
        engine.add_event_handler(Events.COMPLETED, self)

    @idist.one_rank_only(with_barrier=True)
    def __call__(self, engine: Engine) -> None:
        """Write the file; all processes wait for it."""
        state = {name: value.cpu() for name, value in plain_state(self.module).items()}
        save_tensors(state, self.path)
