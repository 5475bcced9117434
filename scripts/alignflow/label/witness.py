"""Which images of a site the generator draws least: the reward's witness function on them.

The MMD between two distributions is the largest difference of the means of a function over them;
the function that attains it is the witness (Gretton et al., JMLR 2012, sec. 2.3). Where it is high
the site has images and the generator has none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from alignflow.alignment.reward import SetReward
from alignflow.files import replacing


def site_witness(
    reward: SetReward, samples: Tensor, images: Tensor, noise: float, seed: int
) -> Tensor:
    """The witness on each image of the site, (N,); for a single image 0.

    Args:
        reward: fitted to samples and site.
        samples: of the generator, (S, C, X, Y) in [-1, 1].
        images: of the site, (N, C, X, Y) in [-1, 1].
        noise: standard deviation of the noise that the reward looks through.
        seed: of the noise.
    """
    if len(images) < 2:
        return torch.zeros(len(images))
    generator = torch.Generator().manual_seed(seed)
    seen, drawn = (
        x + noise * torch.randn(x.shape, generator=generator).to(x.device)
        for x in (images, samples)
    )
    return reward.witness(seen, drawn).cpu()


def file_scores(names: Sequence[str], scores: Tensor) -> dict[str, float]:
    """Mean score of each file.

    Args:
        names: of `References`: the file, with "[k]" behind it for slice k of a volume.
        scores: (N,).
    """
    found: dict[str, list[float]] = {}
    for name, score in zip(names, scores.tolist(), strict=True):
        found.setdefault(name.rsplit("[", 1)[0] if name.endswith("]") else name, []).append(score)
    return {name: sum(values) / len(values) for name, values in found.items()}


def save_witness(path: str | Path, names: Sequence[str], scores: Tensor) -> None:
    """Write {file: score} as JSON, the highest first."""
    ordered = sorted(file_scores(names, scores).items(), key=lambda item: -item[1])
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(dict(ordered), indent=1) + "\n", encoding="utf-8")
