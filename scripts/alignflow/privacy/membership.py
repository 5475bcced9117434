"""Membership inference: can an image be recognised as one that the generator was trained on?"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from torch import Tensor
from tqdm import tqdm

from alignflow.device import Precision
from alignflow.evaluation.faithfulness import bootstrap_interval
from alignflow.flow.matching import flow_matching_loss

Table = NDArray[np.float64]
FALSE_POSITIVES = 0.05


@torch.no_grad()
def flow_losses(
    network: Callable[..., Tensor],
    images: Tensor,
    conditions: Tensor,
    *,
    times: Sequence[float],
    noises: int,
    seed: int,
    device: str,
    precision: str = "fp32",
    batch_size: int = 64,
    progress: bool = True,
) -> Table:
    """Flow matching loss of each image under its mask, what training made small: (N,).

    The mean over times and noises, which are the same for all images: what differs between two
    images is then theirs and not the draw's (loss attack: Yeom et al., arXiv 1709.01604; on
    diffusion models: Carlini et al., arXiv 2301.13188, section 5).

    Args:
        network: the image flow, called as network(x_t, t, condition=maps).
        images: (N, C, X, Y) in [-1, 1].
        conditions: (N, 2K-1, X, Y), as `Stage1.condition` gives them.
        times: in (0, 1); 0 is noise, 1 the image.
        noises: draws at each time.
        seed: of the noise.
        device, precision: as in `alignflow.device.Precision`.
        batch_size: of the network.
        progress: show a bar.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        (t, torch.randn(images.shape[1:], generator=generator))
        for t in times
        for _ in range(noises)
    ]
    computation = Precision(device, precision)
    batches = torch.arange(len(images)).split(batch_size)
    found = []
    for rows in tqdm(batches, desc="membership", unit="batch", disable=not progress):
        data, maps = images[rows].to(device), conditions[rows].to(device)
        total = torch.zeros(len(rows), device=device)
        for t, noise in drawn:
            x_0, when = noise.to(device).expand_as(data), torch.full((len(rows),), t).to(device)
            with computation.autocast():
                total += flow_matching_loss(
                    network, x_0, data, when, {"condition": maps}, loss=_by_image
                )
        found.append(total.double().cpu() / len(drawn))
    return torch.cat(found).numpy()


def _by_image(predicted: Tensor, wanted: Tensor) -> Tensor:
    return ((predicted - wanted) ** 2).flatten(1).mean(dim=1)


def auc(members: Table, others: Table) -> float:
    """Probability that a member scores higher than another image, ties counting half.

    The area under the ROC curve, which is Mann and Whitney's U over the number of pairs.
    """
    statistic = mannwhitneyu(members, others, method="asymptotic").statistic
    return float(statistic) / (len(members) * len(others))


def membership(
    members: Table,
    others: Table,
    member_groups: Sequence[Hashable],
    other_groups: Sequence[Hashable],
) -> dict[str, Any]:
    """How well a score tells training images from others.

    Args:
        members: (N,) scores of images trained on, high where the score calls them members.
        others: (M,) the same of held-out images of the same source.
        member_groups, other_groups: patient or sequence of each, which the bootstrap draws whole.

    Returns:
        "auc" with its 95% interval ("low", "high"): 0.5 is guessing, 1 recognises every image;
        "found_at_5%": share of members above 95% of the others, 0.05 by guessing; numbers of
        images. The interval is None for fewer than two groups on a side.
    """
    parts = [_by_group(members, member_groups), _by_group(others, other_groups)]
    result: dict[str, Any] = {
        "auc": auc(members, others),
        "low": None,
        "high": None,
        "found_at_5%": float((members > np.quantile(others, 1 - FALSE_POSITIVES)).mean()),
        "members": len(members),
        "others": len(others),
    }
    if min(len(part) for part in parts) > 1:

        def resampled(one: Table, two: Table) -> float:
            chosen = [
                np.concatenate([part[int(i)] for i in drawn])
                for part, drawn in zip(parts, (one, two), strict=True)
            ]
            return auc(*chosen)

        numbers = [np.arange(len(part), dtype=float) for part in parts]
        result["low"], result["high"] = bootstrap_interval(numbers, resampled, resamples=1000)
    return result


def in_words(name: str, result: dict[str, Any]) -> str:
    """One sentence for a reader without statistics."""
    low, high = result["low"], result["high"]
    interval = "no interval" if low is None else f"95% interval {low:.2f} to {high:.2f}"
    if low is None:
        verdict = "too few patients to tell"
    elif low > 0.5:
        verdict = "training images are recognisable as such, better than by guessing"
    elif high < 0.5:
        verdict = "training images score lower than held-out ones, which no copying explains"
    else:
        verdict = "training images are not recognised better than by guessing"
    return f"membership by {name}: {verdict} (AUC {result['auc']:.2f}, {interval}; 0.5 is guessing)"


def _by_group(scores: Table, groups: Sequence[Hashable]) -> list[Table]:
    names = np.unique([str(g) for g in groups], return_inverse=True)[1]
    return [scores[names == number] for number in range(names.max(initial=-1) + 1)]
