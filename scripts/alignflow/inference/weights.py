"""Loads a trained flow."""

from __future__ import annotations

import torch
from torch import nn

from alignflow.flow.sampler import FlowSampler


def load_sampler(
    network: nn.Module,
    path: str,
    device: str,
    *,
    steps: int,
    method: str = "euler",
    guidance: float = 1.0,
    kind: type[FlowSampler] = FlowSampler,
) -> FlowSampler:
    """A sampler around `network`, of class `kind`, with trained weights, in eval mode.

    `Stage1.load` has checked that the weights belong to the record.
    """
    sampler = kind(network, steps=steps, method=method, guidance=guidance)
    sampler.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return sampler.to(device).eval()
