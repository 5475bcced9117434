"""From a folder of images and masks to a list of pairs with groups."""

from __future__ import annotations

import csv
import json
import logging
import os
import random
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alignflow.data.check import raise_problems
from alignflow.data.formats import split_suffix
from alignflow.errors import InputError

logger = logging.getLogger(__name__)

Case = dict[str, str]
GroupOf = Callable[[str], str]


def build_datalist(
    dataset_dir: str | Path, group_pattern: str | None = None, group_column: str | None = None
) -> list[Case]:
    """All pairs of a data set, with the group (patient, sequence) that splits must keep whole.

    The data set is either described by an MSD-style `dataset.json` ("training", and optionally
    "validation": lists of {"image", "label"[, "group"]} with paths relative to the folder; a
    warning counts those that lead out of it), or it is two folders: `images/` and `masks/` or
    `labels/`, files of equal stem being a pair. A DICOM series is a folder `images/NAME/`.

    Args:
        dataset_dir: the folder.
        group_pattern: regular expression with one group, searched in the stem of the image.
        group_column: column of `index.csv`, which also has a column `stem`.

    Returns:
        One dictionary per pair, sorted by stem: "image", "label", "group" (from `dataset.json`,
        else the pattern, else the column, else the stem), and "split" and "modality" where
        `dataset.json` states them.

    Raises:
        InputError: no such folder, nothing in it, an image without a mask, a pattern or a column
            that does not fit.
    """
    if not dataset_dir:
        raise InputError("dataset_dir is not set; give --dataset_dir DIR, images with their masks")
    root = Path(dataset_dir)
    _require_folder(root)
    group_of = _group_rule(root, group_pattern, group_column)
    cases = _from_json(root) if lists_cases(root) else _from_folders(root)
    modality = dataset_json(root).get("modality")
    for case in cases:
        if modality:
            case["modality"] = modality
        if "group" not in case:
            case["group"] = group_of(split_suffix(case["image"])[0])
    return cases


def dataset_json(dataset_dir: str | Path) -> dict[str, Any]:
    """Optional facts of an MSD-style `dataset.json`: "labels" and "modality", where stated.

    Returns:
        "labels": {name: native value}, ordered by value, whichever way round the file has them;
        "modality": its text for the first channel, such as "CT" or "MRI". Absent keys are left out.
    """
    content = _read_json(Path(dataset_dir) / "dataset.json")
    facts: dict[str, Any] = {}
    if content.get("labels"):
        facts["labels"] = _parse_labels(content["labels"])
    modality = content.get("modality") or content.get("channel_names")
    if modality:
        facts["modality"] = (
            next(iter(modality.values())) if isinstance(modality, dict) else modality
        )
    return facts


def stated_labels(dataset_dir: str | Path) -> dict[str, float] | None:
    """{name: native value} from the data set's `dataset.json`; None where it states none."""
    if not (Path(dataset_dir) / "dataset.json").is_file():
        return None
    return dataset_json(dataset_dir).get("labels")


def split_by_group(
    datalist: list[Case], validation_fraction: float, seed: int = 0
) -> tuple[list[Case], list[Case]]:
    """Training and validation cases, whole groups only.

    A "split" that the datalist states is honoured. Else groups are drawn in an order that `seed`
    fixes, until the validation set is nearest to `validation_fraction` (0 to 1) of the cases.
    With 0, all cases are in both, for a source too small to divide: validation then shows
    training data, and a warning says so.

    Raises:
        InputError: fewer than two groups, or a stated split that divides a group.
    """
    if any(case.get("split") == "validation" for case in datalist):
        return _stated_split(datalist)
    if validation_fraction == 0:
        warnings.warn(
            "validation_fraction is 0: held-out figures are of training data", stacklevel=2
        )
        return datalist, datalist
    if not 0 < validation_fraction < 1:
        raise InputError(f"validation_fraction: {validation_fraction}; set it between 0 and 1")
    sizes: dict[str, int] = {}
    for case in datalist:
        sizes[case["group"]] = sizes.get(case["group"], 0) + 1
    if len(sizes) < 2:
        raise InputError(
            f"datalist: {len(sizes)} group, so training and validation cannot differ in groups; "
            "set group_pattern or group_column so that there are at least two groups, "
            "or validation_fraction to 0 to train on all"
        )
    chosen = _draw_groups(sizes, validation_fraction * len(datalist), seed)
    training = [case for case in datalist if case["group"] not in chosen]
    return training, [case for case in datalist if case["group"] in chosen]


def _draw_groups(sizes: dict[str, int], target: float, seed: int) -> set[str]:
    groups = sorted(sizes)
    random.Random(seed).shuffle(groups)
    chosen, count = {groups[0]}, sizes[groups[0]]
    for group in groups[1:-1]:  # the last one stays in training
        if abs(count + sizes[group] - target) < abs(count - target):
            chosen.add(group)
            count += sizes[group]
    return chosen


def _stated_split(datalist: list[Case]) -> tuple[list[Case], list[Case]]:
    validation = [case for case in datalist if case.get("split") == "validation"]
    training = [case for case in datalist if case.get("split") != "validation"]
    both = sorted({c["group"] for c in training} & {c["group"] for c in validation})
    if both:
        raise InputError(
            f"dataset.json: group '{both[0]}' stands in training and in validation; "
            "move all its images to one of them"
        )
    if not training:
        raise InputError("dataset.json: no case in 'training'; leave some of 'validation' to it")
    return training, validation


def _require_folder(root: Path) -> None:
    if not root.exists():
        raise InputError(f"dataset_dir '{root}': no such folder; correct the path")
    if not root.is_dir():
        raise InputError(
            f"dataset_dir '{root}': not a folder; give the folder that holds the images"
        )
    if not any(root.iterdir()):
        raise InputError(f"dataset_dir '{root}': empty; put images/ and masks/ into it")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}': not valid JSON ({error}); correct it") from error
    if not isinstance(content, dict):
        raise InputError(f"'{path}': not a JSON object; it must have 'training'")
    return content


def lists_cases(root: Path) -> bool:
    """Whether the folder's `dataset.json` lists the pairs (it may state labels alone)."""
    path = root / "dataset.json"
    if not path.is_file():
        return False
    return bool({"training", "validation"} & _read_json(path).keys()) or not (
        (root / "images").is_dir()
    )


def _parse_labels(labels: dict[str, Any]) -> dict[str, float]:
    by_name = {}
    for key, entry in labels.items():
        name, value = (entry, key) if isinstance(entry, str) else (key, entry)
        try:
            by_name[name] = float(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"dataset.json: labels has '{key}': {json.dumps(entry)}; "
                'give {"value": "name"} or {"name": value}'
            ) from error
    return dict(sorted(by_name.items(), key=lambda pair: pair[1]))


def _from_json(root: Path) -> list[Case]:
    content = _read_json(root / "dataset.json")
    cases = []
    for split in ("training", "validation"):
        for entry in content.get(split) or []:
            case = _json_case(root, split, entry)
            cases.append(case | {"split": split} if content.get("validation") else case)
    if not content.get("training"):
        raise InputError(
            f"'{root / 'dataset.json'}': no case in 'training'; list {{\"image\", \"label\"}} there"
        )
    _tell_of_others(root, cases)
    return sorted(cases, key=lambda case: case["image"])


def _tell_of_others(root: Path, cases: list[Case]) -> None:
    """Files may lie outside of the folder, as in lists that share a store: they are only read."""
    top = os.path.abspath(root)
    paths = [os.path.abspath(case[key]) for case in cases for key in ("image", "label")]
    outside = [path for path in paths if os.path.commonpath([top, path]) != top]
    if outside:
        logger.warning(
            "'%s' lists %d files outside of its folder, such as '%s'",
            root / "dataset.json",
            len(outside),
            outside[0],
        )


def _json_case(root: Path, split: str, entry: Any) -> Case:
    if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
        raise InputError(
            f"'{root / 'dataset.json'}': {split} has {json.dumps(entry)[:100]}; "
            'each case needs "image" and "label"'
        )
    case = {key: str(root / str(entry[key])) for key in ("image", "label")}
    for key, path in case.items():
        if not os.path.exists(path):  # of pathlib, names that are too long raise
            raise InputError(
                f"{key} '{path}': listed in dataset.json, but no such file; correct it"
            )
    return case | ({"group": str(entry["group"])} if "group" in entry else {})


def _from_folders(root: Path) -> list[Case]:
    image_dir = root / "images"
    mask_dirs = [root / name for name in ("masks", "labels") if (root / name).is_dir()]
    if not image_dir.is_dir() or len(mask_dirs) != 1:
        raise InputError(
            f"dataset_dir '{root}': needs dataset.json, or images/ and either masks/ or labels/"
        )
    images, masks = by_stem(image_dir, with_folders=True), by_stem(mask_dirs[0])
    if not images:
        raise InputError(f"'{image_dir}': no image in it; put the images there")
    raise_problems(
        [
            f"image '{image}': no mask '{mask_dirs[0] / stem}.*'; add it"
            for stem, image in images.items()
            if stem not in masks
        ]
    )
    warn_of_masks_alone(images, masks)
    return [{"image": str(images[s]), "label": str(masks[s])} for s in sorted(images)]


def warn_of_masks_alone(images: Mapping[str, Path], masks: Mapping[str, Path | str]) -> None:
    """Name the masks, by stem, that have no image."""
    for stem in sorted(masks.keys() - images.keys()):
        warnings.warn(f"mask '{masks[stem]}': no image of this name; it is not used", stacklevel=3)


def by_stem(folder: Path, with_folders: bool = False) -> dict[str, Path]:
    """Files with a suffix that we read (and folders, as DICOM series), by name without suffix.

    Raises:
        InputError: two of one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem, suffix = split_suffix(path)
        if path.name.startswith(".") or not suffix or (path.is_dir() and not with_folders):
            continue
        if stem in found:
            raise InputError(
                f"'{path}': '{found[stem].name}' has the same stem; rename one, pairs go by stem"
            )
        found[stem] = path
    return found


def _group_rule(root: Path, pattern: str | None, column: str | None) -> GroupOf:
    if pattern is not None:
        return _pattern_rule(pattern)
    if column is not None:
        return _column_rule(root / "index.csv", column)
    return lambda stem: stem


def _pattern_rule(pattern: str) -> GroupOf:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"group_pattern '{pattern}': {error}; correct the expression") from error
    if compiled.groups != 1:
        raise InputError(
            f"group_pattern '{pattern}': {compiled.groups} groups; put exactly one pair of ()"
        )

    def group_of(stem: str) -> str:
        match = compiled.search(stem)
        if match is None or match.group(1) is None:
            raise InputError(
                f"group_pattern '{pattern}': no match in '{stem}'; correct the pattern"
            )
        return match.group(1)

    return group_of


def _column_rule(table: Path, column: str) -> GroupOf:
    if not table.is_file():
        raise InputError(f"group_column '{column}': no file '{table}'; add it or use group_pattern")
    columns, rows = _read_table(table)
    for needed in ("stem", column):
        if columns.count(needed) != 1:
            how = "two columns" if needed in columns else "no column"
            raise InputError(f"'{table}': {how} '{needed}'; it has {', '.join(columns)}")
    groups = {row[columns.index("stem")]: row[columns.index(column)] for row in rows}

    def group_of(stem: str) -> str:
        if not groups.get(stem):
            raise InputError(f"'{table}': no '{column}' for stem '{stem}'; add it")
        return groups[stem]

    return group_of


def _read_table(table: Path) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the rows, each with a cell for each column."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            columns, *rows = [row for row in csv.reader(file, strict=True) if row] or [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"'{table}': not readable as CSV in UTF-8 ({error}); correct it"
        ) from error
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            raise InputError(
                f"'{table}': row {number} has {len(row)} cells for {len(columns)} columns; "
                "correct it"
            )
    return columns, rows
