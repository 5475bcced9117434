"""Which parameters alignment changes: with fewer references, fewer parameters."""

from __future__ import annotations

import re
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from alignflow.errors import InputError

SUBSETS = ("modulation", "lora", "all")
MODULATION = re.compile(r"time_embed|time_emb_proj|norm|bias$")


class LowRank(nn.Module):
    """W + scale * (B A) in the shape of W, with B = 0 at first (LoRA, Hu et al., 2106.09685).

    Args:
        weight: (out, in, ...) of a linear or convolutional layer.
        rank: rank of the update, at most the smaller side.
        scale: scale of the update.
        generator: generator of A.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape[0], prod(weight.shape[1:])
        rank = min(rank, rows, columns)
        start = torch.randn(rank, columns, generator=generator) / columns**0.5
        self.a = nn.Parameter(start.to(weight))
        self.b = nn.Parameter(torch.zeros(rows, rank).to(weight))
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """The updated weight."""
        return weight + self.scale * (self.b @ self.a).view_as(weight)


def choose_parameters(
    network: nn.Module, subset: str = "modulation", rank: int = 4, seed: int = 0
) -> list[nn.Parameter]:
    """Freeze all parameters of the network except a subset, and return the subset.

    Args:
        network: a velocity network; changed in place.
        subset: "modulation" (time embedding, norms and biases, which scale and shift features),
            "lora" (modulation, and low-rank updates of all other weights), or "all".
        rank: rank of the low-rank updates.
        seed: random seed of the low-rank updates.

    Raises:
        InputError: an unknown subset.
    """
    if subset not in SUBSETS:
        raise InputError(f'config "parameters": {subset!r}; set one of {", ".join(SUBSETS)}')
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(subset == "all" or MODULATION.search(name) is not None)
    if subset == "lora":
        _add_low_rank(network, rank, torch.Generator().manual_seed(seed))
    return [p for p in network.parameters() if p.requires_grad]


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """State dict with low-rank updates merged into the weights, as for a plain network.

    The module itself keeps its updates (`remove_parametrizations` on a copy would break the
    original, which shares its class).
    """
    modules = dict(module.named_modules())
    state = {}
    for name, value in module.state_dict().items():
        layer, low_rank, rest = name.partition(".parametrizations.weight.")
        if not low_rank:
            state[name] = value
        elif rest == "original":
            state[f"{layer}.weight"] = modules[layer].weight.detach()
    return state


def _add_low_rank(network: nn.Module, rank: int, generator: torch.Generator) -> None:
    for name, module in list(network.named_modules()):
        layer = isinstance(module, (nn.Conv2d, nn.Linear))
        if layer and not module.weight.requires_grad and "parametrizations" not in name:
            update = LowRank(module.weight, rank, 1.0, generator)
            parametrize.register_parametrization(module, "weight", update)
