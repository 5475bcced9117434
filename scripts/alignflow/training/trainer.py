"""Builds the MONAI engines of every stage, with their handlers in the right order.

A checkpoint must be loaded before the epoch is seeded, the learning rate updated before validation,
and weights saved before MLflow logs them as an artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from ignite.metrics import Average, Metric
from monai.data import DataLoader
from monai.engines import Evaluator, SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.inferers import Inferer, SimpleInferer
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, Sampler

from alignflow.distributed import local_batch, rank, world
from alignflow.training.checkpoint import ExactResume
from alignflow.training.epochs import EpochSampler, EpochSeed
from alignflow.training.progress import Progress
from alignflow.training.tracking import Tracking
from alignflow.training.weights import SaveWeights

Handlers = Sequence[Any]


def make_dataloader(
    dataset: Any,
    batch_size: int,
    steps: int = 0,
    seed: int = 0,
    sampler: Sampler[int] | None = None,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
    alone: bool = False,
) -> DataLoader:
    """The batches of an epoch, or this process's share of them.

    Args:
        dataset: dataset with a length.
        batch_size: batch size of all processes together.
        steps: batches per epoch, drawn by `EpochSampler`; 0 for all items once, in order.
        seed: random seed of the order.
        sampler: replaces `EpochSampler`.
        num_workers: processes that load data.
        device: device for the batches.
        alone: each process gets whole batches and trains the same network.
    """
    place = (0, 1) if alone else (rank(), world())
    if sampler is None and steps:
        sampler = EpochSampler(len(dataset), steps * batch_size, seed, *place)
    is_shared = sampler is not None and not alone
    return DataLoader(
        dataset,
        batch_size=local_batch(batch_size) if is_shared else batch_size,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory="cuda" in str(device),
    )


def make_trainer(
    *,
    name: str,
    max_epochs: int,
    epoch_length: int,
    dataloader: DataLoader,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    update: Callable[..., Any],
    loss: Callable[..., Any] | None = None,
    inferer: Inferer | None = None,
    lr_scheduler: Any = None,
    checkpoint: Mapping[str, Any] | None = None,
    augmentation: Any = None,
    validator: Evaluator | None = None,
    val_interval: int = 1,
    weights: Mapping[str, Any] | None = None,
    tracking: Tracking | None = None,
    handlers: Handlers = (),
    last_handlers: Handlers = (),
    compile: bool = False,
    device: str | torch.device = "cpu",
    seed: int = 0,
    every: int = 10,
    alone: bool = False,
) -> SupervisedTrainer:
    """A trainer that resumes exactly, validates, shows progress, saves weights and is tracked.

    Args:
        name: name of the progress bar.
        max_epochs, epoch_length: number of epochs, and steps per epoch.
        dataloader: result of `make_dataloader`; its sampler gets the number of each epoch.
        network: network to train; each process has a copy.
        optimizer, lr_scheduler: the scheduler is updated after each step.
        update: MONAI's `iteration_update`.
        loss, inferer: available to the update in the engine.
        checkpoint: arguments of `ExactResume`; network, optimizer, scheduler and update are added
            to its `objects`. None for no checkpoints.
        augmentation: seeded at each epoch.
        validator: run every `val_interval` epochs.
        weights: arguments of `SaveWeights`; None to save no weights.
        tracking: MLflow handler, or None.
        handlers: additional handlers, attached after the epoch is seeded.
        last_handlers: additional handlers, attached after the weights are saved.
        compile: whether to compile the network.
        device: device of the engine.
        seed: random seed of the epochs.
        every: steps between two updates of the bar.
        alone: see `make_dataloader`.
    """
    trained: Any = torch.compile(network) if compile else network
    if world() > 1 and not alone:
        trained = DistributedDataParallel(trained)
    state = {"network": network, "optimizer": optimizer, "update": update}
    if lr_scheduler is not None:
        state["lr_scheduler"] = lr_scheduler
    attached = [
        ExactResume(**{**checkpoint, "objects": state | checkpoint["objects"]})
        if checkpoint
        else None,
        EpochSeed(cast("EpochSampler", dataloader.sampler), augmentation, seed),
        *handlers,
        lr_scheduler and LrScheduleHandler(lr_scheduler, print_lr=False, epoch_level=False),
        validator and ValidationHandler(val_interval, validator, epoch_level=True),
        Progress(name, validator, every),
        SaveWeights(**weights) if weights else None,
        *last_handlers,
        tracking,
    ]
    return SupervisedTrainer(
        device=torch.device(device),
        max_epochs=max_epochs,
        epoch_length=epoch_length,
        train_data_loader=dataloader,
        network=trained,
        optimizer=optimizer,
        loss_function=loss or nn.MSELoss(),
        inferer=inferer or SimpleInferer(),
        iteration_update=update,
        key_train_metric=mean_loss(),
        metric_cmp_fn=is_smaller,
        train_handlers=[handler for handler in attached if handler is not None],
        non_blocking=True,
        decollate=False,
    )


def make_evaluator(
    *,
    dataset: Dataset[Any],
    batch_size: int,
    network: nn.Module,
    update: Callable[..., Any],
    device: str | torch.device = "cpu",
    handlers: Handlers = (),
) -> SupervisedEvaluator:
    """An evaluator that computes the mean loss on held-out data."""
    return SupervisedEvaluator(
        device=torch.device(device),
        val_data_loader=make_dataloader(dataset, batch_size),
        network=network,
        inferer=SimpleInferer(),
        iteration_update=update,
        key_val_metric=mean_loss(),
        metric_cmp_fn=is_smaller,
        val_handlers=list(handlers),
        decollate=False,
    )


def mean_loss() -> dict[str, Metric]:
    """The key metric: the "loss" of the update, averaged over the epoch."""
    return {"loss": Average(output_transform=lambda output: output["loss"])}


def is_smaller(current: float, best: float) -> bool:
    """Whether a loss is better than the best so far."""
    return current < best
