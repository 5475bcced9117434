"""What the pairs are, as far as it is known."""

from __future__ import annotations

from alignflow.errors import InputError
from alignflow.evaluation.sets import ImageSet
from alignflow.report.lineage import NOT_KNOWN, Lineage
from alignflow.report.text import percent
from alignflow.stage1 import Stage1

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


def data_card(
    stage1: Stage1,
    sets: dict[str, ImageSet],
    lineage: Lineage,
    given: dict[str, str],
    intended_use: str,
) -> list[tuple[str, str]]:
    """(field, text) of the card.

    Args:
        stage1: record of the bundle.
        sets: images, as read.
        lineage: of the inputs.
        given: texts of the user for fields of `ASKED`.
        intended_use: of the bundle's metadata.
    """
    source, pairs = stage1.source, sets["aligned"]
    size = " x ".join(str(n) for n in stage1.image_size)
    low, high = (f"{end:g}" for end in source.window)
    start = "from noisy real images" if lineage.started_from_images() else "from noise"
    rejected = lineage.pairs["aligned"].get("masks", {}).get("rejection_rate")
    counts = {
        name: f"{len(sets[name])} {what}" if name in sets else NOT_KNOWN
        for name, what in (("source", "real images with masks"), ("reference", "real images"))
    }
    known = [
        ("Content", f"{len(pairs)} synthetic 2-D images, {len(pairs.labels)} with masks"),
        ("Modality", f"{source.modality}, {source.channels} channels"),
        ("Size", f"{size} pixels in the generator"),
        ("Intensities", f"{low} to {high} in native units"),
        ("Classes", ", ".join(list(source.labels)[1:])),
        ("Source of the generator", counts["source"]),
        ("References of the site", counts["reference"]),
        (
            "Method",
            f"masks and images by flow matching, {start}; the image flow aligned to the "
            "references by a distance between sets of features",
        ),
        (
            "Masks rejected by the rules of shape",
            NOT_KNOWN if rejected is None else percent(rejected),
        ),
        ("Intended use", intended_use or NOT_KNOWN),
        (
            "Not for",
            "clinical use; validation or testing of a device; statements on prevalence, or "
            "on anything that source and references do not show",
        ),
    ]
    asked = [(field, given.get(field, NOT_KNOWN)) for field in ASKED]
    return [asked[0], *known, *asked[1:]]


def check_given(given: dict[str, str]) -> None:
    """Refuse fields that the card does not ask for."""
    if not isinstance(given, dict):
        raise InputError(f'config "card": {given!r}; give {{"field": "text"}}')
    for field, text in given.items():
        if field not in ASKED or not isinstance(text, str):
            raise InputError(
                f'config "card": {field!r}: {text!r}; give text for one of {", ".join(ASKED)}'
            )
