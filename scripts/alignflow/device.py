"""Device, precision and memory allocator."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import Any

import torch
from torch import Tensor, nn

from alignflow.errors import InputError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def default_device() -> str:
    """The first GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def require_device(device: str | torch.device) -> None:
    """Raise `InputError` if torch cannot use the device."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f'config "device": {str(device)!r} cannot be used here ({reason[:100]}); choose "cpu", '
            'or "cuda" where there is a GPU and a torch built for it'
        ) from error


def tune_allocator() -> None:
    """Prevent glibc from returning large blocks to the kernel after each use.

    By default glibc allocates each activation with mmap, and its pages fault every time; this makes
    MONAI's UNet 3 to 4 times slower on a CPU. This function has the effect of MALLOC_MMAP_MAX_=0
    and a huge MALLOC_TRIM_THRESHOLD_ in the environment.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_max = -1, -4
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


class Precision:
    """Automatic mixed precision for training or sampling, on any device.

    MONAI's `amp=True` works only on CUDA and silently does nothing on a CPU.

    Args:
        device: "cpu", "cuda", "cuda:1", ...
        precision: fp32, bf16, fp16, or auto (bf16 if the device supports it natively, else fp16 on
            CUDA and fp32 on a CPU). fp16 uses loss scaling (GradScaler).

    Raises:
        InputError: on an unknown precision, or fp16 on a CPU.
    """

    def __init__(self, device: str | torch.device, precision: str = "auto") -> None:
        self.device_type = torch.device(device).type
        if precision == "auto":
            precision = _native_precision(self.device_type)
        if precision not in PRECISIONS:
            raise InputError(
                f'config "precision": {precision!r} unknown; choose auto, {", ".join(PRECISIONS)}'
            )
        if precision == "fp16" and self.device_type == "cpu":
            raise InputError('config "precision": fp16 needs a GPU; choose bf16 or fp32 on a CPU')
        self.precision = precision
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=precision == "fp16")

    def autocast(self) -> torch.autocast:
        """Context for forward passes."""
        return torch.autocast(
            self.device_type, PRECISIONS[self.precision], enabled=self.precision != "fp32"
        )

    def optimiser_step(
        self, loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer, clip: float
    ) -> None:
        """Backward, clip the gradient's norm, step."""
        optimizer.zero_grad(set_to_none=True)
        self.backward(loss)
        self.step(network, optimizer, clip)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss, scaled for fp16."""
        self.scaler.scale(loss).backward()

    def step(self, network: nn.Module, optimizer: torch.optim.Optimizer, clip: float) -> None:
        """Clip the norm of the accumulated gradients, and step."""
        self.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), clip)
        self.scaler.step(optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """State of loss scaling; empty without it."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        if state:
            self.scaler.load_state_dict(state)


def _native_precision(device_type: str) -> str:
    if device_type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device_type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "bf16"
    return "fp32"
