"""Runs trainers one after another."""

from __future__ import annotations

from monai.engines import Trainer


def run_in_turn(*trainers: Trainer) -> None:
    """Run each trainer to its end.

    Since they are arguments, all trainers are built before the first starts. So a mistake in the
    config of the last is found at once, not after hours.
    """
    for trainer in trainers:
        trainer.run()
