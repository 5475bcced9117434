"""`run evaluate`: metrics of pairs with intervals and floors, and pictures."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignflow.config import running_config
from alignflow.evaluation.copies import Table, audit, exact_copies, nearest, pixels
from alignflow.evaluation.coverage import neighbour_scores
from alignflow.evaluation.distances import cubic, fid, median_kernel, unbiased
from alignflow.evaluation.encoder import HeldOutEncoder
from alignflow.evaluation.faithfulness import (
    bootstrap_interval,
    dice_table,
    image_scores,
    summary,
)
from alignflow.evaluation.masks import mask_distances, mask_points, nearest_dice
from alignflow.evaluation.plots import embedding, metric_panels, save
from alignflow.evaluation.sets import SYNTHETIC, read_sets
from alignflow.evaluation.spread import spread_ratios
from alignflow.evaluation.subsampling import Sampled, Subsampling, relative_reduction
from alignflow.files import replacing
from alignflow.inference.writing import versions
from alignflow.pictures import evenly, image_tiles, save_rows, y_points_up
from alignflow.segmentation.network import load_segmenter
from alignflow.stage1 import Stage1, weight_hashes

logger = logging.getLogger(__name__)

DISTANCES = ("kid", "mmd", "fid")
SHOWN = 8  # images in a row of a sheet


class Evaluation:
    """Compares generated pairs with real images; writes `evaluation.json` and four pictures.

    The real set is the unseen target images, or the references if none are given. In that case the
    distances show how well a few images were fitted, not how well the site was.

    Args:
        stage1: record of the generator, with which images are read.
        model_dir: folder of the record, source segmenter and weights.
        encoder: encoder for the feature distances, not used by the reward.
        subsampling: draws for the intervals.
        folders: folders of "source", "reference", "unaligned", "aligned" and "target"; all except
            "reference" and "aligned" may be None.
        output_dir: output folder.
        neighbours: k of precision, recall, density and coverage.
        batch_size: batch size of the encoder.
    """

    def __init__(
        self,
        *,
        stage1: Stage1,
        model_dir: str,
        encoder: HeldOutEncoder,
        subsampling: Subsampling,
        folders: dict[str, str | None],
        output_dir: str,
        neighbours: int = 5,
        batch_size: int = 64,
    ) -> None:
        self.stage1 = stage1
        self.model_dir = model_dir
        self.encoder = encoder
        self.subsampling = subsampling
        self.folders = folders
        self.output_dir = Path(output_dir)
        self.neighbours = neighbours
        self.batch_size = batch_size
        # It cannot be found later, outside the config's expression.
        self.config = running_config()

    def run(self) -> dict[str, Any]:
        """Measure everything, write it, and return the content of `evaluation.json`."""
        self.sets = read_sets(self.folders, self.stage1, self.encoder, self.batch_size)
        self.real_name = "target" if "target" in self.sets else "reference"
        self.real = self.sets[self.real_name]
        sampled = self.image_metrics()
        metrics = records(sampled)
        result = {
            "real_set": self.real_name,
            "unseen": self.real_name == "target",
            "encoder": {"name": self.encoder.name, "size": list(self.encoder.size)},
            "sets": {name: s.facts() for name, s in self.sets.items()},
            "metrics": metrics,
            "fall": relative_reductions(sampled),
            "copies": self.copies(),
            "exact_copies": self.exact_copies(),
            "masks": self.masks(),
            "faithfulness": self.faithfulness(),
            "provenance": self.provenance(),
        }
        self.write(result)
        self.draw(metrics)
        log(result)
        return result

    def image_metrics(self) -> dict[str, dict[str, Sampled]]:
        """{metric: {set: draws}} of every set against the real set, in the held-out encoder."""
        kernel = median_kernel(self.real.features) if len(self.real) > 1 else cubic

        def statistics(generated: Tensor, real: Tensor) -> dict[str, float]:
            distances = {
                "kid": unbiased(generated, real, cubic),
                "mmd": unbiased(generated, real, kernel),
                "fid": fid(generated, real),
            }
            scores = neighbour_scores(generated, real, self.neighbours)
            return distances | scores | spread_ratios(generated, real)

        others = {name: s for name, s in self.sets.items() if name != self.real_name}
        return by_metric(
            {
                name: self.subsampling(statistics, s.features, self.real.features)
                for name, s in others.items()
            }
        )

    def copies(self) -> dict[str, Any]:
        """{known set: {space: audit}} of the pairs against source images and references."""
        known = [name for name in ("source", "reference") if name in self.sets]
        result: dict[str, Any] = {name: self.copies_of(name) for name in known}
        if "source" in result and self.masked("source", "aligned"):
            result["source"]["masks"] = self.copied_masks()
        return result

    def exact_copies(self) -> dict[str, int]:
        """{known set: number of pairs that are copies of one of its images}."""
        pairs = self.sets["aligned"].images
        known = [name for name in ("source", "reference", "target") if name in self.sets]
        return {n: int((exact_copies(pairs, self.sets[n].images) >= 0).sum()) for n in known}

    def copies_of(self, name: str) -> dict[str, Any]:
        """Audits against one set of known images, in pixels and in the encoder's features."""
        pairs, known = self.sets["aligned"], self.sets[name]
        views = {
            "pixels": [pixels(s.images) for s in (pairs, self.real, known)],
            "encoder": [s.features for s in (pairs, self.real, known)],
        }
        return {
            view: audit(nearest(generated, points)[0], self.real_distances(real, points, name))
            for view, (generated, real, points) in views.items()
        }

    def real_distances(self, real: Tensor, known: Tensor, name: str) -> Table:
        """Nearest distances of the real images, without themselves if they are the known set."""
        if name != self.real_name:
            return nearest(real, known)[0]
        return nearest(real, known, leave_one_out=True)[0] if len(real) > 1 else np.empty(0)

    def copied_masks(self) -> dict[str, Any]:
        """Audit of the masks against those of the source, with distance 1 - Dice."""
        classes, scheme = self.stage1.num_classes, self.stage1.scheme
        known = self.sets["source"].labels
        distances = [
            1 - nearest_dice(s.labels, known, classes, scheme) if len(s.labels) else np.empty(0)
            for s in (self.sets["aligned"], self.real)
        ]
        return audit(distances[0], distances[1])

    def masks(self) -> dict[str, Any] | None:
        """Mask statistics against masks of the target or source; None without such masks."""
        against = next((n for n in ("target", "source") if self.masked(n)), None)
        if against is None or not self.masked("aligned"):
            return None
        classes, scheme = self.stage1.num_classes, self.stage1.scheme
        real = mask_points(self.sets[against].labels, classes, scheme)
        sampled = {
            name: self.subsampling(
                mask_distances, mask_points(self.sets[name].labels, classes, scheme), real
            )
            for name in ("source", *SYNTHETIC)
            if name != against and self.masked(name)
        }
        return {"real_set": against, "metrics": records(by_metric(sampled))}

    def faithfulness(self) -> dict[str, Any]:
        """Dice of the source segmenter on each set with masks, and its fall by alignment.

        On real sets it shows how good the segmenter is with correct masks: on the source, where it
        may have seen some images in training, and at the target.
        """
        device = next(self.encoder.parameters()).device
        segmenter = load_segmenter(self.stage1, self.model_dir, device)
        tables = {
            name: dice_table(segmenter, s.masked, s.labels, self.stage1.num_classes)
            for name, s in self.sets.items()
            if len(s.labels)
        }
        counted = {n: t for n, t in tables.items() if (~np.isnan(t)).any(axis=1).sum() > 1}
        return {
            "dice": {name: summary(table) for name, table in counted.items()},
            "fall": dice_fall({name: image_scores(table) for name, table in counted.items()}),
        }

    def masked(self, *names: str) -> bool:
        """Whether all these sets are given and have masks."""
        return all(name in self.sets and len(self.sets[name].labels) for name in names)

    def provenance(self) -> dict[str, Any]:
        """Config, weights and versions behind the figures."""
        return {
            "config": self.config,
            "weights_sha256": weight_hashes(self.model_dir),
            "versions": versions(),
        }

    def write(self, result: dict[str, Any]) -> None:
        """Write `evaluation.json`, without NaN."""
        text = json.dumps(result, indent=1, default=str, allow_nan=False)
        with replacing(self.output_dir / "evaluation.json") as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def draw(self, metrics: dict[str, dict[str, Any]]) -> None:
        """Write the four pictures."""
        y_up = y_points_up(self.stage1.source)
        features = {name: s.features for name, s in self.sets.items()}
        panels = {name: (name, sets) for name, sets in metrics.items()}
        rows = {name: image_tiles(s.images[evenly(len(s), SHOWN)]) for name, s in self.sets.items()}
        save(embedding(features), self.output_dir / "features.png")
        save(metric_panels(panels), self.output_dir / "metrics.png")
        save_rows(self.output_dir / "rows.png", rows, y_up)
        save_rows(self.output_dir / "nearest.png", self.nearest_pairs(), y_up)

    def nearest_pairs(self) -> dict[str, np.ndarray]:
        """Rows of the generated images nearest, in pixels, to a reference or source image."""
        pairs, rows = self.sets["aligned"], {}
        for name in ("reference", "source"):
            if name in self.sets:
                known = self.sets[name]
                distance, index = nearest(pixels(pairs.images), pixels(known.images))
                first = torch.as_tensor(distance.argsort()[:SHOWN].copy())
                rows[f"aligned, by {name}"] = image_tiles(pairs.images[first])
                rows[f"nearest {name}"] = image_tiles(known.images[index[first]])
        return rows


def by_metric(sampled: dict[str, dict[str, Sampled]]) -> dict[str, dict[str, Sampled]]:
    """{metric: {set: draws}} from {set: {metric: draws}}."""
    metrics = next(iter(sampled.values()), {})
    return {metric: {name: s[metric] for name, s in sampled.items()} for metric in metrics}


def records(sampled: dict[str, dict[str, Sampled]]) -> dict[str, dict[str, Any]]:
    """Values, intervals and floors from draws."""
    return {m: {name: s.record() for name, s in sets.items()} for m, sets in sampled.items()}


def relative_reductions(sampled: dict[str, dict[str, Sampled]]) -> dict[str, Any] | None:
    """Relative reduction of each distance by alignment; None without unaligned pairs."""
    if "unaligned" not in sampled["kid"]:
        return None
    return {
        m: relative_reduction(sampled[m]["aligned"], sampled[m]["unaligned"]) for m in DISTANCES
    }


def dice_fall(scores: dict[str, Table]) -> dict[str, float] | None:
    """Dice on unaligned minus Dice on aligned pairs, with interval; None without both."""
    if not all(name in scores for name in SYNTHETIC):
        return None
    both = [scores[name] for name in SYNTHETIC]
    low, high = bootstrap_interval(both, lambda one, two: float(one.mean() - two.mean()))
    return {"value": float(both[0].mean() - both[1].mean()), "low": low, "high": high}


def log(result: dict[str, Any]) -> None:
    """Log one line per metric."""
    for metric, sets in result["metrics"].items():
        known = [f"{n} {r['value']:.4g}" for n, r in sets.items() if r["value"] is not None]
        if known:
            floor = sets["aligned"]["floor"]["value"]
            floor = "undefined" if floor is None else f"{floor:.4g}"
            logger.info("%s: %s; real against real %s", metric, ", ".join(known), floor)
    dice = result["faithfulness"]["dice"]
    logger.info("Dice: %s", ", ".join(f"{n} {d['mean']:.3f}" for n, d in dice.items()))
