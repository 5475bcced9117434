"""Runs on several processes, one per GPU, with the result of a single process.

The batch size of a config is that of all processes together. Process r of W has samples r, r + W,
r + 2 W, ... of each batch, and each process draws random numbers for the whole batch. So the run,
including its checkpoints, equals that of a single process up to rounding. Without torchrun there is
one process, and these functions do nothing.
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
"""Workflows, each the first of its config, that support several processes."""


def rank() -> int:
    """Number of this process, 0 to `world()` - 1; process 0 writes files."""
    return idist.get_rank()


def world() -> int:
    """W, the number of processes."""
    return idist.get_world_size()


def local_device() -> str:
    """The GPU of this process, from torchrun's LOCAL_RANK, or the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def require_joining(config: Mapping[str, Any], workflow: str) -> None:
    """Refuse several processes that would all do the whole run and write the same files.

    Args:
        config: config of the run; with `multi_gpu.json` its `initialize` joins the processes.
        workflow: first workflow of the config.

    Raises:
        InputError: started by torchrun without that file, or the workflow does not support it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    started = "started as one of several processes (WORLD_SIZE is set)"
    if workflow not in SHARED:
        raise InputError(
            f"{started}, but '{workflow}' needs a single process; start it without torchrun"
        )
    if start_processes.__name__ not in str(config.get("initialize")):
        raise InputError(
            f"{started}, but they are not joined; add configs/multi_gpu.json to the config files"
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
    # Not idist.initialize: in a SLURM job it would use the job's tasks as processes.
    dist.init_process_group("nccl" if on_gpu else "gloo")
    idist.sync()
    if rank() > 0:
        logging.getLogger("alignflow").setLevel(logging.WARNING)


def stop_processes() -> None:
    """Wait for all processes, and leave the process group."""
    idist.barrier()
    idist.finalize()


def local_batch(batch_size: int) -> int:
    """Number of samples per batch in this process.

    Raises:
        InputError: the batch size is not a multiple of the number of processes.
    """
    if batch_size % world():
        raise InputError(
            f'config "batch_size": {batch_size} cannot be divided among {world()} processes; set a '
            f"multiple of {world()}"
        )
    return batch_size // world()


def own_batches(
    items: Sequence[Item], batch_size: int, volumes: Sequence[int] | None = None
) -> list[Item]:
    """The items of batches r, r + W, r + 2 W, ...; each batch is the same as in a single process.

    Args:
        items: items of all processes.
        batch_size: batch size of a process.
        volumes: volume number of each item, to keep volumes together.

    Raises:
        InputError: there are fewer batches or volumes than processes.
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
    """Rows (B, ...) of this process from a whole batch (W B, ...)."""
    return batch[rank() :: world()]


def all_gather_rows(rows: Tensor) -> Tensor:
    """Rows (B, ...) of all processes, in the order of the whole batch (W B, ...).

    Rows of other processes are constants, so a loss of the whole batch has the exact gradient with
    respect to this process's rows.
    """
    if world() == 1:
        return rows
    everything = cast("Tensor", idist.all_gather(rows.detach().contiguous()))
    parts = list(everything.chunk(world()))
    parts[rank()] = rows
    return torch.stack(parts, dim=1).flatten(0, 1)


def mean_over_processes(value: Value) -> Value:
    """Mean of a number or detached tensor over processes."""
    return cast("Value", idist.all_reduce(value) / world())  # type: ignore[arg-type]


def all_true(condition: bool) -> bool:
    """Whether a condition is true in every process."""
    return cast("float", idist.all_reduce(float(condition), "MIN")) == 1


def from_first(values: dict[str, float]) -> dict[str, float]:
    """The values of process 0: GPUs differ by rounding, but decisions must be the same."""
    if world() == 1:
        return values
    numbers = torch.tensor(list(values.values()), dtype=torch.float64)
    numbers = cast("Tensor", idist.broadcast(numbers))
    return dict(zip(values, numbers.tolist(), strict=True))


def all_gather_objects(value: Any) -> list[Any]:
    """The value of each process, in order; any object that can be pickled."""
    # in a tuple, since ignite would join numbers and tensors
    return [one for (one,) in cast("list[tuple[Any]]", idist.all_gather((value,)))]


def accumulating(network: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Context of a backward pass; only the last of an update is summed over processes."""
    if last or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return cast("AbstractContextManager[None]", network.no_sync())
