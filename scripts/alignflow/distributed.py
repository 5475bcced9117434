"""Several processes, one for each GPU, that do the run of one; without torchrun nothing here acts.

The batch size of a config is that of all processes together. Process r of W holds the samples r,
r + W, r + 2 W, ... of each batch, and random numbers are drawn for the whole batch in each
process, so that the run, its checkpoints included, is that of a single process up to rounding.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alignflow.errors import InputError

Value = TypeVar("Value", float, Tensor)
Item = TypeVar("Item")
SHARED = ("training", "align", "distill", "infer")
"""Workflows, each the first one of its config, that several processes share."""


def rank() -> int:
    """Number of this process, 0 to `world()` - 1; files are written by process 0."""
    return idist.get_rank()


def world() -> int:
    """W, the number of processes."""
    return idist.get_world_size()


def local_device() -> str:
    """The GPU of this process, by torchrun's LOCAL_RANK, or the CPU where there is none."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def require_joining(config: Mapping[str, Any], workflow: str) -> None:
    """Refuse several processes that would each do the whole run and write the same files.

    Args:
        config: config of the run; the override `multi_gpu.json` lets its `initialize` join them.
        workflow: first one of the config.

    Raises:
        InputError: started by torchrun without that override, or a workflow of one process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    started = "started as one of several processes (WORLD_SIZE is set)"
    if workflow not in SHARED:
        raise InputError(f"{started}, but '{workflow}' runs on one; start it without torchrun")
    if start_processes.__name__ not in str(config.get("initialize")):
        raise InputError(
            f"{started}, but nothing joins them; lay configs/multi_gpu.json over the config"
        )


def start_processes(device: str | torch.device) -> None:
    """Join the process group that torchrun describes: nccl on GPUs, gloo on a CPU.

    Raises:
        InputError: not started by torchrun.
    """
    if "WORLD_SIZE" not in os.environ:
        raise InputError(
            "configs/multi_gpu.json: needs several processes; start the command with "
            "'torchrun --nproc_per_node N -m monai.bundle run ...', or leave that file out"
        )
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    # Not idist.initialize: inside a SLURM job it takes the job's tasks for the processes.
    dist.init_process_group("nccl" if on_gpu else "gloo")
    idist.sync()
    if rank() > 0:
        logging.getLogger("alignflow").setLevel(logging.WARNING)


def stop_processes() -> None:
    """Leave the process group, when all processes are done."""
    idist.barrier()
    idist.finalize()


def local_batch(batch_size: int) -> int:
    """Samples of a batch that one process holds.

    Raises:
        InputError: the processes cannot divide the batch evenly.
    """
    if batch_size % world():
        raise InputError(
            f'config "batch_size": {batch_size} cannot be divided among {world()} processes; it '
            f"counts the samples of all, set a multiple of {world()}"
        )
    return batch_size // world()


def own_batches(
    items: Sequence[Item], batch_size: int, volumes: Sequence[int] | None = None
) -> list[Item]:
    """The items of batches r, r + W, r + 2 W, ..., so that a batch holds what it does in one run.

    Args:
        items: items of all processes.
        batch_size: batch size of one.
        volumes: number of the volume that each item is a slice of, to share out whole volumes.

    Raises:
        InputError: fewer batches or volumes than processes.
    """
    count = len(items)
    if volumes is not None:
        if len(set(volumes)) < world():
            raise InputError(
                f"{len(set(volumes))} volumes are too few for {world()} processes; start fewer"
            )
        return [items[k] for k in range(count) if volumes[k] % world() == rank()]
    if -(-count // batch_size) < world():
        raise InputError(
            f"{count} pairs in batches of {batch_size} are too few for {world()} processes; lower "
            '"batch_size", or start fewer processes'
        )
    return [items[k] for k in range(count) if k // batch_size % world() == rank()]


def local_rows(batch: Tensor) -> Tensor:
    """This process's rows of something drawn for the whole batch (W B, ...): (B, ...)."""
    return batch[rank() :: world()]


def all_gather_rows(rows: Tensor) -> Tensor:
    """Rows (B, ...) of all processes in the order of the whole batch (W B, ...).

    Those of other processes are constants. Each process that computes a loss of the whole batch
    from them so gets the exact gradient with respect to its own rows.
    """
    if world() == 1:
        return rows
    everything = cast("Tensor", idist.all_gather(rows.detach().contiguous()))
    parts = list(everything.chunk(world()))
    parts[rank()] = rows
    return torch.stack(parts, dim=1).flatten(0, 1)


def mean_over_processes(value: Value) -> Value:
    """Mean over the processes of a number or a detached tensor."""
    return cast("Value", idist.all_reduce(value) / world())  # type: ignore[arg-type]


def all_true(condition: bool) -> bool:
    """Whether a condition holds in every process."""
    return cast("float", idist.all_reduce(float(condition), "MIN")) == 1


def from_first(values: dict[str, float]) -> dict[str, float]:
    """The values that process 0 has: GPUs differ in the last digit, decisions must not."""
    if world() == 1:
        return values
    numbers = torch.tensor(list(values.values()), dtype=torch.float64)
    numbers = cast("Tensor", idist.broadcast(numbers))
    return dict(zip(values, numbers.tolist(), strict=True))


def all_gather_objects(value: Any) -> list[Any]:
    """What each process has, in the order of their numbers: any object that can be pickled."""
    # in a tuple, since ignite joins numbers and tensors into one tensor
    return [one for (one,) in cast("list[tuple[Any]]", idist.all_gather((value,)))]


def accumulating(network: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Context of one of several backward passes of an update: the last one sums over processes."""
    if last or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return cast("AbstractContextManager[None]", network.no_sync())
