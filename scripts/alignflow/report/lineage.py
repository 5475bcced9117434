"""Where everything on the page comes from, and whether it belongs together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignflow.evaluation.sets import SYNTHETIC, ImageSet
from alignflow.inference.writing import versions
from alignflow.report.inputs import read_optional
from alignflow.stage1 import weight_hashes

IMAGE_FLOW = "model.pt"
NOT_KNOWN = "not known"
SETTINGS = (
    "num_pairs",
    "image_solver",
    "image_steps",
    "image_guidance",
    "start_time",
    "student",
    "mask_solver",
    "mask_steps",
    "mask_student",
    "mask_smoothing",
    "precision",
    "backend",
    "output_format",
)
"""Of `run infer`, as they are shown; paths are not, since a folder may bear a name."""


@dataclass(frozen=True)
class Check:
    """Whether two inputs of the page belong together; None where it cannot be told."""

    question: str
    holds: bool | None


class Lineage:
    """What the inputs of a report say of their making.

    Args:
        sets: of images, as read.
        bundles: folders of the bundle "unaligned" and "aligned", or None.
        pairs: folders of pairs of the same names, or None.
        evaluation: content of `evaluation.json`, or None.
    """

    def __init__(
        self,
        *,
        sets: dict[str, ImageSet],
        bundles: dict[str, str | None],
        pairs: dict[str, str | None],
        evaluation: dict[str, Any] | None,
    ) -> None:
        self.sets = sets
        self.evaluation = evaluation
        self.weights = {name: weight_hashes(d) if d else {} for name, d in bundles.items()}
        self.pairs = {
            name: (read_optional(Path(d) / "provenance.json", f"{name}_pairs") or {}) if d else {}
            for name, d in pairs.items()
        }
        folder = bundles["aligned"]
        self.alignment = (
            (read_optional(Path(folder) / "align.json", "aligned_dir") or {}) if folder else {}
        )

    def generators(self) -> dict[str, str | None]:
        """SHA-256 of the image flow's weights that drew each set of pairs, or of its bundle."""
        return {
            name: self.drawn_by(name) or self.weights[name].get(IMAGE_FLOW) for name in SYNTHETIC
        }

    def drawn_by(self, name: str) -> str | None:
        """SHA-256 of the weights of the image flow that a set of pairs was drawn with."""
        return self.pairs[name].get("weights_sha256", {}).get(IMAGE_FLOW)

    def checks(self) -> list[Check]:
        """What should be equal, and whether it is."""
        found = [
            Check(
                f"the {name} pairs were drawn with the weights of the {name} bundle",
                _same(self.drawn_by(name), self.weights[name].get(IMAGE_FLOW)),
            )
            for name in SYNTHETIC
            if name in self.sets
        ]
        found.append(
            Check(
                "the aligned bundle was aligned from the unaligned one",
                _same(
                    self.alignment.get("stage1_weights_sha256", {}).get(IMAGE_FLOW),
                    self.weights["unaligned"].get(IMAGE_FLOW),
                ),
            )
        )
        found.append(
            Check(
                "it was aligned to the references shown here",
                _same(self.alignment.get("references_sha256"), self.sets["reference"].fingerprint),
            )
        )
        measured = (self.evaluation or {}).get("sets", {})
        found += [
            Check(
                f"the tables were measured on the {name} images shown here",
                _same(measured[name].get("sha256"), images.fingerprint),
            )
            for name, images in self.sets.items()
            if name in measured
        ]
        return found

    def files(self) -> list[tuple[str, str]]:
        """(weights, SHA-256) of both bundles."""
        return [
            (f"{name} bundle, {file}", digest)
            for name, hashes in self.weights.items()
            for file, digest in hashes.items()
        ]

    def images(self) -> list[tuple[str, int, int, str]]:
        """(set, images, masks, SHA-256 of the images as read) of all sets."""
        return [(n, len(s), len(s.labels), s.fingerprint) for n, s in self.sets.items()]

    def drawing(self) -> list[tuple[str, list[str]]]:
        """(setting, its value for each set of pairs) of `run infer`."""
        known = [name for name in SYNTHETIC if name in self.sets]
        configs = [self.pairs[name].get("config", {}) for name in known]
        seeds = [_text(self.pairs[name].get("seed")) for name in known]
        rows = [("seed", seeds)]
        rows += [(key, [_setting(c, key) for c in configs]) for key in SETTINGS]
        return [(key.replace("_", " "), v) for key, v in rows if set(v) != {NOT_KNOWN}]

    def same_noise(self) -> bool:
        """Whether unaligned and aligned pairs of one number began from the same noise."""
        seeds = [self.pairs[name].get("seed") for name in SYNTHETIC]
        return None not in seeds and seeds[0] == seeds[1] and not self.started_from_images()

    def started_from_images(self) -> bool:
        """Whether pairs began from real images and not from noise alone."""
        starts = [made.get("config", {}).get("start_time") for made in self.pairs.values()]
        return any(isinstance(start, (int, float)) and start > 0 for start in starts)

    def code(self) -> list[tuple[str, dict[str, str]]]:
        """(what, versions of code and libraries) that each input was made with."""
        made: Iterable[tuple[str, Any]] = [
            *((f"{name} pairs", self.pairs[name].get("versions")) for name in SYNTHETIC),
            ("alignment", self.alignment.get("versions")),
            ("tables", (self.evaluation or {}).get("provenance", {}).get("versions")),
            ("this page", versions()),
        ]
        return [(what, found) for what, found in made if isinstance(found, dict)]


def _same(one: str | None, other: str | None) -> bool | None:
    return None if one is None or other is None else one == other


def _setting(config: dict[str, Any], key: str) -> str:
    return "none" if key in config and config[key] is None else _text(config.get(key))


def _text(value: Any) -> str:
    """A plain value; expressions and paths are none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"{value:g}"
    return value if isinstance(value, str) and value.isidentifier() else NOT_KNOWN
