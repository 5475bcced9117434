"""Which images train, validate, serve as references and test; each set as a folder of links."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignflow.data.datalist import Case, build_datalist, dataset_json, split_by_group
from alignflow.data.formats import split_suffix
from alignflow.errors import InputError
from alignflow.files import replacing

VALIDATION_SHARE = 0.1
TEST_SHARE = 2 / 3
SPLIT_SEED = 0


@dataclass(frozen=True)
class Site:
    """A folder of images and masks, or those rows of its index.csv that have a value.

    Attributes:
        directory: as `build_datalist` reads it.
        column, value: rows to keep; None for all.
        group_column: of index.csv: what a split must keep whole; None for single images.
        group_pattern: the same from the stem of the image: regular expression with one group.
    """

    directory: Path
    column: str | None = None
    value: str | None = None
    group_column: str | None = None
    group_pattern: str | None = None

    def cases(self) -> list[Case]:
        """Its images and masks, with their groups.

        Raises:
            InputError: what `build_datalist` refuses, or no row with the value.
        """
        cases = build_datalist(self.directory, self.group_pattern, self.group_column)
        if self.column is None:
            return cases
        kept = rows_with(self.directory / "index.csv", self.column, self.value)
        chosen = [case for case in cases if stem(case) in kept]
        if not chosen:
            raise InputError(
                f"'{self.directory / 'index.csv'}': no image with {self.column} '{self.value}'; "
                "correct the value"
            )
        return chosen


@dataclass(frozen=True)
class SourceSplit:
    """Training and validation cases of the source."""

    train: list[Case]
    validation: list[Case]


@dataclass(frozen=True)
class TargetSplit:
    """Pool (references, and the ceiling's training images) and test cases of the target."""

    pool: list[Case]
    test: list[Case]


def stem(case: Case) -> str:
    """Name of a case's image without suffix."""
    return split_suffix(case["image"])[0]


def rows_with(table: Path, column: str, value: str | None) -> set[str]:
    """Stems of the rows of an index.csv that have `value` in `column`.

    Raises:
        InputError: no such file or column.
    """
    if not table.is_file():
        raise InputError(f"column '{column}': no file '{table}'; add it or leave the column out")
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    for needed in ("stem", column):
        if needed not in columns:
            raise InputError(f"'{table}': no column '{needed}'; it has {', '.join(columns)}")
    return {row["stem"] for row in rows if row[column] == value}


def split_source(cases: list[Case], validation_share: float) -> SourceSplit:
    """The split of stage 1."""
    return SourceSplit(*split_by_group(cases, validation_share, SPLIT_SEED))


def split_target(cases: list[Case]) -> TargetSplit:
    """About a third pool and two thirds test, whole groups, the same whatever is drawn later."""
    stated = [{key: case[key] for key in case if key != "split"} for case in cases]
    pool, test = split_by_group(stated, TEST_SHARE, SPLIT_SEED)
    return TargetSplit(pool, test)


def references(pool: list[Case], count: int, draw: int) -> list[Case]:
    """Draw number `draw` of `count` references; more references hold the fewer of one draw.

    Raises:
        InputError: the pool is too small.
    """
    if not 0 < count <= len(pool):
        raise InputError(f"--references {count}: the target's pool has {len(pool)} images")
    return drawn(pool, count, draw)


def drawn(cases: list[Case], count: int, seed: int) -> list[Case]:
    """The first `count` of a random order that the seed fixes."""
    ordered = sorted(cases, key=stem)
    random.Random(seed).shuffle(ordered)
    return ordered[:count]


def fingerprint(cases: Sequence[Case], labelled: bool = True) -> str:
    """SHA-256 of the names and contents of images (and masks), independent of their place."""
    digest = hashlib.sha256()
    for case in sorted(cases, key=stem):
        for key in ("image", "label") if labelled else ("image",):
            digest.update(f"{stem(case)}\0{key}\0".encode())
            for path in content_files(Path(case[key])):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def content_files(path: Path) -> list[Path]:
    """The file itself, or those of a DICOM series' folder."""
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def link_images(folder: Path, cases: Sequence[Case]) -> Path:
    """Fill `folder/images` with links to the images alone."""
    for case in cases:
        link(Path(case["image"]), folder / "images")
    return folder


def link_pairs(
    folder: Path, train: Sequence[Case], validation: Sequence[Case] = (), like: Path | None = None
) -> Path:
    """Fill `images/` and `masks/` with links, and state the split in `dataset.json`.

    Args:
        folder: to fill.
        train, validation: the two lists of the `dataset.json`.
        like: data set whose `dataset.json` states labels and modality.

    Raises:
        InputError: two files of one name.
    """
    content: dict[str, object] = dict(dataset_json(like)) if like is not None else {}
    for name, cases in (("training", train), ("validation", validation)):
        content[name] = [
            {
                "image": str(link(Path(case["image"]), folder / "images").relative_to(folder)),
                "label": str(link(Path(case["label"]), folder / "masks").relative_to(folder)),
                "group": case["group"],
            }
            for case in cases
        ]
    with replacing(folder / "dataset.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    return folder


def link(path: Path, folder: Path) -> Path:
    """A link in `folder` to `path`, of the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    place, target = folder / path.name, path.resolve()
    if place.is_symlink() and place.resolve() == target:
        return place
    if place.is_symlink() or place.exists():
        raise InputError(f"'{path}': another file named so is in '{folder}'; rename one of them")
    try:
        os.symlink(target, place)
    except FileExistsError:  # another worker was faster
        return link(path, folder)
    return place
