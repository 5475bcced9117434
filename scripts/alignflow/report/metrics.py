"""The tables of an evaluation: what each figure means, and which way is better."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignflow.report.text import interval, number, percent

NEAR = "nearer to real against real is better"


@dataclass(frozen=True)
class Metric:
    """A figure in words.

    Attributes:
        title: of the row and of the panel.
        meaning: what it tells, and its unit.
        better: which way.
    """

    title: str
    meaning: str
    better: str


IMAGES = {
    "kid": Metric("KID", "distance between sets of images (no unit)", "lower is better"),
    "mmd": Metric("MMD", "the same with another kernel (no unit)", "lower is better"),
    "fid": Metric("FID", "the same, means and covariances alone (no unit)", "lower is better"),
    "precision": Metric(
        "Precision", "share of synthetic images that lie among real ones", "higher is better"
    ),
    "recall": Metric(
        "Recall", "share of real images that lie among synthetic ones", "higher is better"
    ),
    "density": Metric(
        "Density", "how densely synthetic images lie where real ones do (1: as dense)", NEAR
    ),
    "coverage": Metric(
        "Coverage", "share of real images with a synthetic one near by", "higher is better"
    ),
    "spread": Metric(
        "Spread", "mean distance of different images, over that of real ones (1: as varied)", NEAR
    ),
    "variance": Metric("Variance", "total variance, over that of real images (1: as varied)", NEAR),
}
MASKS = {
    "area": "share of the image",
    "eccentricity": "eccentricity (0 round, 1 a line)",
    "components": "number of separate parts",
    "holes": "number of holes",
}
MASK_NAME = re.compile(r"w1_(\w+)_class(\d+)")


@dataclass(frozen=True)
class Cell:
    """A value with its interval, as text, and a remark where it has another floor."""

    value: str
    interval: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A line of a table: its metric, and a cell for each column (None: undefined)."""

    metric: Metric
    cells: list[Cell | None]


def image_rows(evaluation: dict[str, Any], columns: Sequence[str]) -> list[Row]:
    """Rows of the image metrics; columns are sets, "floor" and "fall"."""
    falls = evaluation["fall"] or {}
    return [
        Row(
            IMAGES.get(name, Metric(name, "", "")),
            [_cell(column, records, falls.get(name)) for column in columns],
        )
        for name, records in evaluation["metrics"].items()
    ]


def panels(
    evaluation: dict[str, Any], names: Sequence[str]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """What the chart shows of them: every metric that one of the named sets has."""
    found = {}
    for name, of_all in evaluation["metrics"].items():
        records = {n: of_all[n] for n in names if n in of_all}
        if any(record["value"] is not None for record in records.values()):
            metric = IMAGES.get(name, Metric(name, "", ""))
            way = metric.better.replace(NEAR, "near the band")
            found[name] = (f"{metric.title}: {way}", records)
    return found


def mask_rows(
    evaluation: dict[str, Any], columns: Sequence[str], labels: Sequence[str]
) -> list[Row]:
    """Rows of the mask statistics, with the names of the classes."""
    rows = []
    for name, records in (evaluation["masks"] or {}).get("metrics", {}).items():
        parts = MASK_NAME.fullmatch(name)
        statistic, k = (parts[1], int(parts[2])) if parts else (name, 0)
        of = labels[k] if 0 < k < len(labels) else "all"
        title = f"{statistic.capitalize()} of {of}"
        unit = MASKS.get(statistic, statistic)
        metric = Metric(title, f"Wasserstein-1 distance; {unit}", "lower is better")
        rows.append(Row(metric, [_cell(column, records, None) for column in columns]))
    return rows


def dice_rows(evaluation: dict[str, Any]) -> list[tuple[str, Cell]]:
    """(set, Dice of the source segmenter on it)."""
    return [
        (name, Cell(number(score["mean"]), interval(score)))
        for name, score in evaluation["faithfulness"]["dice"].items()
    ]


def copy_rows(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """One line for each known set and each space of the copy audit."""
    spaces = {"pixels": "pixels", "encoder": "features", "masks": "masks (1 - Dice)"}
    return [
        {
            "known": known,
            "space": spaces.get(view, view),
            "ratio": Cell(number(found["ratio"]["value"]), interval(found["ratio"])),
            "share": percent(found["share_below_5%"]),
            "smallest": number(found["smallest"]),
            "smallest_real": number(found["smallest_real"]),
        }
        for known, views in evaluation["copies"].items()
        for view, found in views.items()
    ]


def present(evaluation: dict[str, Any], real_set: str) -> list[str]:
    """Sets that were compared with real images, in the order of the page.

    References against the rest of the site are real against real, at a number of images of their
    own: they would only confuse.
    """
    order = ("unaligned", "aligned", "source")
    known = {name for records in evaluation["metrics"].values() for name in records}
    return [name for name in order if name in known and name != real_set]


def _cell(column: str, records: dict[str, Any], fall: dict[str, Any] | None) -> Cell | None:
    if column == "fall":
        if fall is None:
            return Cell("", "")
        if fall["value"] is None:
            return None
        ends = [fall["low"], fall["high"]]
        shown = "" if None in ends else f"{percent(ends[0])} to {percent(ends[1])}"
        return Cell(percent(fall["value"]), shown)
    record = records.get("aligned", {}).get("floor") if column == "floor" else records.get(column)
    if not record or record["value"] is None:
        return None
    note = ""
    size = records.get("aligned", {}).get("n")
    if column != "floor" and record["n"] != size:
        note = f"at {record['n']} images; real {number(record['floor']['value'])}"
    return Cell(number(record["value"]), interval(record), note)
