"""Which images of a new site to annotate first: the witness strategy against random choice.

A pool of the target's images is annotated in an order; after 10, 20 and 40 the source's segmenter
is trained on with the masks so far, always for as many steps, and scored on images of the target
that are in no pool. Orders:

  random    a random one, by the seed
  witness   by the reward's witness function (`run witness`), the highest first
  covered   the same, against synthetic and annotated images together, anew after each image
  farthest  the image farthest from all synthetic and annotated ones in the reward's features

Every run leaves a file in --results, and a run that has one is not done again; several processes
may work on one folder. With --table what is there is summed up.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "adaptation"))

from common import command_line, save  # noqa: E402
from locks import Busy, locked  # noqa: E402
from splits import Site, fingerprint, link_pairs, split_target  # noqa: E402
from stages import BUNDLE, Cache, Settings, read_settings, run_here, say, write_json  # noqa: E402

from alignflow.alignment.reward import SetReward  # noqa: E402
from alignflow.errors import InputError, print_input_errors_as_one_line  # noqa: E402
from alignflow.evaluation.paired import paired_gain  # noqa: E402
from alignflow.inference.writing import versions  # noqa: E402
from alignflow.label.witness import site_witness  # noqa: E402
from alignflow.stage1 import Stage1, weight_hashes  # noqa: E402

SEGMENT: Settings = {"init": "source", "learning_rate": 0.001, "epochs": 5, "steps_per_epoch": 100}


class Pool:
    """The images of the pool and of the generator, as the reward sees them.

    Args:
        folder: of the pool: images and masks.
        model_dir: bundle whose segmenter and generator are used.
        settings: overrides of align.json.
        seed: of the generator's samples.

    Attributes:
        names: file of each image.
        images: (N, C, X, Y) in [-1, 1].
        samples: of the generator, (S, C, X, Y).
        reward: fitted to both.
    """

    def __init__(self, folder: Path, model_dir: Path, settings: Settings, seed: int) -> None:
        config = ConfigParser(json.loads((BUNDLE / "configs/align.json").read_text()))
        config.update(settings | {"model_dir": str(model_dir), "reference_dir": str(folder)})
        config.update({"seed": seed, "bundle_root": str(BUNDLE)})
        references = config.get_parsed_content("references")
        self.names: list[str] = references.names
        self.images: Tensor = references.images
        self.reward: SetReward = config.get_parsed_content("reward")
        self.samples: Tensor = config.get_parsed_content("unaligned").cpu()
        self.noise = float(config["view_noise"])
        self.seed = seed

    def witness(self, others: Tensor) -> Tensor:
        """The witness of the pool against other images, (N,)."""
        return site_witness(self.reward, others, self.images, self.noise, self.seed)


def by_random(pool: Pool, count: int) -> list[int]:
    """A random order."""
    return random.Random(pool.seed).sample(range(len(pool.names)), count)


def by_witness(pool: Pool, count: int) -> list[int]:
    """By the witness against synthetic images."""
    return pool.witness(pool.samples).topk(count).indices.tolist()


def by_covered(pool: Pool, count: int) -> list[int]:
    """By the witness against synthetic and annotated images."""
    chosen: list[int] = []
    for _ in range(count):
        scores = pool.witness(torch.cat([pool.samples, pool.images[chosen]]))
        scores[chosen] = -torch.inf
        chosen.append(int(scores.argmax()))
    return chosen


def by_distance(pool: Pool, count: int) -> list[int]:
    """The farthest from all synthetic and annotated images, each time."""
    features = pool.reward.features(pool.images)
    nearest = torch.cdist(features, pool.reward.features(pool.samples)).min(dim=1).values
    chosen: list[int] = []
    for _ in range(count):
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, torch.cdist(features, features[chosen[-1:]])[:, 0])
        nearest[chosen] = -torch.inf
    return chosen


ORDERS: dict[str, Callable[[Pool, int], list[int]]] = {
    "random": by_random,
    "witness": by_witness,
    "covered": by_covered,
    "farthest": by_distance,
}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    add = parser.add_argument
    add("--target", type=Path, required=True, help="folder of the target's images and masks")
    add("--target_column", help="column of index.csv that chooses rows")
    add("--target_value", help="what the chosen rows have there")
    add("--target_group_column", help="column of index.csv that splits keep whole")
    add("--model_dir", type=Path, required=True, help="bundle of the source, or aligned")
    add("--name", required=True, help="of the pair: the folder in RESULTS")
    add("--orders", nargs="+", choices=list(ORDERS), default=list(ORDERS), help="default: all")
    add("--counts", type=int, nargs="+", default=[10, 20, 40], help="annotated images")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of samples and segmenters")
    add("--epochs", type=int, default=SEGMENT["epochs"], help="of the segmenter")
    add("--steps_per_epoch", type=int, default=SEGMENT["steps_per_epoch"], help="in each")
    add("--samples", type=int, default=64, help="synthetic images that the pool is compared with")
    add("--settings", type=Path, default=HERE / "adaptation/settings.json", help="of align.json")
    add("--work", type=Path, required=True, help="folder for data and segmenters")
    add("--results", type=Path, required=True, help="folder for the results")
    add("--table", action="store_true", help="print what there is and stop")
    add("--output", type=Path, help="with --table: write its lines as JSON")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what has no result yet, or print the table."""
    args = arguments(argv)
    folder = args.results.resolve() / args.name
    if args.table:
        text = table(read_results(folder))
        print(text)
        save({"table": text.splitlines()}, args.output)
        return 0
    args.work, args.model_dir = args.work.resolve(), args.model_dir.resolve()
    Stage1.load(str(args.model_dir))
    site = Site(
        args.target.resolve(), args.target_column, args.target_value, args.target_group_column
    )
    split = split_target(site.cases())
    if max(args.counts) > len(split.pool):
        raise InputError(f"--counts {max(args.counts)}: the pool has {len(split.pool)} images")
    cache = Cache(args.work)
    pool_dir, test_dir = (
        cache.make("data", {"pairs": fingerprint(cases)}, linker(cases), wait=True)
        for cases in (split.pool, split.test)
    )
    cases = {Path(case["image"]).name: case for case in split.pool}
    for seed in args.seeds:
        waiting = [
            (order, count)
            for order in args.orders
            for count in args.counts
            if not result_path(folder, order, count, seed).is_file()
        ]
        pool = make_pool(args, pool_dir, seed) if waiting else None
        for order, count in waiting:
            assert pool is not None
            path = result_path(folder, order, count, seed)
            try:
                with locked(args.work / "jobs" / f"{args.name}-{path.stem}.lock"):
                    names = [pool.names[i] for i in ORDERS[order](pool, count)]
                    labelled = [cases[name] for name in names]
                    scores = train_and_score(args, cache, labelled, test_dir, seed)
                    result = {"order": order, "count": count, "seed": seed, "images": names}
                    write_json(path, result | scores | facts(args))
                    say(f"{path.stem}: Dice {100 * scores['dice_mean']:.1f}")
            except Busy:
                continue
    return 0


def make_pool(args: argparse.Namespace, pool_dir: Path, seed: int) -> Pool:
    """The pool and as many synthetic images as asked for."""
    settings = read_settings(args.settings).get("align", {})
    settings |= {"num_masks": args.samples, "num_samples": args.samples}
    return Pool(pool_dir, args.model_dir, settings, seed)


def linker(cases: Sequence[dict[str, str]]) -> Callable[[Path, int], None]:
    """Fills a folder with links to cases."""
    return lambda folder, _: void(link_pairs(folder, list(cases)))


def void(_: object) -> None:
    """Nothing."""


def train_and_score(
    args: argparse.Namespace,
    cache: Cache,
    labelled: Sequence[dict[str, str]],
    test_dir: Path,
    seed: int,
) -> dict[str, Any]:
    """Dice of the segmenter trained on these images: of each test image, and the mean."""
    data = cache.make("data", {"pairs": fingerprint(list(labelled))}, linker(labelled), wait=True)
    overrides = SEGMENT | {
        "epochs": args.epochs,
        "steps_per_epoch": args.steps_per_epoch,
        "model_dir": str(args.model_dir),
        "dataset_dir": str(data),
        "test_dir": str(test_dir),
        "network_def": Stage1.load(str(args.model_dir)).segmenter,
        "validation_fraction": 0,
        "seed": seed,
    }
    content = {"overrides": overrides, "weights": weight_hashes(str(args.model_dir))}
    folder = cache.make(
        "segment",
        content,
        lambda place, _: run_here("segment", "segment", overrides | {"output_dir": str(place)}),
    )
    images = json.loads((folder / "scores.json").read_text())["images"]
    dice = [image_score(list(image["dice"].values())) for image in images.values()]
    counted = [score for score in dice if score is not None]
    return {"dice_mean": round(float(np.mean(counted)), 5), "dice": dice}


def image_score(classes: list[float | None]) -> float | None:
    """Mean over the classes that an image has; None without any."""
    present = [score for score in classes if score is not None]
    return round(sum(present) / len(present), 4) if present else None


def facts(args: argparse.Namespace) -> dict[str, Any]:
    """What a result was made with."""
    steps = args.epochs * args.steps_per_epoch
    weights = weight_hashes(str(args.model_dir))
    return {"steps": steps, "samples": args.samples, "weights": weights, "versions": versions()}


def result_path(folder: Path, order: str, count: int, seed: int) -> Path:
    """Where the result of a run goes."""
    return folder / f"{order}-{count}-seed{seed}.json"


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results of a pair."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*-seed*.json"))]
    if not found:
        raise InputError(f"--results '{folder}': no results yet; run without --table first")
    return found


def table(results: Sequence[dict[str, Any]]) -> str:
    """Mean Dice by order and count, and its difference to random choice of the same seeds."""
    counts = sorted({r["count"] for r in results})
    heads = ["order", *(f"{count} annotated" for count in counts)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for order in ORDERS:
        cells = [cell(results, order, count) for count in counts]
        if any(cells):
            lines.append("| " + " | ".join([order, *cells]) + " |")
    return "\n".join(lines)


def cell(results: Sequence[dict[str, Any]], order: str, count: int) -> str:
    """Points of Dice, and with results of `random` the difference with its 95% interval."""
    own, base = (
        {r["seed"]: r["dice"] for r in results if (r["order"], r["count"]) == (name, count)}
        for name in (order, "random")
    )
    if not own:
        return ""
    text = f"{np.nanmean(points(own.values())):.1f} ({len(own)})"
    both = sorted(own.keys() & base.keys())
    if order == "random" or not both:
        return text
    gain = paired_gain(points(own[seed] for seed in both), points(base[seed] for seed in both))
    return f"{text}, {gain['value']:+.1f} ({gain['low']:+.1f} to {gain['high']:+.1f})"


def points(dice: Iterable[Sequence[float | None]]) -> np.ndarray:
    """(seeds, images) in per cent, NaN for images without foreground."""
    return 100 * np.array(list(dice), dtype=float)


if __name__ == "__main__":
    print_input_errors_as_one_line()
    raise SystemExit(main())
