"""Arms of a comparison: a process each, which take turns block by block."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, TypeVar

import torch

from common.machine import resident_mib

Arm = TypeVar("Arm", bound=Hashable)
Prepare = Callable[[Any, Any], tuple[Callable[[], Any], Any]]
"""Of an arm and the arguments: what runs one block, and facts for the parent."""


@dataclass
class Worker:
    """The parent's end of an arm's process."""

    process: Any
    connection: Connection
    facts: Any
    blocks: list[Any] = field(default_factory=list)

    def block(self) -> Any:
        """Let it run one block."""
        self.connection.send("block")
        return self.connection.recv()

    def stop(self) -> dict[str, float | None]:
        """End the process: its memory in MiB, see `serve`."""
        self.connection.send("stop")
        return self.connection.recv()


def serve(connection: Connection, prepare: Prepare, arm: Any, args: Any) -> None:
    """A worker: facts, then a block for each "block" it receives, then its memory for "stop".

    "imported" and "prepared": resident before and after `prepare`; "peak": the most that was
    resident, or allocated on the GPU.
    """
    imported = resident_mib("VmRSS")
    block, facts = prepare(arm, args)
    prepared = resident_mib("VmRSS")
    connection.send(facts)
    while connection.recv() == "block":
        connection.send(block())
    on_gpu = "cuda" in args.device
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else resident_mib("VmHWM")
    connection.send({"imported": imported, "prepared": prepared, "peak": peak})


@contextmanager
def workers(arms: Sequence[Arm], prepare: Prepare, args: Any) -> Iterator[dict[Arm, Worker]]:
    """A process for each arm, with the allocator of a fresh shell; ended with the block.

    Args:
        arms: any picklable keys.
        prepare: called in the process with the arm and `args`; of the top level of a module.
        args: with "device".
    """
    context = multiprocessing.get_context("spawn")
    running: dict[Arm, Worker] = {}
    try:
        with fresh_allocator():
            for arm in arms:
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=serve, args=(theirs, prepare, arm, args), daemon=True
                )
                process.start()
                theirs.close()  # so that a worker that dies is seen as the end of its messages
                running[arm] = Worker(process, ours, facts=ours.recv())
        yield running
    except EOFError:
        raise SystemExit("error: an arm's process ended early; its message stands above") from None
    finally:
        for worker in running.values():
            worker.process.terminate()
            worker.process.join()


@contextmanager
def fresh_allocator() -> Iterator[None]:
    """Hide what the environment tells glibc's allocator from processes that start here."""
    hidden = [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]
    kept = {name: os.environ.pop(name) for name in hidden}
    try:
        yield
    finally:
        os.environ.update(kept)


def take_turns(running: Iterable[Worker], rounds: int) -> None:
    """One block of each arm a round, a first one to warm up, every other round backwards."""
    order = list(running)
    for worker in order:
        worker.block()
    for number in range(rounds):
        for worker in order if number % 2 == 0 else reversed(order):
            worker.blocks.append(worker.block())


def ratios(slower: list[float], faster: list[float]) -> dict[str, Any]:
    """How many times faster, round by round."""
    pairs = [a / b for a, b in zip(slower, faster, strict=True)]
    return {"median": median(pairs), "min": min(pairs), "max": max(pairs), "rounds": pairs}
