"""Progressive distillation: how many solver steps the student has, epoch by epoch."""

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
    """Students of ever fewer steps, each starting from the weights of the one before.

    Args:
        steps: solver steps of each student, falling: [4, 2, 1].
        epochs: epochs of each phase.

    Raises:
        InputError: lists of unequal length, or steps that do not fall.
    """

    def __init__(self, steps: Sequence[int], epochs: Sequence[int]) -> None:
        if len(steps) != len(epochs) or not steps or min(*steps, *epochs) < 1:
            raise InputError(
                f"students: steps {list(steps)} and epochs {list(epochs)}; give two lists of equal "
                "length, whole numbers of at least 1"
            )
        if list(steps) != sorted(set(steps), reverse=True):
            raise InputError(f"students: steps {list(steps)} do not fall; give them as [4, 2, 1]")
        self.steps = list(steps)
        self.epochs = list(epochs)

    @property
    def total(self) -> int:
        """Epochs of all phases."""
        return sum(self.epochs)

    def phase(self, epoch: int) -> tuple[int, int, int]:
        """(steps, first epoch, last epoch) of the phase that `epoch`, counted from 1, lies in."""
        first = 1
        for steps, length in zip(self.steps, self.epochs, strict=True):
            if epoch < first + length:
                return steps, first, first + length - 1
            first += length
        raise ValueError(f"epoch {epoch} of {self.total}")

    def rate(self, steps_per_epoch: int) -> Callable[[int], float]:
        """Factor of the learning rate at an iteration: half a cosine, from 1 to 0, in each phase.

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
    """Handler: sets the student's steps at each epoch, and writes its weights as a phase ends.

    Args:
        phases: phases of the training.
        update: is told the steps, and when a phase begins.
        ema: average of the trained network.
        path: path of the weights without their end: `PATH_4.pt` for the student of four steps.
    """

    def __init__(self, phases: Phases, update: DistillUpdate, ema: EMA, path: str) -> None:
        self.phases = phases
        self.update = update
        self.ema = ema
        self.path = path

    def attach(self, engine: Engine) -> None:
        """Register at both ends of an epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.end)

    def begin(self, engine: Engine) -> None:
        """Choose the steps of the epoch."""
        self.update.steps, first, _ = self.phases.phase(engine.state.epoch)
        if engine.state.epoch == first:
            self.update.begin(self.update.steps)

    def end(self, engine: Engine) -> None:
        """Write the student of a phase that ends, in the form that samplers load."""
        steps, _, last = self.phases.phase(engine.state.epoch)
        if engine.state.epoch == last:
            SaveWeights(FlowSampler(self.ema.module, steps=steps), f"{self.path}_{steps}.pt")(
                engine
            )
