"""Pairs that are taken out of a folder, whole or not at all, with what they were taken for."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignflow.data.datalist import lists_cases
from alignflow.data.formats import split_suffix
from alignflow.errors import InputError
from alignflow.files import replacing

KINDS = ("images", "labels")


@dataclass(frozen=True)
class PairFiles:
    """A pair by its name, wherever its two files lie now."""

    name: str
    image: Path
    label: Path

    def lies_in(self, folder: Path) -> bool:
        """Whether both files are in the folder."""
        return all(folder in path.parents for path in (self.image, self.label))


def find_pairs(pairs_dir: Path, quarantine_dir: Path) -> list[PairFiles]:
    """All pairs of a folder that `infer` wrote, those in its quarantine included, by name.

    A run that was stopped between the two files of a pair is no obstacle.

    Raises:
        InputError: no such folder, no pair in it, or a file without its other half.
    """
    if not str(pairs_dir) or not (pairs_dir / "images").is_dir():
        raise InputError(
            f"pairs_dir '{pairs_dir}': no images/ in it; give the output_dir of `run infer`, "
            'not in the format "nnunet"'
        )
    images, labels = ({**_by_name(quarantine_dir / k), **_by_name(pairs_dir / k)} for k in KINDS)
    if not images:
        raise InputError(f"pairs_dir '{pairs_dir}': no pair in it; run infer first")
    alone = sorted(images.keys() ^ labels.keys())
    if alone:
        raise InputError(
            f"pairs_dir '{pairs_dir}': '{alone[0]}' has an image or a label, not both; "
            "add the other or remove it"
        )
    return [PairFiles(name, images[name], labels[name]) for name in sorted(images)]


def quarantine_pair(pair: PairFiles, record: dict[str, Any], quarantine_dir: Path) -> None:
    """Write NAME.json with the reason, then move the two files.

    Each file is copied under a temporary name, renamed, and only then removed: a stopped run leaves
    no part of a file, and the same call ends what it began.
    """
    with replacing(quarantine_dir / f"{pair.name}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for kind, path in zip(KINDS, (pair.image, pair.label), strict=True):
        if quarantine_dir in path.parents:
            continue
        with replacing(quarantine_dir / kind / path.name) as temporary:
            shutil.copyfile(path, temporary)
        path.unlink()


def name_quarantined(pairs_dir: Path, names: list[str]) -> None:
    """Take pairs out of the list in `dataset.json`, if it has one, and name them there."""
    path = pairs_dir / "dataset.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if lists_cases(pairs_dir):
        content["training"] = [
            case
            for case in content.get("training", [])
            if split_suffix(case["image"])[0] not in names
        ]
    content["quarantined"] = sorted({*content.get("quarantined", []), *names})
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def remove_partial(pairs_dir: Path, quarantine_dir: Path) -> None:
    """Remove what a killed audit was writing: it may be a part of a real image."""
    for path in (*pairs_dir.glob(".partial-*"), *quarantine_dir.rglob(".partial-*")):
        path.unlink()


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    paths = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
    return {split_suffix(p)[0]: p for p in paths if split_suffix(p)[1]}
