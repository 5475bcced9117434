"""Segmenters that were scored at the site, and how they differ."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alignflow.errors import InputError
from alignflow.evaluation.copies import Table
from alignflow.evaluation.paired import groups_of, paired_gain
from alignflow.evaluation.verdict import image_means
from alignflow.report.inputs import read_json, read_optional

Kind = Literal["without", "unaligned", "aligned", "synthetic", "unknown"]
"""What a segmenter learnt from: real pairs alone; and pairs of the bundle before or after
alignment, or of one that cannot be told; or there is no record of it."""

KINDS: dict[Kind, str] = {
    "without": "real pairs alone",
    "unaligned": "with unaligned pairs",
    "aligned": "with aligned pairs",
    "synthetic": "with synthetic pairs",
    "unknown": "no record",
}
"""In words."""

OF_A_RUN = {
    "_meta_",
    "bundle_root",
    "dataset_dir",
    "device",
    "model_dir",
    "output_dir",
    "pairs_dir",
    "seed",
    "segmenter_dir",
    "test_dir",
}
"""Keys of a segmenter's config that do not tell one arm from another."""


@dataclass(frozen=True)
class Arm:
    """A segmenter's setting, with the scores of each of its trainings.

    Attributes:
        name: of its folder, or what the folders of its seeds have in common.
        kind: see `Kind`.
        settings: what two arms must share to differ by their pairs alone; "" where unknown.
        dice, iou: (trainings, images), points, mean over classes; NaN without foreground.
        groups: patient or sequence of each image; None: each is its own.
        by_class: {class: {"dice": points, "hd95": pixels}}, (trainings, images) each.
    """

    name: str
    kind: Kind
    settings: str
    dice: Table
    iou: Table
    groups: Sequence[str] | None = None
    by_class: dict[str, dict[str, Table]] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """Number of trainings."""
        return len(self.dice)

    @property
    def counted(self) -> int:
        """Images with foreground."""
        return int(np.isfinite(self.dice).all(axis=0).sum())

    def score(self, of: str = "dice") -> dict[str, Any]:
        """Mean in points with its 95% interval, that of `paired_gain` over nothing."""
        return self._mean(getattr(self, of))

    def of_class(self, name: str, of: str) -> dict[str, Any]:
        """The same for "dice" or "hd95" of one class."""
        return self._mean(self.by_class[name][of])

    def _mean(self, table: Table) -> dict[str, Any]:
        return paired_gain(table, np.zeros_like(table), self.groups)


@dataclass(frozen=True)
class _Scored:
    """One folder: what `run segment` or `run test` wrote."""

    folder: Path
    kind: Kind
    settings: str
    images_sha256: str
    images: tuple[str, ...]
    dice: Table
    iou: Table
    by_class: dict[str, dict[str, Table]]


def read_arms(
    folders: str | Sequence[str] | None,
    generators: dict[str, str | None],
    labelled: str | None = None,
) -> list[Arm] | None:
    """The arms in some folders, in their order; None without any.

    A folder holds `scores.json` (and `segmenter.json`), or folders that do. Folders whose configs
    differ by their seed alone are one arm.

    Args:
        folders: one, or a list.
        generators: SHA-256 of the image flow's weights, of "unaligned" and "aligned"; None where
            unknown.
        labelled: images that were scored, which name the group of each; or None.

    Raises:
        InputError: no scores, damaged ones, or arms that were scored on different images.
    """
    if folders is None:
        return None
    given = [folders] if isinstance(folders, str) else list(folders)
    scored = [_read(path, generators) for folder in given for path in _scored_folders(folder)]
    for other in scored[1:]:
        same = (other.images_sha256, other.images) == (scored[0].images_sha256, scored[0].images)
        if not same:
            raise InputError(
                f"segment_dir: '{scored[0].folder}' and '{other.folder}' were scored on different "
                "images; score both on one test_dir"
            )
    groups: dict[tuple[str, str], list[_Scored]] = {}
    for number, one in enumerate(scored):
        groups.setdefault((one.kind, one.settings or str(number)), []).append(one)
    of_images = groups_of(labelled, scored[0].images)
    return [_joined(group, of_images) for group in groups.values()]


def _scored_folders(folder: str) -> list[Path]:
    root = Path(folder)
    found = [root] if (root / "scores.json").is_file() else []
    found = found or sorted(path.parent for path in root.glob("*/scores.json"))
    if not found:
        raise InputError(
            f"segment_dir '{folder}': no scores.json in it; run segment with a test_dir"
        )
    return found


def _read(folder: Path, generators: dict[str, str | None]) -> _Scored:
    path = folder / "scores.json"
    needed = ("images", "images_sha256", "segmenter_sha256")
    content = read_json(path, "segment_dir", needed, "run segment with a test_dir")
    try:
        images = content["images"]
        tables = {name: image_means([one[name] for one in images.values()]) for name in SCORES}
        by_class = {
            name: {
                of: np.array([one[of][name] for one in images.values()], float) * scale
                for of, scale in (("dice", 100), ("hd95", 1))
            }
            for name in next(iter(images.values()))["hd95"]
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"segment_dir '{path}': damaged ({error}); run segment with a test_dir again"
        ) from error
    if (~np.isnan(tables["dice"])).sum() < 2:
        raise InputError(f"segment_dir '{path}': fewer than two images with foreground; give more")
    kind, settings = _origin(folder, content["segmenter_sha256"], generators)
    return _Scored(
        folder, kind, settings, content["images_sha256"], tuple(images), **tables, by_class=by_class
    )


SCORES = ("dice", "iou")


def _origin(folder: Path, digest: str, generators: dict[str, str | None]) -> tuple[Kind, str]:
    """What a segmenter learnt from, and its settings, from the record beside its scores."""
    record = read_optional(folder / "segmenter.json", "segment_dir") or {}
    made = record.get("provenance", {})
    if made.get("weights_sha256") != digest or not isinstance(made.get("config"), dict):
        return "unknown", ""
    config = {key: value for key, value in made["config"].items() if key not in OF_A_RUN}
    settings = json.dumps(config, sort_keys=True, default=str)
    if made.get("synthetic") == 0:
        return "without", settings
    pairs = Path(str(made["config"].get("pairs_dir"))) / "provenance.json"
    drawn = (read_optional(pairs, "segment_dir") or {}).get("weights_sha256", {}).get("model.pt")
    # where alignment kept the weights that it began with, pairs of both are aligned ones
    for kind in ("aligned", "unaligned"):
        if drawn is not None and drawn == generators.get(kind):
            return kind, settings
    return "synthetic", settings


def _joined(group: list[_Scored], groups: list[str] | None) -> Arm:
    names = [one.folder.name for one in group]
    common = os.path.commonprefix(names).rstrip("_-. ") or names[0]
    return Arm(
        name=common,
        kind=group[0].kind,
        settings=group[0].settings,
        dice=np.stack([one.dice for one in group]),
        iou=np.stack([one.iou for one in group]),
        groups=groups,
        by_class={
            name: {
                of: np.stack([one.by_class[name][of] for one in group]) for of in ("dice", "hd95")
            }
            for name in group[0].by_class
        },
    )


def difference(arm: Arm, base: Arm) -> dict[str, Any]:
    """Dice of an arm less that of another, see `paired_gain`.

    Where the numbers of trainings differ, their means are compared: as of one training.
    """
    ours, other = arm.dice, base.dice
    if arm.seeds != base.seeds:
        ours, other = ours.mean(axis=0, keepdims=True), other.mean(axis=0, keepdims=True)
    return paired_gain(ours, other, arm.groups)
