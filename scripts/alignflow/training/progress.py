"""A progress bar for the whole run."""

from __future__ import annotations

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines import Workflow
from tqdm import tqdm


class Progress:
    """Handler: shows steps, time left, and the last training and validation loss.

    Args:
        name: name of the bar.
        validator: engine; its "loss" is shown as "held out".
        every: steps between two updates of the bar.
    """

    def __init__(self, name: str, validator: Workflow | None = None, every: int = 10) -> None:
        self.name = name
        self.validator = validator
        self.every = every
        self.bar: tqdm | None = None

    def attach(self, engine: Workflow) -> None:
        """Register on the trainer; attach it after `ExactResume`."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.move)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.report)
        engine.add_event_handler(Events.COMPLETED, self.stop)

    @idist.one_rank_only()
    def start(self, engine: Workflow) -> None:
        """Open the bar at the current step."""
        total = engine.state.max_epochs * engine.state.epoch_length
        self.bar = tqdm(total=total, initial=engine.state.iteration, desc=self.name, unit="step")

    def move(self, engine: Workflow) -> None:
        """Advance."""
        if self.bar is not None:
            self.bar.update(engine.state.iteration - self.bar.n)

    def report(self, engine: Workflow) -> None:
        """Show the losses."""
        if self.bar is None:
            return
        self.move(engine)
        shown = {"loss": f"{engine.state.metrics['loss']:.4f}"}
        held_out = self.validator.state.metrics.get("loss") if self.validator is not None else None
        if held_out is not None:
            shown["held out"] = f"{held_out:.4f}"
        self.bar.set_postfix(shown)

    def stop(self, engine: Workflow) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.move(engine)
            self.bar.close()
