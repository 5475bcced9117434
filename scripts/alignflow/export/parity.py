"""Compares the output of a back end with that of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alignflow.errors import InputError


@torch.no_grad()
def parity(reference: nn.Module, other: nn.Module, inputs: Tensor) -> dict[str, Any]:
    """Largest and root mean square difference of two samplers, and its largest position.

    Args:
        reference: sampler in torch, float32.
        other: sampler in the back end.
        inputs: typical inputs (N, D, X, Y).

    Returns:
        {"max", "rms", "std" of the reference's samples, "at": [pair, channel, x, y], "pairs": N}
    """
    expected = reference(inputs).float().cpu()
    difference = other(inputs).float().cpu() - expected
    place = torch.unravel_index(difference.abs().argmax(), difference.shape)
    return {
        "max": float(difference.abs().max()),
        "rms": float(difference.square().mean().sqrt()),
        "std": float(expected.std()),
        "at": [int(i) for i in place],
        "pairs": len(inputs),
    }


def require_parity(found: dict[str, Any], tolerance: float, name: str) -> None:
    """Raise `InputError` if the largest difference exceeds the tolerance or is NaN."""
    if not found["max"] <= tolerance:
        pair, channel, x, y = found["at"]
        raise InputError(
            f"export: {name} differs from torch by {found['max']:.2g} (pair {pair}, channel "
            f"{channel}, pixel {x}, {y}; root mean square {found['rms']:.2g}), more than "
            f'"tolerance" {tolerance:.2g}; set another precision, or a larger tolerance if such '
            "differences do not matter"
        )
