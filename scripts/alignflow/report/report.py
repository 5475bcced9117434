"""`run report`: one HTML file with all that is known of a set of aligned pairs."""

from __future__ import annotations

import logging
from datetime import date
from pathlib import Path
from typing import Any

from alignflow.evaluation.encoder import HeldOutEncoder
from alignflow.evaluation.paired import sureness
from alignflow.evaluation.plots import embedding, metric_panels
from alignflow.evaluation.sets import SYNTHETIC, read_sets
from alignflow.files import replacing
from alignflow.pictures import y_points_up
from alignflow.report import charts, metrics
from alignflow.report.alarms import alarms
from alignflow.report.arms import KINDS, Arm, difference, read_arms
from alignflow.report.card import check_given, data_card
from alignflow.report.inputs import (
    read_audit,
    read_evaluation,
    read_picture,
    read_verdict,
)
from alignflow.report.lineage import Lineage
from alignflow.report.page import render
from alignflow.report.text import interval, number, percent, points, signed_points
from alignflow.report.tiles import TileMaker, colour
from alignflow.report.verdict import baseline, compared, judge
from alignflow.stage1 import Stage1

logger = logging.getLogger(__name__)

NEAREST = 4  # pairs of each kind in the copy audit
LARGE = 5_000_000  # bytes
SMALLEST_SHARE = 0.05  # of a distance: a smaller change is not called one


class Report:
    """Gathers what other runs wrote, computes what is missing, writes the page.

    Computed here: pictures, the plane of features, nearest pairs, differences of segmenters. All
    else is read.

    Args:
        stage1: record of a bundle; says how images are read.
        encoder: held-out one, of the plane and the nearest pairs.
        bundles: folders of the bundle "unaligned" and "aligned"; None where missing.
        folders: of the images "source", "reference", "unaligned", "aligned", "target"; all but
            "reference" and "aligned" may be None.
        evaluation_dir: of `run evaluate`, or None.
        segment_dir: of `run segment` or `run test`, or a folder or list of such; or None.
        verdict: `verdict.json` of `run adapt`, whose answer is then the page's, with the
            `verdict.png` beside it; or None.
        audit_dir: of `run audit`, or None.
        card: texts for the data card's open fields.
        intended_use: of the bundle's metadata.
        output: the HTML file.
        real_images: show source, reference and target images; else synthetic ones alone.
        file_names: show names of files.
        shown: images of each set.
        tile_size: longest side of a picture, pixels.
        batch_size: of the encoder.
    """

    def __init__(
        self,
        *,
        stage1: Stage1,
        encoder: HeldOutEncoder,
        bundles: dict[str, str | None],
        folders: dict[str, str | None],
        evaluation_dir: str | None,
        segment_dir: str | list[str] | None,
        verdict: str | None,
        audit_dir: str | None,
        card: dict[str, str],
        intended_use: str,
        output: str,
        real_images: bool = True,
        file_names: bool = False,
        shown: int = 8,
        tile_size: int = 128,
        batch_size: int = 64,
    ) -> None:
        check_given(card)
        self.stage1 = stage1
        self.encoder = encoder
        self.bundles = bundles
        self.folders = folders
        self.evaluation = read_evaluation(evaluation_dir)
        self.segment_dir = segment_dir
        self.adapted = read_verdict(verdict)
        self.picture = read_picture(verdict) if real_images else None
        self.audit = read_audit(audit_dir)
        self.given = card
        self.intended_use = intended_use
        self.output = Path(output)
        self.real_images = real_images
        self.file_names = file_names
        self.count = shown
        self.tile_size = tile_size
        self.batch_size = batch_size

    def run(self) -> None:
        """Write the page."""
        self.sets = read_sets(self.folders, self.stage1, self.encoder, self.batch_size)
        self.lineage = Lineage(
            sets=self.sets,
            bundles=self.bundles,
            pairs={name: self.folders[name] for name in SYNTHETIC},
            evaluation=self.evaluation,
        )
        self.tiles = TileMaker(
            self.sets,
            y_up=y_points_up(self.stage1.source),
            tile_size=self.tile_size,
            file_names=self.file_names,
        )
        page = render(self.content())
        with replacing(self.output) as temporary:
            temporary.write_text(page, encoding="utf-8")
        size = self.output.stat().st_size
        logger.info("wrote '%s' (%.1f MB)", self.output, size / 1e6)
        if size > LARGE:
            logger.warning("the page has more than 5 MB; lower shown or tile_size")

    def content(self) -> dict[str, Any]:
        """What the template shows."""
        arms = read_arms(self.segment_dir, self.lineage.generators(), self.folders["target"])
        return {
            "verdict": self.adapted or judge(arms),
            "date": date.today().isoformat(),
            "alarms": alarms(
                arms or [],
                self.lineage.pairs["aligned"].get("masks", {}),
                self.sets["aligned"].images,
                self.sets["reference"].images,
            ),
            "by_class": by_class(compared(arms or [])),
            "picture": self.picture,
            "glance": self.glance(),
            "real_images": self.real_images,
            "started_from_images": self.lineage.started_from_images(),
            "samples": self.samples(),
            "classes": self.classes(),
            "segmenters": self.segmenters(arms),
            "tables": self.tables(),
            "embedding": self.embedding(),
            "copies": self.copies(),
            "audit": self.audit,
            "name": self.given.get("Name"),
            "card": data_card(self.stage1, self.sets, self.lineage, self.given, self.intended_use),
            "lineage": self.lineage,
            "file_names": self.file_names,
        }

    def classes(self) -> list[tuple[str, str]]:
        """(name, colour) of the classes, background left out."""
        names = list(self.stage1.source.labels)[1:]
        return [(name, colour(number)) for number, name in enumerate(names, start=1)]

    def glance(self) -> list[tuple[str, str]]:
        """(question, answer) of what else one wants to know first."""
        if self.evaluation is None:
            return []
        found = []
        kid = self.evaluation["metrics"].get("kid", {})
        step = (self.evaluation["fall"] or {}).get("kid") or {}
        if step.get("value") is not None:
            found.append(("Do the images look more like the site's?", look(step, self.real())))
        elif kid.get("aligned", {}).get("value") is not None:
            record = kid["aligned"]
            found.append(
                (
                    "Do the images look like the site's?",
                    f"KID to {self.real()} {number(record['value'])} ({interval(record)}); real "
                    f"images among each other have {number(record['floor']['value'])}.",
                )
            )
        found += self._glance_masks() + self._glance_copies()
        return found

    def real(self) -> str:
        """What the evaluation compared with."""
        unseen = (self.evaluation or {})["unseen"]
        return "unseen images of the site" if unseen else "the references that it was fitted to"

    def _glance_masks(self) -> list[tuple[str, str]]:
        dice = (self.evaluation or {})["faithfulness"]["dice"]
        if "aligned" not in dice:
            return []
        one = dice["aligned"]
        before = dice.get("unaligned")
        earlier = f"; before alignment {number(before['mean'])}" if before else ""
        real = ""
        if "target" in dice:
            real = f"; on real images of the site {number(dice['target']['mean'])}"
        return [
            (
                "Do the images follow their masks?",
                f"The source segmenter finds them with Dice {number(one['mean'])} "
                f"({interval(one)}){earlier}{real}.",
            )
        ]

    def _glance_copies(self) -> list[tuple[str, str]]:
        exact = (self.evaluation or {}).get("exact_copies", {})
        copied = [f"{count} of {known} images" for known, count in exact.items() if count]
        found = []
        for known in ("reference", "source"):
            audit = (self.evaluation or {})["copies"].get(known, {}).get("pixels")
            if audit and audit["ratio"]["value"] is not None:
                ratio = audit["ratio"]
                found.append(f"nearest {known} image {number(ratio['value'])} ({interval(ratio)})")
        if not exact:
            return []
        answer = (
            f"Yes: exact copies of {', '.join(copied)}."
            if copied
            else "No: there are no exact copies."
        )
        if found:
            answer += (
                f" Distance in pixels to the {', to the '.join(found)}, over that of real images "
                "of the site: below 1 is nearer. Look at the nearest pairs as well."
            )
        return [("Are real images copied?", answer)]

    def samples(self) -> list[dict[str, Any]]:
        """Sets whose images are shown."""
        names = ("source", "reference", *SYNTHETIC) if self.real_images else SYNTHETIC
        return [
            {
                "name": name,
                "tiles": self.tiles.shown(name, self.count) if name in self.sets else [],
                "total": len(self.sets[name]) if name in self.sets else 0,
                "masked": name in self.sets and len(self.sets[name].labels) > 0,
            }
            for name in names
        ]

    def segmenters(self, arms: list[Arm] | None) -> dict[str, Any] | None:
        """Table and chart of the arms."""
        if not arms:
            return None
        base = baseline(arms)
        rows = []
        for arm in arms:
            dice, iou = arm.score(), arm.score("iou")
            gain = None if base is None or arm is base else difference(arm, base)
            rows.append(
                {
                    "name": arm.name,
                    "kind": KINDS[arm.kind],
                    "seeds": arm.seeds,
                    "dice": metrics.Cell(points(dice["value"]), _points_interval(dice)),
                    "iou": metrics.Cell(points(iou["value"]), _points_interval(iou)),
                    "gain": gain
                    and metrics.Cell(signed_points(gain["value"]), _points_interval(gain, True)),
                }
            )
        chart = None
        if base is not None and len(arms) > 1:
            title = f"Dice of each segmenter less that of {base.name}, with intervals"
            chart = charts.arm_differences(arms, base, title)
        return {
            "rows": rows,
            "base": None if base is None else base.name,
            "counted": arms[0].counted,
            "chart": chart,
        }

    def tables(self) -> dict[str, Any] | None:
        """Tables and chart of the evaluation."""
        if self.evaluation is None:
            return None
        real = self.evaluation.get("real_set", "target")
        columns = metrics.present(self.evaluation, real)
        labels = list(self.stage1.source.labels)
        sizes = self.evaluation["metrics"].get("kid", {}).get("aligned", {}).get("n")
        falls = ["fall"] if self.evaluation["fall"] else []
        panels = metrics.panels(self.evaluation, columns)
        title = "Metrics of each set with intervals; bands show real images against real images"
        return {
            "columns": [*columns, "floor", *falls],
            "images": metrics.image_rows(self.evaluation, [*columns, "floor", *falls]),
            "masks": metrics.mask_rows(self.evaluation, [*columns, "floor"], labels),
            "mask_columns": [*columns, "floor"],
            "masks_against": (self.evaluation["masks"] or {}).get("real_set"),
            "dice": metrics.dice_rows(self.evaluation),
            "chart": charts.as_svg(metric_panels(panels), title, "metrics") if panels else None,
            "unseen": self.evaluation["unseen"],
            "n": sizes,
            "encoder": self.evaluation["encoder"]["name"],
        }

    def embedding(self) -> Any:
        """Plane of all sets; None where there are too few images for one."""
        features = {name: images.features for name, images in self.sets.items()}
        if sum(len(points) for points in features.values()) < 3:
            return None
        counts = ", ".join(f"{len(points)} {name}" for name, points in features.items())
        title = f"Scatter plot of image features: {counts}"
        return charts.as_svg(embedding(features), title, "embedding")

    def copies(self) -> dict[str, Any]:
        """Rows of the copy audit, and the nearest pairs."""
        rows = [] if self.evaluation is None else metrics.copy_rows(self.evaluation)
        nearest = []
        for known in ("reference", "source"):
            for view, space in (("pixels", "pixels"), ("encoder", "features")):
                if self.real_images and known in self.sets:
                    pairs = self.tiles.nearest_pairs(known, view, NEAREST)
                    nearest.append({"known": known, "space": space, "pairs": pairs})
        return {"rows": rows, "nearest": nearest}


def by_class(arms: list[Arm]) -> dict[str, Any] | None:
    """Dice and HD95 of each class, of the segmenters that are compared."""
    classes = list(arms[0].by_class) if arms else []
    if not classes:
        return None
    rows = []
    for name in classes:
        dice = [arm.of_class(name, "dice") for arm in arms]
        distance = [arm.of_class(name, "hd95") for arm in arms]
        cells = [metrics.Cell(points(one["value"]), _points_interval(one)) for one in dice]
        cells += [metrics.Cell(number(one["value"]), interval(one)) for one in distance]
        rows.append((name, cells))
    columns = [f"{of}, {arm.name}" for of in ("Dice", "HD95") for arm in arms]
    return {"columns": columns, "rows": rows}


def look(step: dict[str, Any], real: str) -> str:
    """Whether alignment moved the images, from the share of KID that it removed."""
    answer = {
        "better": "Yes",
        "worse": "No, they look less like it",
        "unclear": "No change shown",
        "unknown": "Not known",
    }[sureness(step, SMALLEST_SHARE)]
    ends = ""
    if step["low"] is not None:
        ends = f" (95% interval {percent(step['low'])} to {percent(step['high'])})"
    return (
        f"{answer}: the share of the distance to {real} that alignment removed is "
        f"{percent(step['value'])}{ends}. The distance is KID above that between real images; "
        "below 0 it grew."
    )


def _points_interval(record: dict[str, Any], signed: bool = False) -> str:
    """ "low to high" in points of 100; "" where undefined."""
    if record["low"] is None:
        return ""
    shown = signed_points if signed else points
    return f"{shown(record['low'])} to {shown(record['high'])}"
