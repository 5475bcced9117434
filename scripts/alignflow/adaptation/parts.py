"""Data sets for scoring, which list images and masks of other data sets by path."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignflow.adaptation.jobs import Facts
from alignflow.adaptation.plan import Folders
from alignflow.data.datalist import build_datalist, split_by_group, stated_labels
from alignflow.data.references import listed_files
from alignflow.files import replacing

FOLDS = 2
FEWEST_TO_FOLD = 6
"""With fewer annotated references, half of them are too few to adapt to or score on."""
CASE = ("image", "label", "group")


def write_parts(folders: Folders, train: Mapping[str, Any]) -> None:
    """Write the source's validation split, and the folds of the annotated references.

    Args:
        folders: see `Folders`.
        train: content of `train.json` with its overrides.
    """
    cases = build_datalist(folders.source, train["group_pattern"], train["group_column"])
    held_out = split_by_group(cases, train["validation_fraction"], train["seed"])[1]
    modality = next((case["modality"] for case in cases if "modality" in case), None)
    is_expression = isinstance(train["labels"], str)
    labels = stated_labels(folders.source) if is_expression else train["labels"]
    stated = {"labels": labels, "modality": modality}
    stated = {key: value for key, value in stated.items() if value is not None}
    _write_list(folders.validation, [{k: c[k] for k in CASE} for c in held_out], stated)
    for number, (fitted, scored) in enumerate(folds(folders)):
        _write_list(folders.fold(number, "fitted"), fitted, stated)
        _write_list(folders.fold(number, "held_out"), scored, stated)


def folds(folders: Folders) -> list[tuple[list[Facts], list[Facts]]]:
    """(fitted, scored) annotated references of each fold; [] with `test` or too few."""
    files = listed_files(folders.references)
    cases = [{"image": i, "label": m, "group": i} for i, m in files if m is not None]
    if folders.test is not None or len(cases) < FEWEST_TO_FOLD:
        return []
    return [
        ([c for k, c in enumerate(cases) if k % FOLDS != number], cases[number::FOLDS])
        for number in range(FOLDS)
    ]


def _write_list(folder: Path, cases: Sequence[Facts], stated: Facts) -> None:
    with replacing(folder / "dataset.json") as temporary:
        temporary.write_text(
            json.dumps({"training": cases, **stated}, indent=1) + "\n", encoding="utf-8"
        )
