"""Running trainers one after another."""

from __future__ import annotations

from monai.engines import Trainer


def run_in_turn(*trainers: Trainer) -> None:
    """Run each trainer to its end.

    All of them are built before the first one starts (they are arguments), so that a mistake in
    the last one's config shows at once and not after hours.
    """
    for trainer in trainers:
        trainer.run()
