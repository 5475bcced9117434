"""The data card of the pairs, under the headings of FDA's SMD Card.

Zamzmi et al., Scorecards for Synthetic Medical Data Evaluation and Reporting, arXiv:2406.11143: a
description, and seven criteria. Which figure stands under which criterion is this project's choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignflow.errors import InputError
from alignflow.evaluation.sets import ImageSet
from alignflow.report.lineage import NOT_KNOWN, Lineage
from alignflow.report.text import interval, number, percent
from alignflow.stage1 import Stage1

NOT_MEASURED = "not measured"
ASKED = (
    "Name",
    "Maker and contact",
    "Patients behind the source images",
    "Patients behind the reference images",
    "Annotators of the source masks",
    "Consent and ethics approval",
    "Licence and access",
    "Subgroups looked at",
)
"""Fields that only the user can fill, by the config's `card`."""


@dataclass(frozen=True)
class Criterion:
    """One of the seven.

    Attributes:
        name: of the criterion.
        question: what it asks.
        answers: (what, figure).
    """

    name: str
    question: str
    answers: list[tuple[str, str]]


class DataCard:
    """Fills the card from what the other inputs of the page know.

    Args:
        stage1: record of the bundle.
        sets: images, as read.
        lineage: of the inputs.
        evaluation: content of `evaluation.json`, or None.
        audited: a membership or copy audit was given.
        given: texts of the user for fields of `ASKED`.
        intended_use: of the bundle's metadata.

    Raises:
        InputError: `given` names another field, or holds something else than text.
    """

    def __init__(
        self,
        *,
        stage1: Stage1,
        sets: dict[str, ImageSet],
        lineage: Lineage,
        evaluation: dict[str, Any] | None,
        audited: bool,
        given: dict[str, str],
        intended_use: str,
    ) -> None:
        check_given(given)
        self.stage1 = stage1
        self.sets = sets
        self.lineage = lineage
        self.evaluation = evaluation or {}
        self.audited = audited
        self.given = given
        self.intended_use = intended_use

    def description(self) -> list[tuple[str, str]]:
        """(field, text) of the descriptive section."""
        source, pairs = self.stage1.source, self.sets["aligned"]
        size = " x ".join(str(n) for n in self.stage1.image_size)
        low, high = (f"{end:g}" for end in source.window)
        start = "from noisy real images" if self.lineage.started_from_images() else "from noise"
        known = [
            ("Content", f"{len(pairs)} synthetic 2-D images, {len(pairs.labels)} with masks"),
            ("Identifier", f"SHA-256 of the images as read: {pairs.fingerprint[:16]}..."),
            ("Modality", f"{source.modality}, {source.channels} channels"),
            ("Size", f"{size} pixels in the generator"),
            ("Intensities", f"{low} to {high} in native units"),
            ("Classes", ", ".join(list(source.labels)[1:])),
            ("Source of the generator", self.count("source", "real images with masks")),
            ("References of the site", self.count("reference", "real images")),
            (
                "Method",
                f"masks and images by flow matching, {start}; the image flow aligned to the "
                "references by a distance between sets of features",
            ),
            ("Intended use", self.intended_use or NOT_KNOWN),
            (
                "Not for",
                "clinical use; validation or testing of a device; statements on prevalence, or "
                "on anything that source and references do not show",
            ),
        ]
        asked = [(field, self.given.get(field, NOT_KNOWN)) for field in ASKED]
        return [asked[0], *known, *asked[1:]]

    def count(self, name: str, what: str) -> str:
        """Number of images of a set, where it was given."""
        return f"{len(self.sets[name])} {what}" if name in self.sets else NOT_KNOWN

    def criteria(self) -> list[Criterion]:
        """The seven criteria."""
        return [
            self.congruence(),
            self.coverage(),
            self.constraint(),
            self.completeness(),
            self.compliance(),
            self.comprehension(),
            self.consistency(),
        ]

    def congruence(self) -> Criterion:
        """Distances of distributions."""
        figures = [(n.upper(), self.metric(n)) for n in ("kid", "fid")]
        return Criterion("Congruence", "Are the images distributed as real ones?", figures)

    def coverage(self) -> Criterion:
        """Diversity."""
        names = ("recall", "coverage", "spread")
        figures = [(n.capitalize(), self.metric(n)) for n in names]
        return Criterion("Coverage", "Do they have the variety of real ones?", figures)

    def constraint(self) -> Criterion:
        """Anatomical rules of masks, and images that follow them."""
        masks = self.lineage.pairs["aligned"].get("masks", {})
        rejected = masks.get("rejection_rate")
        dice = self.evaluation.get("faithfulness", {}).get("dice", {}).get("aligned")
        figures = [
            (
                "Masks rejected by the rules of shape",
                percent(rejected) if rejected is not None else NOT_KNOWN,
            ),
            (
                "Dice of the source segmenter with the masks asked for",
                f"{number(dice['mean'])} ({interval(dice)})" if dice else NOT_MEASURED,
            ),
            ("Anatomy judged by a physician", NOT_MEASURED),
        ]
        return Criterion("Constraint", "Do they keep to what anatomy and physics allow?", figures)

    def completeness(self) -> Criterion:
        """What comes with each image."""
        pairs = self.sets["aligned"]
        with_class = pairs.labels.flatten(1)
        figures = [("Images with a mask", percent(len(pairs.labels) / len(pairs)))]
        for index, name in enumerate(list(self.stage1.source.labels)[1:], start=1):
            shares = (with_class == index).any(dim=1).double()
            shown = percent(float(shares.mean())) if len(shares) else NOT_KNOWN
            figures.append((f"Masks with {name}", shown))
        figures.append(("Record of how each was made", _said(bool(self.lineage.pairs["aligned"]))))
        return Criterion("Completeness", "Is everything there that the task needs?", figures)

    def compliance(self) -> Criterion:
        """Formats, marks and privacy."""
        marked = self.lineage.pairs["aligned"].get("synthetic") is True
        references = self.evaluation.get("copies", {}).get("reference", {}).get("pixels")
        ratio = references["ratio"] if references else None
        figures = [
            ("Marked as synthetic in their record", _said(marked)),
            (
                "Distance to the nearest reference, over that of real images",
                f"{number(ratio['value'])} ({interval(ratio) or 'no interval'})"
                if ratio
                else NOT_MEASURED,
            ),
            (
                "Further audit of copies",
                "see above" if self.audited else NOT_MEASURED,
            ),
            ("Privacy and law", "for the data protection officer; figures cannot settle it"),
        ]
        return Criterion("Compliance", "Do they keep to formats, privacy and law?", figures)

    def comprehension(self) -> Criterion:
        """Documentation."""
        checks = self.lineage.checks()
        known = sum(check.holds is True for check in checks)
        figures = [
            ("Method, settings and versions", "below, under provenance"),
            ("Inputs shown to belong together", f"{known} of {len(checks)} questions answered yes"),
            ("Known limits", "generator and site: in the model card of the bundle"),
        ]
        return Criterion(
            "Comprehension", "Can one see how they were made, and their limits?", figures
        )

    def consistency(self) -> Criterion:
        """The same everywhere."""
        encoder = self.evaluation.get("encoder", {}).get("name", "none")
        figures = [
            ("Same command, same pairs", "by design: noise depends on seed and number alone"),
            ("Encoders that judged them", f"{encoder}"),
            ("Equal in subgroups", self.given.get("Subgroups looked at", NOT_MEASURED)),
        ]
        return Criterion("Consistency", "Is all that so everywhere and every time?", figures)

    def metric(self, name: str) -> str:
        """Of the aligned pairs, with its interval and floor."""
        record = self.evaluation.get("metrics", {}).get(name, {}).get("aligned")
        if not record or record["value"] is None:
            return NOT_MEASURED
        floor = record["floor"]
        return (
            f"{number(record['value'])} ({interval(record)}); real against real "
            f"{number(floor['value'])}"
        )


def check_given(given: dict[str, str]) -> None:
    """Refuse fields that the card does not ask for."""
    if not isinstance(given, dict):
        raise InputError(f'config "card": {given!r}; give {{"field": "text"}}')
    for field, text in given.items():
        if field not in ASKED or not isinstance(text, str):
            raise InputError(
                f'config "card": {field!r}: {text!r}; give text for one of {", ".join(ASKED)}'
            )


def _said(truth: bool) -> str:
    return "yes" if truth else NOT_KNOWN
