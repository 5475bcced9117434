"""The iteration updates of flow matching for MONAI engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import Tensor

from alignflow.device import Precision
from alignflow.distributed import local_rows, world
from alignflow.flow.ema import EMA
from alignflow.flow.guidance import Condition, drop_condition
from alignflow.flow.matching import Loss, flow_matching_loss
from alignflow.training.targets import Batch

Target = Callable[[Batch], tuple[Tensor, Condition]]


class FlowUpdate:
    """Conditional flow matching: regress v(x_t, t | c) on x_1 - x_0 (arXiv 2210.02747, eq. 23).

    All random numbers come from one CPU generator, so that they are the same on every device, and a
    resumed run is exact if this object (generator, loss scaling) is in the checkpoint. Each process
    draws for the whole batch and uses its share.

    Args:
        target: returns data and condition of a batch, see `alignflow.training.targets`.
        sample_time: draws times, see `alignflow.flow.time`.
        precision: autocast and loss scaling.
        ema: average of the trained network's weights, updated after each step.
        condition_dropout: probability of training a sample without its condition.
        clip: largest norm of the gradient.
        seed: random seed of the generator.
    """

    def __init__(
        self,
        *,
        target: Target,
        sample_time: Callable[[int, torch.Generator], Tensor],
        precision: Precision,
        ema: EMA,
        condition_dropout: float = 0.1,
        clip: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.target = target
        self.sample_time = sample_time
        self.precision = precision
        self.ema = ema
        self.condition_dropout = condition_dropout
        self.clip = clip
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, engine: SupervisedTrainer, batch: Batch) -> dict[str, float]:
        """Train on a batch, or this process's share of it; returns {"loss": loss}."""
        data, condition = self.target(batch)
        size = len(data) * world()
        dropped = torch.rand(size, generator=self.generator) < self.condition_dropout
        t = self.sample_time(size, self.generator)
        noise = torch.randn((size, *data.shape[1:]), generator=self.generator)
        condition = drop_condition(condition, local_rows(dropped))
        engine.network.train()
        loss = velocity_loss(
            engine,
            engine.loss_function,
            self.precision,
            local_rows(noise),
            data,
            local_rows(t),
            condition,
        )
        self.precision.optimiser_step(loss, engine.network, engine.optimizer, self.clip)
        self.ema.update_parameters(engine.network)
        return {"loss": loss.item()}

    def state_dict(self) -> dict[str, Any]:
        """State of generator and loss scaling."""
        return {"generator": self.generator.get_state(), "precision": self.precision.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.generator.set_state(state["generator"].cpu())
        self.precision.load_state_dict(state["precision"])


class FlowValidation:
    """The same loss on held-out data, with evenly spaced times and the same noise each time."""

    def __init__(
        self, *, target: Target, loss_function: Loss, precision: Precision, seed: int = 0
    ) -> None:
        self.target = target
        self.loss_function = loss_function
        self.precision = precision
        self.seed = seed

    def __call__(self, engine: SupervisedEvaluator, batch: Batch) -> dict[str, float]:
        """Evaluate a batch; returns {"loss": loss}."""
        data, condition = self.target(batch)
        generator = torch.Generator().manual_seed(self.seed + engine.state.iteration)
        t = (torch.arange(len(data)) + 0.5) / len(data)
        noise = torch.randn(data.shape, generator=generator)
        with torch.no_grad():
            loss = velocity_loss(
                engine, self.loss_function, self.precision, noise, data, t, condition
            )
        return {"loss": loss.item()}


def velocity_loss(
    engine: SupervisedTrainer | SupervisedEvaluator,
    loss_function: Loss,
    precision: Precision,
    noise: Tensor,
    data: Tensor,
    t: Tensor,
    condition: Condition,
) -> Tensor:
    """`flow_matching_loss` on the engine's device, with its inferer."""
    device = engine.state.device
    noise, data, t = noise.to(device), data.to(device, non_blocking=True), t.to(device)
    condition = {name: c.to(device, non_blocking=True) for name, c in condition.items()}

    def network(x: Tensor, t: Tensor, **given: Tensor) -> Tensor:
        return cast("Tensor", engine.inferer(x, engine.network, t, **given))

    with precision.autocast():
        return flow_matching_loss(network, noise, data, t, condition, loss_function)
