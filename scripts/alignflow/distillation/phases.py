"""Phases of progressive distillation, each with fewer solver steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ignite.engine import Engine, Events

from alignflow.distillation.update import DistillUpdate
from alignflow.errors import InputError
from alignflow.flow.ema import EMA
from alignflow.flow.sampler import FlowSampler
from alignflow.training.weights import SaveWeights


class Phases:
    """Students with fewer and fewer steps, each initialised with the previous student.

    Args:
        steps: solver steps of each student, decreasing, such as [4, 2, 1].
        epochs: epochs of each phase.

    Raises:
        InputError: lists of unequal length, or steps that do not decrease.
    """

    def __init__(self, steps: Sequence[int], epochs: Sequence[int]) -> None:
        if len(steps) != len(epochs) or not steps or min(*steps, *epochs) < 1:
            raise InputError(
                f"students: steps {list(steps)} and epochs {list(epochs)}; give two lists of equal "
                "length, whole numbers of at least 1"
            )
        if list(steps) != sorted(set(steps), reverse=True):
            raise InputError(
                f"students: steps {list(steps)} do not decrease; give them as [4, 2, 1]"
            )
        self.steps = list(steps)
        self.epochs = list(epochs)

    @property
    def total(self) -> int:
        """Epochs of all phases."""
        return sum(self.epochs)

    def phase(self, epoch: int) -> tuple[int, int, int]:
        """(steps, first epoch, last epoch) of the phase with this epoch, counted from 1."""
        first = 1
        for steps, length in zip(self.steps, self.epochs, strict=True):
            if epoch < first + length:
                return steps, first, first + length - 1
            first += length
        raise ValueError(f"epoch {epoch} of {self.total}")

    def rate(self, steps_per_epoch: int) -> Callable[[int], float]:
        """Learning rate factor by iteration: a half cosine from 1 to 0 in each phase.

        For `torch.optim.lr_scheduler.LambdaLR`.
        """

        def factor(iteration: int) -> float:
            epoch = min(iteration // steps_per_epoch + 1, self.total)
            _, first, last = self.phase(epoch)
            done = iteration - (first - 1) * steps_per_epoch
            share = min(done / ((last - first + 1) * steps_per_epoch), 1.0)
            return 0.5 * (1 + math.cos(math.pi * share))

        return factor


class Students:
    """Handler: sets the student's steps at each epoch, and saves its weights after each phase.

    Args:
        phases: phases of the training.
        update: gets the number of steps, and the start of each phase.
        ema: average of the trained network.
        path: beginning of the weights' path: `PATH_4.pt` for the student with four steps.
    """

    def __init__(self, phases: Phases, update: DistillUpdate, ema: EMA, path: str) -> None:
        self.phases = phases
        self.update = update
        self.ema = ema
        self.path = path

    def attach(self, engine: Engine) -> None:
        """Register at the start and end of each epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.end)

    def begin(self, engine: Engine) -> None:
        """Set the number of steps for the epoch."""
        self.update.steps, first, _ = self.phases.phase(engine.state.epoch)
        if engine.state.epoch == first:
            self.update.begin(self.update.steps)

    def end(self, engine: Engine) -> None:
        """Save the student at the end of its phase, as samplers load it."""
        steps, _, last = self.phases.phase(engine.state.epoch)
        if engine.state.epoch == last:
            SaveWeights(FlowSampler(self.ema.module, steps=steps), f"{self.path}_{steps}.pt")(
                engine
            )
