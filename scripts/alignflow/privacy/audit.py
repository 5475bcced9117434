"""`run audit`: copies and membership, before pairs leave the source."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from alignflow.config import running_config
from alignflow.data.datalist import Case
from alignflow.data.references import load_references
from alignflow.errors import InputError
from alignflow.evaluation.copies import exact_copies
from alignflow.evaluation.sets import unseen
from alignflow.files import replacing
from alignflow.inference.writing import versions
from alignflow.pictures import (
    image_tiles,
    outline_tiles,
    save_pairs,
    save_rows,
    save_sheet,
    y_points_up,
)
from alignflow.privacy.membership import flow_losses, in_words, membership
from alignflow.privacy.quarantine import (
    find_pairs,
    name_quarantined,
    quarantine_pair,
    remove_partial,
)
from alignflow.privacy.sets import (
    Images,
    from_references,
    read_pairs,
    read_source,
    require_trained_on,
)
from alignflow.privacy.similarity import distances
from alignflow.privacy.threshold import (
    Copies,
    Table,
    conformal_p,
    conformal_threshold,
    relative_distance,
)
from alignflow.segmentation.network import load_segmenter
from alignflow.stage1 import Stage1, weight_hashes

logger = logging.getLogger(__name__)

SHOWN = 8  # pairs on the sheet of the nearest
SHEET = 32  # pairs on the contact sheet


class Audit:
    """Looks for copies of known images among pairs, quarantines them, and writes `audit.json`.

    Args:
        stage1: record of the generator.
        network: its image flow.
        model_dir: its folder.
        pairs_dir: what `infer` wrote.
        source: training and held-out cases of the source, or None.
        reference_dir: images that the bundle was aligned to, or None.
        target_dir: other images of the same site, or None.
        output_dir: receives the report, which names real images and shows some.
        quarantine_dir: receives pairs that are too near, each with a picture and a JSON file.
        false_alarms: probability that an image which is no copy counts as one, over all known sets.
        neighbours: images that the nearest one is compared with.
        dry_run: report alone, move nothing.
        membership_images: of each side of the membership test.
        membership_times, membership_noises: where the image flow's loss is taken.
        device, precision, batch_size: of the image flow.
        seed: of noise and choice.

    Raises:
        InputError: no pairs, or neither source nor references.
    """

    def __init__(
        self,
        *,
        stage1: Stage1,
        network: nn.Module,
        model_dir: str,
        pairs_dir: str,
        source: tuple[list[Case], list[Case]] | None,
        reference_dir: str | None,
        target_dir: str | None,
        output_dir: str,
        quarantine_dir: str,
        false_alarms: float = 0.05,
        neighbours: int = 5,
        dry_run: bool = False,
        membership_images: int = 300,
        membership_times: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 0.9),
        membership_noises: int = 2,
        device: str = "cpu",
        precision: str = "fp32",
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        if not pairs_dir:
            raise InputError("pairs_dir is not set; give --pairs_dir PAIRS, what `run infer` wrote")
        if source is None and reference_dir is None:
            raise InputError(
                "dataset_dir and reference_dir: neither is set; give what pairs may be copies of"
            )
        self.stage1 = stage1
        self.network = network
        self.model_dir = model_dir
        self.pairs_dir = Path(pairs_dir)
        self.source = source
        self.reference_dir = reference_dir
        self.target_dir = target_dir
        self.output_dir = Path(output_dir)
        self.quarantine_dir = Path(quarantine_dir)
        self.false_alarms = false_alarms
        self.neighbours = neighbours
        self.dry_run = dry_run
        self.membership_images = membership_images
        self.membership_times = membership_times
        self.membership_noises = membership_noises
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.seed = seed
        # Far from the config's expression it could not be found any more.
        self.config = running_config()

    def run(self) -> dict[str, Any]:
        """Measure, quarantine, write; return what `audit.json` holds."""
        self.files = find_pairs(self.pairs_dir, self.quarantine_dir)
        self.pairs = read_pairs(self.files, self.stage1)
        self.known = self.read_known()
        self.matrices = {
            name: distances(self.pairs.images, images.images) for name, images in self.known.items()
        }
        copies = self.copies()
        self.exact = {
            name: exact_copies(self.pairs.images, images.images).numpy()
            for name, images in self.known.items()
        }
        before = np.array([pair.lies_in(self.quarantine_dir) for pair in self.files])
        near = [found.too_near for found in copies.values()]
        taken = np.any([before, *near, *(index >= 0 for index in self.exact.values())], axis=0)
        records = [self.record(row, copies, bool(taken[row])) for row in range(len(self.pairs))]
        if not self.dry_run:
            self.quarantine(records, copies)
        result: dict[str, Any] = {
            "dry_run": self.dry_run,
            "false_alarms": self.false_alarms,
            "quarantined": [record["name"] for record in records if record["quarantined"]],
            "exact_copies": {n: int((index >= 0).sum()) for n, index in self.exact.items()},
            "copies": {name: self.summary(name, found) for name, found in copies.items()},
            "membership": self.membership(),
        }
        result["words"] = words(result, len(records))
        result |= {"pairs": records, "provenance": self.provenance()}
        self.write(result, copies)
        for sentence in result["words"]:
            logger.info(sentence)
        return result

    # -- images ------------------------------------------------------------------------------------

    def read_known(self) -> dict[str, Images]:
        """ "source", "held_out", "reference" and "target", as far as they are given."""
        found = {}
        if self.source is not None:
            found["source"] = read_source(self.source[0], self.stage1)
            require_trained_on(found["source"], self.stage1)
            found["held_out"] = read_source(self.source[1], self.stage1)
        if self.reference_dir is not None:
            segmenter = load_segmenter(self.stage1, self.model_dir, self.device)
            references = load_references(self.reference_dir, self.stage1)
            found["reference"] = from_references(references, segmenter)
            if self.target_dir is not None:
                others = load_references(self.target_dir, self.stage1)
                others = unseen(others, references, self.target_dir)
                found["target"] = from_references(others, segmenter)
        return found

    # -- copies ------------------------------------------------------------------------------------

    def copies(self) -> dict[str, Copies]:
        """The pairs against the source's training images and against the references."""
        audited = [name for name in ("source", "reference") if name in self.known]
        share = self.false_alarms / len(audited)
        return {name: self.copies_of(name, share) for name in audited}

    def copies_of(self, name: str, false_alarms: float) -> Copies:
        """Against one of the two, with the threshold that real images allow."""
        beside = self.matrices["source"] if self.has_others(name) else None
        relative, nearest = relative_distance(self.matrices[name], beside, self.neighbours)
        real, groups, calibrated_on = self.real_distances(name)
        threshold = conformal_threshold(real, groups, false_alarms)
        distance = self.matrices[name].min(dim=1).values.double().numpy()
        return Copies(distance, relative, nearest, real, groups, calibrated_on, threshold)

    def has_others(self, name: str) -> bool:
        """Whether source images serve as neighbours of the references."""
        return name == "reference" and "source" in self.known

    def real_distances(self, name: str) -> tuple[Table, list[str], str]:
        """Relative distances of real images that are not copies, their groups, and what they are.

        For the source its held-out images. For the references other images of the site; else
        held-out images of the source; else each reference against the others.
        """
        order = {"source": ["held_out"], "reference": ["target", "held_out"]}[name]
        chosen = next((other for other in order if other in self.known), None)
        if chosen is None:
            references = self.known["reference"]
            matrix = distances(references.images, references.images)
            if len(matrix) < 2:
                return np.empty(0), [], "reference"
            off_diagonal = ~torch.eye(len(matrix), dtype=torch.bool)
            left = matrix[off_diagonal].view(len(matrix), len(matrix) - 1)
            relative, _ = relative_distance(left, None, self.neighbours)
            return relative, references.groups, "reference"
        real = self.known[chosen]
        matrix = distances(real.images, self.known[name].images)
        beside = None
        if self.has_others(name):
            beside = distances(real.images, self.known["source"].images)
        relative, _ = relative_distance(matrix, beside, self.neighbours)
        return relative, real.groups, chosen

    def record(self, row: int, copies: dict[str, Copies], taken: bool) -> dict[str, Any]:
        """What is known of one pair."""
        result: dict[str, Any] = {"name": self.pairs.names[row], "quarantined": taken}
        result["exact_copy_of"] = {
            name: self.known[name].names[int(index[row])]
            for name, index in self.exact.items()
            if index[row] >= 0
        }
        for name, found in copies.items():
            p = conformal_p(found.relative[row : row + 1], found.real, found.groups)
            result[name] = {
                "nearest": self.known[name].names[int(found.nearest[row])],
                "distance": float(found.distance[row]),
                "relative": float(found.relative[row]),
                "p": float(p[0]),
                "too_near": bool(found.too_near[row]),
            }
        return result

    def summary(self, name: str, found: Copies) -> dict[str, Any]:
        """Of all pairs against one known set; exact copies are counted by themselves."""
        allowed = self.false_alarms / (("source" in self.known) + ("reference" in self.known))
        return {
            "threshold": found.threshold,
            "calibrated_on": found.calibrated_on,
            "real_images": len(found.real),
            "real_groups": len(set(found.groups)),
            "too_near": int((found.too_near & (self.exact[name] < 0)).sum()),
            "expected_by_chance": allowed * len(found.relative),
            "smallest": float(found.relative.min()),
            "median": float(np.median(found.relative)),
            "smallest_real": float(found.real.min()) if len(found.real) else None,
            "median_real": float(np.median(found.real)) if len(found.real) else None,
        }

    # -- quarantine --------------------------------------------------------------------------------

    def quarantine(self, records: list[dict[str, Any]], copies: dict[str, Copies]) -> None:
        """Move what is too near; a stopped run goes on with the same command."""
        remove_partial(self.pairs_dir, self.quarantine_dir)
        rows = [row for row, record in enumerate(records) if record["quarantined"]]
        if not rows:
            return
        name_quarantined(self.pairs_dir, [records[row]["name"] for row in rows])
        for row in rows:
            self.picture(row, copies)
            quarantine_pair(self.files[row], records[row], self.quarantine_dir)
        self.contact_sheet([row for row in range(len(records)) if row not in set(rows)])

    def contact_sheet(self, kept: list[int]) -> None:
        """That of `infer` without the pairs in quarantine, which it may show."""
        path, shown = self.pairs_dir / "contact_sheet.png", kept[:SHEET]
        path.unlink(missing_ok=True)
        if shown:
            images, labels = self.pairs.images[shown], self.pairs.labels[shown]
            save_pairs(path, images, labels, y_points_up(self.stage1.source))

    def picture(self, row: int, copies: dict[str, Copies]) -> None:
        """The pair, its outline, and the nearest image of each known set, side by side."""
        image, label = (t[row : row + 1] for t in (self.pairs.images, self.pairs.labels))
        tiles = [image_tiles(image), outline_tiles(image, label)]
        shown = {name: found.nearest[row] for name, found in copies.items()}
        shown |= {name: index[row] for name, index in self.exact.items() if index[row] >= 0}
        for name, nearest in shown.items():
            tiles.append(image_tiles(self.known[name].images[[int(nearest)]]))
        path = self.quarantine_dir / f"{self.pairs.names[row]}.png"
        y_up = y_points_up(self.stage1.source)
        save_sheet(path, [np.concatenate(tiles)], columns=len(tiles), zoom=3, y_up=y_up)

    # -- membership --------------------------------------------------------------------------------

    def membership(self) -> dict[str, Any]:
        """{"source", "reference": {"flow", "nearest_pair": `membership.membership`}}."""
        result = {}
        for name, other in (("source", "held_out"), ("reference", "target")):
            if name in self.known and other in self.known:
                result[name] = self.recognised(name, other)
        return result

    def recognised(self, name: str, other: str) -> dict[str, Any]:
        """How well two scores tell the images of one set from those of another."""
        flow, near, groups = [], [], []
        for key in (name, other):
            generator = torch.Generator().manual_seed(self.seed)
            order = torch.randperm(len(self.known[key]), generator=generator)
            rows = order[: self.membership_images].tolist()
            side = self.known[key].some(rows)
            flow.append(-self.losses(side))
            # Distance from each real image to the pair that is most like it.
            near.append(-self.matrices[key][:, rows].min(dim=0).values.double().numpy())
            groups.append(side.groups)
        return {
            "flow": membership(flow[0], flow[1], groups[0], groups[1]),
            "nearest_pair": membership(near[0], near[1], groups[0], groups[1]),
        }

    def losses(self, side: Images) -> Table:
        """Of the image flow, (N,)."""
        return flow_losses(
            self.network,
            side.images,
            self.stage1.condition(side.labels),
            times=self.membership_times,
            noises=self.membership_noises,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
            batch_size=self.batch_size,
        )

    # -- files -------------------------------------------------------------------------------------

    def provenance(self) -> dict[str, Any]:
        """What the audit was made with."""
        return {
            "config": self.config,
            "weights_sha256": weight_hashes(self.model_dir),
            "versions": versions(),
        }

    def write(self, result: dict[str, Any], copies: dict[str, Copies]) -> None:
        """`audit.json`, and `nearest.png`: the nearest pairs above the images they are near to."""
        rows = {}
        for name, found in copies.items():
            first = torch.as_tensor(found.relative.argsort()[:SHOWN].copy())
            nearest = torch.as_tensor(found.nearest)[first]
            rows[f"near {name}"] = image_tiles(self.pairs.images[first])
            rows[name] = image_tiles(self.known[name].images[nearest])
        save_rows(self.output_dir / "nearest.png", rows, y_points_up(self.stage1.source))
        with replacing(self.output_dir / "audit.json") as temporary:
            text = json.dumps(result, indent=1, default=str, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")


def words(result: dict[str, Any], pairs: int) -> list[str]:
    """The outcome in sentences."""
    taken = len(result["quarantined"])
    verb = "would be quarantined" if result["dry_run"] else "are in quarantine"
    found = [f"copies: {taken} of {pairs} pairs {verb}"]
    exact = [f"{count} of {name} images" for name, count in result["exact_copies"].items() if count]
    found.append(f"exact copies: {', '.join(exact).replace('_', '-') or 'none'}")
    few = []
    for name, part in result["copies"].items():
        patients = f"{part['real_groups']} patients or files"
        if part["threshold"] is None:
            few.append(f"{name} images: {patients} ({part['calibrated_on']})")
        else:
            found.append(
                f"near copies of {name} images: {part['too_near']} further pairs lie nearer than "
                f"{part['real_images']} real images of {patients} allow; of as many real images "
                f"{part['expected_by_chance']:.1f} would"
            )
    if few:
        found.append(
            f"near copies: too few to tell what is too near for {'; '.join(few)}; at least "
            f"{len(result['copies'])} / false_alarms - 1 are needed"
        )
    for name, scores in result["membership"].items():
        found += [in_words(f"{score}, {name} images", part) for score, part in scores.items()]
    return found
