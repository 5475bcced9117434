"""What stage 1 generates against real pairs it never saw: mask faithfulness and mask statistics.

    python benchmarks/stage1_quality.py --train_dir DIR --model_dir MODELS --pairs_dir PAIRS
        [--held_out_dir DIR] [--seeds 0 1 2] --output FILE.json

TRAIN_DIR is the data set that MODELS were trained on and PAIRS what `run infer` wrote with them.
Without HELD_OUT_DIR the cases that the training config itself held out are taken. Everything is
read as MODELS/train_config.json says, at the generator's image size.

Faithfulness: a segmenter trained on the real training pairs alone, one for each seed; its Dice on
the generated pairs over its Dice on the held-out ones. Masks: the distance of the areas of the
generated to those of the held-out masks, over the distance of the training to the held-out masks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.segmenter import train_segmenter
from monai.bundle import ConfigParser
from scipy.stats import wasserstein_distance
from torch import Tensor

from alignflow.data.datalist import Case, build_datalist
from alignflow.data.dataset import SliceDataset
from alignflow.data.preprocessing import Preprocessing
from alignflow.device import default_device, tune_allocator
from alignflow.errors import InputError, print_input_errors_as_one_line
from alignflow.evaluation.faithfulness import (
    Table,
    bootstrap_interval,
    dice_table,
    image_scores,
    summary,
)
from alignflow.evaluation.masks import mask_distances, mask_points, nearest_dice
from alignflow.files import replacing
from alignflow.inference.writing import versions
from alignflow.stage1 import Stage1, weight_hashes

LEAST_FAITHFULNESS = 0.8  # Dice on generated over Dice on held-out pairs
MOST_AREA_RATIO = 2.0  # W1 of area, generated to held-out over training to held-out


@dataclass(frozen=True)
class Pairs:
    """Three sets of pairs of one size, and whether the mask flow drew the generated masks."""

    train: SliceDataset
    held_out: SliceDataset
    generated: SliceDataset
    masks_are_generated: bool


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the tables, write the JSON, return what it holds."""
    args = arguments(argv)
    tune_allocator()
    stage1 = Stage1.load(str(args.model_dir))
    pairs = read_pairs(args, stage1)
    result: dict[str, Any] = {
        "arguments": vars(args),
        "versions": versions(),
        "pairs": {name: len(getattr(pairs, name)) for name in ("train", "held_out", "generated")},
        "faithfulness": faithfulness(pairs, args),
        "masks": masks(pairs, stage1) if pairs.masks_are_generated else None,
    }
    print_tables(result)
    with replacing(args.output) as temporary:
        temporary.write_text(json.dumps(result, indent=1, default=str, allow_nan=False) + "\n")
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--train_dir", type=Path, required=True)
    add("--held_out_dir", type=Path, help="default: what the training config held out")
    add("--model_dir", type=Path, required=True)
    add("--pairs_dir", type=Path, required=True)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one segmenter each")
    add("--steps", type=int, default=1500, help="of a segmenter (default 1500)")
    add("--batch_size", type=int, default=16)
    add("--learning_rate", type=float, default=2e-3)
    add("--device", default=default_device())
    add("--precision", default="auto")
    add("--output", type=Path, required=True, help="JSON file to write")
    return parser.parse_args(argv)


# -- reading ---------------------------------------------------------------------------------------


def read_pairs(args: argparse.Namespace, stage1: Stage1) -> Pairs:
    """The three sets, each read as the training read its own.

    Raises:
        InputError: no training config, pairs of other weights, held-out data that was trained on.
    """
    from_folder = check_provenance(args.pairs_dir, args.model_dir)
    config = training_config(args.model_dir, args.train_dir)
    train = config.get_parsed_content("train::dataset")
    held_out = held_out_cases(config, args)
    # The window that the writer turned [-1, 1] into native units with; percentiles of each
    # generated image would undo its brightness.
    return Pairs(
        train=train,
        held_out=read(config, held_out, stage1.preprocessing(), train),
        generated=read(
            config,
            build_datalist(args.pairs_dir),
            stage1.as_written().preprocessing(),
            train,
        ),
        masks_are_generated=not from_folder,
    )


def training_config(model_dir: Path, train_dir: Path) -> ConfigParser:
    """The config as it was run, its data set without augmentation."""
    path = model_dir / "train_config.json"
    if not path.is_file():
        raise InputError(f"'{model_dir}': no train_config.json; run `training`, which writes it")
    config = ConfigParser()
    config.read_config(path)
    config.update({"dataset_dir": str(train_dir), "train::dataset::transform": None})
    return config


def held_out_cases(config: ConfigParser, args: argparse.Namespace) -> list[Case]:
    """Cases of the held-out folder, else those the training config held out."""
    if args.held_out_dir is None:
        if config.get_parsed_content("validation_fraction") == 0:
            raise InputError("--held_out_dir: the training held nothing out; give a folder")
        return config.get_parsed_content("datalist")[1]
    if args.held_out_dir.resolve() == args.train_dir.resolve():
        raise InputError("--held_out_dir: is the training folder; give another one or leave it out")
    return build_datalist(args.held_out_dir)


def read(
    config: ConfigParser, cases: list[Case], preprocessing: Preprocessing, train: SliceDataset
) -> SliceDataset:
    """A data set like the training set."""
    classes = config.get_parsed_content("classes")
    return SliceDataset(cases, preprocessing, classes, like=train)


def check_provenance(pairs_dir: Path, model_dir: Path) -> bool:
    """Whether the masks of the pairs were given by a folder, not drawn by the mask flow.

    Raises:
        InputError: no provenance, or other weights than those of `model_dir`.
    """
    path = pairs_dir / "provenance.json"
    if not path.is_file():
        raise InputError(f"'{pairs_dir}': no provenance.json; give what `run infer` wrote")
    provenance = json.loads(path.read_text())
    if provenance["weights_sha256"] != weight_hashes(str(model_dir)):
        raise InputError(f"'{pairs_dir}': made by other weights than those of '{model_dir}'")
    return provenance["config"].get("dataset_dir") is not None


# -- measuring -------------------------------------------------------------------------------------


def faithfulness(pairs: Pairs, args: argparse.Namespace) -> dict[str, Any]:
    """Dice of each seed's segmenter on held-out and generated pairs, and the ratio of the means.

    The interval is over images, both sets being resampled; the scores of an image are averaged
    over the seeds before, so the spread of the seeds stands beside it and is not in it.
    """
    num_classes = pairs.train.num_classes
    sets = {"held_out": stacked(pairs.held_out), "generated": stacked(pairs.generated)}
    tables: dict[str, list[Table]] = {name: [] for name in sets}
    for seed in args.seeds:
        segmenter = train_segmenter(
            pairs.train,
            num_classes,
            steps=args.steps,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            seed=seed,
            device=args.device,
            precision=args.precision,
        )
        for name, (images, labels) in sets.items():
            tables[name].append(dice_table(segmenter, images, labels, num_classes))
    means = {name: np.mean(tables[name], axis=0) for name in sets}
    return {
        "seeds": {
            seed: {name: summary(tables[name][i]) for name in sets}
            for i, seed in enumerate(args.seeds)
        },
        **{name: summary(means[name]) for name in sets},
        "ratio": dice_ratio(means["generated"], means["held_out"]),
        "least_ratio": LEAST_FAITHFULNESS,
    }


def stacked(dataset: SliceDataset) -> tuple[Tensor, Tensor]:
    """All images (N, C, X, Y) and labels (N, 1, X, Y) of a data set, without augmentation."""
    return torch.stack([item["image"] for item in dataset.data]), dataset.label_stack


def dice_ratio(generated: Table, held_out: Table) -> dict[str, float]:
    """Mean Dice of generated over that of held-out pairs, with its bootstrap interval."""
    samples = [image_scores(generated), image_scores(held_out)]
    if samples[1].mean() == 0:
        raise InputError("--steps: the segmenter finds nothing in held-out pairs; train it longer")
    low, high = bootstrap_interval(samples, ratio_of_means)
    return {"value": ratio_of_means(*samples), "low": low, "high": high}


def ratio_of_means(a: Table, b: Table) -> float:
    """mean(a) / mean(b), the latter kept from 0: a resample may miss all that was found."""
    return float(a.mean() / max(b.mean(), 1e-6))


def masks(pairs: Pairs, stage1: Stage1) -> dict[str, Any]:
    """Distances of the areas with their ratio, and all statistics beside those of real masks."""
    scheme, num_classes = stage1.scheme, pairs.train.num_classes
    generated, train, held_out = (
        one.label_stack for one in (pairs.generated, pairs.train, pairs.held_out)
    )
    points = [mask_points(one, num_classes, scheme) for one in (generated, train, held_out)]
    statistics = mask_distances(points[0], points[2])
    floors = mask_distances(points[1], points[2])
    for found, labels in ((statistics, generated), (floors, held_out)):
        dice = nearest_dice(labels, train, num_classes, scheme)
        found |= {"nearest_dice_mean": float(dice.mean()), "nearest_dice_max": float(dice.max())}
    return {
        "area": {  # the first K-1 columns
            f"class{j}": area_ratio(*(one[:, j - 1].numpy() for one in points))
            for j in range(1, num_classes)
        },
        "most_ratio": MOST_AREA_RATIO,
        "statistics": statistics | {f"{name}_floor": value for name, value in floors.items()},
    }


def area_ratio(generated: Table, train: Table, held_out: Table) -> dict[str, float | None]:
    """Wasserstein-1 distances to the held-out areas (shares of the image) and their ratio.

    The interval is over held-out masks: few of them move both distances. The ratio is None where
    the training areas are exactly the held-out ones.
    """

    def ratio(reference: Table) -> float:
        return wasserstein_distance(generated, reference) / max(
            wasserstein_distance(train, reference), 1e-12
        )

    low, high = bootstrap_interval([held_out], ratio, resamples=1000)
    floor = wasserstein_distance(train, held_out)
    return {
        "generated": wasserstein_distance(generated, held_out),
        "train": floor,
        "ratio": ratio(held_out) if floor > 0 else None,
        "low": low,
        "high": high,
    }


# -- results ---------------------------------------------------------------------------------------


def print_tables(result: dict[str, Any]) -> None:
    """Dice, areas, other statistics."""
    counts = ", ".join(f"{name} {count}" for name, count in result["pairs"].items())
    print(f"slices: {counts}\n")
    print_faithfulness(result["faithfulness"])
    if result["masks"] is None:
        print("\nmasks: given by a folder, not drawn by the mask flow, so not compared")
    else:
        print_masks(result["masks"])


def print_faithfulness(found: dict[str, Any]) -> None:
    """A row for each seed and for their mean; the ratio."""
    print(f"{'Dice':10}{'held out':>10}{'generated':>11}")
    for seed, row in found["seeds"].items():
        print(f"{f'seed {seed}':10}{row['held_out']['mean']:10.3f}{row['generated']['mean']:11.3f}")
    classes = [key for key in found["held_out"] if key.startswith("class")]
    for key in ["mean", *classes]:
        row = [found[name].get(key, float("nan")) for name in ("held_out", "generated")]
        print(f"{key:10}{row[0]:10.3f}{row[1]:11.3f}")
    value, low, high = (found["ratio"][key] for key in ("value", "low", "high"))
    verdict = "holds" if value >= found["least_ratio"] else "does not hold"
    print(
        f"faithfulness, generated / held out: {value:.3f} (95% {low:.3f} to {high:.3f}); "
        f"at least {found['least_ratio']:g}: {verdict}"
    )


def print_masks(found: dict[str, Any]) -> None:
    """Areas with their verdict, then every statistic beside its floor."""
    print(f"\n{'W1 of area to held out':24}{'generated':>10}{'train':>10}{'ratio':>7}")
    for name, row in found["area"].items():
        ratio = row["ratio"]
        holds = ratio is not None and ratio <= found["most_ratio"]
        verdict = "holds" if holds else "does not hold"
        shown = "-" if ratio is None else f"{ratio:.2f}"
        print(
            f"{name:24}{row['generated']:10.4f}{row['train']:10.4f}{shown:>7} "
            f"(95% {row['low']:.2f} to {row['high']:.2f}); "
            f"at most {found['most_ratio']:g}: {verdict}"
        )
    statistics = found["statistics"]
    print(f"\n{'statistic':28}{'generated':>10}{'real':>9}")
    for name, value in statistics.items():
        if not name.endswith("_floor"):
            print(f"{name:28}{value:10.4f}{statistics[f'{name}_floor']:9.4f}")


if __name__ == "__main__":
    print_input_errors_as_one_line()
    main()
