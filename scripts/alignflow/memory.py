"""Out-of-memory errors as one line that names the settings to lower."""

from __future__ import annotations

import errno
import multiprocessing.synchronize
import re
import traceback
from collections.abc import Mapping
from typing import Any

import torch

from alignflow.errors import InputError, causes

TEXTS = (
    "DefaultCPUAllocator",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "bad_alloc",
    "bad allocation",
    "Failed to allocate memory",
    "could not create a memory object",
    "is killed by signal: Killed",
)
"""Messages of libraries that have no exception class for it."""
SHARED = re.compile(
    "(shared memory|torch_).*(No space left|Cannot allocate memory)|No space left.*/pym-"
    "|(insufficient|out of) shared memory|killed by signal: Bus error"
)
"""Messages about too little shared memory, which some libraries call a device."""
LOWER = ("micro_batch", "batch_size", "active_steps", "num_samples", "image_size", "num_pairs")
"""Config keys that affect memory; keys that affect the result least come first."""


def out_of_memory(error: BaseException, config: Mapping[str, Any]) -> InputError | None:
    """One line for an out-of-memory error, with the settings to lower; None for other errors."""
    found = next((cause for cause in causes(error) if _is_of_memory(cause)), None)
    if found is None:
        return None
    known = [f'"{key}" (now {config[key]})' for key in LOWER if key in config]
    advice = [f"lower {', then '.join(known)}"] if known else []
    if config.get("num_workers"):
        advice.append('set "num_workers" to 0')
    if config.get("gradient") == "full":
        advice.append('set "gradient" to "surrogate"')
    if config.get("precision") == "fp32":
        advice.append('set "precision" to "bf16"')
    said = (str(found) or type(found).__name__).splitlines()[0]
    return InputError(
        f"out of memory: {', or '.join(advice) or 'end other programs'}; error: {said[:300]}"
    )


def out_of_shared_memory(error: BaseException) -> InputError | None:
    """One line for too little shared memory for data loader workers; None for other errors."""
    if not any(SHARED.search(str(c)) or _is_of_a_queue(c) for c in causes(error)):
        return None
    return InputError(
        "out of shared memory: set num_workers to 0, or start the container with a larger "
        "--shm-size (/dev/shm)"
    )


def _is_of_a_queue(error: BaseException) -> bool:
    """Whether a queue between processes could not allocate its semaphores."""
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    frames = traceback.extract_tb(error.__traceback__) if full else []
    return any(frame.filename == multiprocessing.synchronize.__file__ for frame in frames)


def _is_of_memory(error: BaseException) -> bool:
    kinds = (MemoryError, torch.OutOfMemoryError)
    code = error.errno if isinstance(error, OSError) else None
    texts = isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS)
    return isinstance(error, kinds) or code == errno.ENOMEM or texts
