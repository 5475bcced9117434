"""Does the copy audit find planted copies, and how often does it take a real image for one?

    python benchmarks/privacy.py --dataset_dir DIR --model_dir MODELS --pairs_dir PAIRS
        [--seeds 20] [--validation_fraction 0.1] [--output FILE]

For each seed ten copies of random training images (mirrored, noisy, cropped, shifted, and mixed)
stand among the generated pairs. The threshold is calibrated on a random half of the held-out
groups, and false alarms are counted on the other half. Three scores take the same part: the
relative distance that `run audit` uses, the distance without its neighbours, and the root mean
square difference of pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import command_line, save
from torch import Tensor
from torch.nn.functional import interpolate

from alignflow.device import tune_allocator
from alignflow.errors import print_input_errors_as_one_line
from alignflow.evaluation.copies import nearest, pixels
from alignflow.evaluation.faithfulness import bootstrap_interval
from alignflow.inference.writing import versions
from alignflow.privacy.quarantine import find_pairs
from alignflow.privacy.sets import (
    Images,
    read_pairs,
    read_source,
    require_trained_on,
    source_cases,
)
from alignflow.privacy.similarity import distances
from alignflow.privacy.threshold import conformal_threshold, relative_distance
from alignflow.stage1 import Stage1

Copy = Callable[[Tensor, np.random.Generator], Tensor]
SCORES = ("relative", "distance", "pixels")


def noisy(image: Tensor, random: np.random.Generator, std: float) -> Tensor:
    """Gaussian noise of a standard deviation; images lie in [-1, 1]."""
    noise = torch.as_tensor(random.normal(0, std, image.shape), dtype=image.dtype)
    return (image + noise).clamp(-1, 1)


def cropped(image: Tensor, random: np.random.Generator, share: float) -> Tensor:
    """A random part, `share` of each side, enlarged to the whole."""
    size = [round(share * n) for n in image.shape[1:]]
    x, y = (int(random.integers(n - m + 1)) for n, m in zip(image.shape[1:], size, strict=True))
    part = image[None, :, x : x + size[0], y : y + size[1]]
    return interpolate(part, image.shape[1:], mode="bilinear", antialias=True)[0]


def shifted(image: Tensor, random: np.random.Generator) -> Tensor:
    """An eighth of each side to a random direction; what enters is the border repeated."""
    x, y = (int(random.choice([-1, 1])) * (n // 8) for n in image.shape[1:])
    rows = (torch.arange(image.shape[1]) + x).clamp(0, image.shape[1] - 1)
    columns = (torch.arange(image.shape[2]) + y).clamp(0, image.shape[2] - 1)
    return image[:, rows][:, :, columns]


def mixed(image: Tensor, random: np.random.Generator) -> Tensor:
    """Mirrored, cropped to three quarters, of less contrast, brighter, noisy."""
    return noisy(0.8 * cropped(image.flip(1), random, 0.75) + 0.1, random, 0.2)


KINDS: dict[str, Copy] = {
    "mirrored x": lambda image, random: image.flip(1),
    "mirrored y": lambda image, random: image.flip(2),
    "noise 0.2": lambda image, random: noisy(image, random, 0.2),
    "noise 0.4": lambda image, random: noisy(image, random, 0.4),
    "mirrored xy, noise 0.2": lambda image, random: noisy(image.flip(1, 2), random, 0.2),
    "crop 0.9": lambda image, random: cropped(image, random, 0.9),
    "crop 0.75": lambda image, random: cropped(image, random, 0.75),
    "crop 0.6": lambda image, random: cropped(image, random, 0.6),
    "shift 1/8": shifted,
    "mixed": mixed,
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, write, return."""
    args = arguments(argv)
    tune_allocator()
    stage1 = Stage1.load(args.model_dir)
    cases = source_cases(
        args.dataset_dir,
        args.group_pattern,
        args.group_column,
        args.validation_fraction,
        args.split_seed,
    )
    source, held_out = (read_source(part, stage1) for part in cases)
    require_trained_on(source, stage1)
    pairs = read_pairs(
        find_pairs(Path(args.pairs_dir), Path(args.pairs_dir) / "quarantine"), stage1
    )
    planted, origins = plant(source, args.seeds)
    sets = {"pairs": pairs.images, "held_out": held_out.images, "planted": planted}
    scores = {name: score(images, source.images, args.neighbours) for name, images in sets.items()}
    result = {
        "arguments": vars(args),
        "versions": versions(),
        "images": {"source": len(source), "held_out": len(held_out), "pairs": len(pairs)},
        "scores": {
            name: outcome({part: found[name] for part, found in scores.items()}, held_out, args)
            for name in SCORES
        },
        "nearest_is_the_origin": float((scores["planted"]["index"] == origins).mean()),
    }
    show(result)
    save(result, args.output)
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    add = parser.add_argument
    add("--dataset_dir", required=True, help="source of the bundle")
    add("--model_dir", required=True)
    add("--pairs_dir", required=True, help="what `infer` wrote, 490 pairs for a table of 500")
    add("--seeds", type=int, default=20, help="sets of ten planted copies (default 20)")
    add("--false_alarms", type=float, default=0.05)
    add("--neighbours", type=int, default=5)
    add("--validation_fraction", type=float, default=0.1, help="of the training")
    add("--split_seed", type=int, default=0, help="seed of the training")
    add("--group_pattern")
    add("--group_column")
    add("--output", type=Path)
    return parser.parse_args(argv)


def plant(source: Images, seeds: int) -> tuple[Tensor, np.ndarray]:
    """One copy of each kind for each seed (seeds * kinds, C, X, Y), and what they are copies of."""
    copies, origins = [], []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        chosen = random.choice(len(source), len(KINDS), replace=len(source) < len(KINDS))
        origins += chosen.tolist()
        for row, make in zip(chosen, KINDS.values(), strict=True):
            copies.append(make(source.images[int(row)], random))
    return torch.stack(copies), np.array(origins)


def score(images: Tensor, known: Tensor, neighbours: int) -> dict[str, np.ndarray]:
    """Three scores (N,), low for copies, and the index of the nearest known image."""
    matrix = distances(images, known)
    relative, index = relative_distance(matrix, None, neighbours)
    return {
        "relative": relative,
        "distance": matrix.min(dim=1).values.double().numpy(),
        "pixels": nearest(pixels(images), pixels(known))[0],
        "index": index,
    }


def outcome(
    scores: dict[str, np.ndarray], held_out: Images, args: argparse.Namespace
) -> dict[str, Any]:
    """Copies found, by kind and by seed, and false alarms, of one score."""
    planted = scores["planted"].reshape(args.seeds, len(KINDS))
    thresholds, alarms = zip(
        *(
            halves(scores["held_out"], held_out.groups, args.false_alarms, s)
            for s in range(args.seeds)
        ),
        strict=True,
    )
    limits = np.array(thresholds)
    found = planted < limits[:, None]
    among = [np.concatenate([scores["pairs"], row]) for row in planted]
    ranks = [
        int(max((row < copy).sum() + 1 for copy in p))
        for row, p in zip(among, planted, strict=True)
    ]
    low, high = bootstrap_interval([np.array(alarms)], np.mean) if args.seeds > 1 else (None, None)
    everything = conformal_threshold(scores["held_out"], held_out.groups, args.false_alarms) or 0.0
    return {
        "found": int(found.sum()),
        "planted": found.size,
        "seeds_with_all_found": int(found.all(axis=1).sum()),
        "found_by_kind": dict(zip(KINDS, found.mean(axis=0).tolist(), strict=True)),
        "found_with_all_held_out": int((planted < everything).sum()),
        "lowest_rank_of_a_copy": ranks,
        "false_alarms": {"value": float(np.mean(alarms)), "low": low, "high": high},
        "pairs_below": float(np.mean([(scores["pairs"] < limit).mean() for limit in limits])),
        "pairs_below_with_all_held_out": int((scores["pairs"] < everything).sum()),
        "threshold": everything,
        # near duplicates of training images, which real data may hold
        "held_out_as_near_as_copies": int((scores["held_out"] <= planted.max()).sum()),
        "held_out_quantiles": np.quantile(scores["held_out"], [0, 0.02, 0.05, 0.25, 0.5]).tolist(),
        "planted_quantiles": np.quantile(planted, [0.5, 0.9, 1]).tolist(),
    }


def halves(
    real: np.ndarray, groups: Sequence[str], false_alarms: float, seed: int
) -> tuple[float, float]:
    """Threshold from a random half of the groups, and share of the other half below it."""
    names = sorted(set(groups))
    chosen = set(np.random.default_rng(seed).permutation(names)[: len(names) // 2].tolist())
    first = np.array([g in chosen for g in groups])
    threshold = conformal_threshold(real[first], [g for g in groups if g in chosen], false_alarms)
    if threshold is None:
        return 0.0, 0.0
    return threshold, float((real[~first] < threshold).mean())


def show(result: dict[str, Any]) -> None:
    """A row for each score, then one for each kind."""
    print(f"{'score':12}{'found':>12}{'all found':>12}{'false alarms':>14}{'pairs below':>13}")
    for name, row in result["scores"].items():
        seeds = len(row["lowest_rank_of_a_copy"])
        print(
            f"{name:12}{row['found']:>6} of {row['planted']:3}"
            f"{row['seeds_with_all_found']:>6} of {seeds:2}"
            f"{row['false_alarms']['value']:14.3f}{row['pairs_below']:13.3f}"
        )
    print(f"\n{'found, by kind':24}" + "".join(f"{name:>10}" for name in SCORES))
    for kind in KINDS:
        shares = [result["scores"][name]["found_by_kind"][kind] for name in SCORES]
        print(f"{kind:24}" + "".join(f"{share:10.2f}" for share in shares))


if __name__ == "__main__":
    print_input_errors_as_one_line()
    main()
