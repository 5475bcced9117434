"""From a folder of images and masks to a list of pairs with groups."""

from __future__ import annotations

import json
import logging
import os
import random
import warnings
from pathlib import Path
from typing import Any
from unicodedata import normalize

from alignflow.data.check import listed
from alignflow.data.content import require_here
from alignflow.data.folders import (
    by_name,
    find_folders,
    list_entries,
    list_images,
    list_masks,
    pair,
)
from alignflow.data.formats import channel_files, split_suffix
from alignflow.data.groups import group_rule, has_patients
from alignflow.data.nnunet import FOLDERS as NNUNET_FOLDERS
from alignflow.data.nnunet import join_channels, listed_pairs, require_channels
from alignflow.data.patients import patients, require_no_leak
from alignflow.errors import InputError

logger = logging.getLogger(__name__)

Case = dict[str, str]
LABELS_FORM = 'give {"value": "name"} or {"name": value}'


def build_datalist(
    dataset_dir: str | Path, group_pattern: str | None = None, group_column: str | None = None
) -> list[Case]:
    """All pairs of a data set, with the group (patient, sequence) that splits must keep whole.

    The data set is either described by an MSD-style `dataset.json` ("training", and optionally
    "validation": lists of {"image", "label"[, "group"]} with paths relative to the folder; a
    warning counts those that lead out of it), or it is two folders: `images/` and `masks/` or
    `labels/`, or nnU-Net's `imagesTr/` and `labelsTr/`. Files of equal stem are a pair, and a mask
    may have a suffix (see `folders.pair`). A DICOM series is a folder `images/NAME/`, and other
    folders within `images/` are patients.

    Args:
        dataset_dir: the folder.
        group_pattern: regular expression with one group, searched in the stem of the image.
        group_column: column of `index.csv`, which also has a column `stem`.

    Returns:
        One dictionary per pair, sorted by stem: "image" (of several files what `formats.load` reads
        them by), "label", "group" (from `dataset.json`, else the pattern, else the column, else a
        column "patient" of `index.csv`, else the folder within `images/`, else the PatientID of
        DICOM, else the subject of a BIDS name, else the stem), and "split" and "modality" where
        `dataset.json` states them.

    Raises:
        InputError: no such folder, nothing in it, an image without a mask or with several, or
            without one of its channels, a pattern or a column that does not fit.
    """
    if not dataset_dir:
        raise InputError("dataset_dir is not set; give --dataset_dir DIR, images with their masks")
    root = Path(dataset_dir)
    _require_folder(root)
    group_of = group_rule(root, group_pattern, group_column)
    named = _from_json(root) if lists_cases(root) else _from_folders(root)
    content = read_json(root / "dataset.json")
    require_channels([case["image"] for _, case in named], content)
    modality = _modality(content)
    is_stated = group_pattern or group_column or has_patients(root / "index.csv")
    patient_of = {} if is_stated else patients([case["image"] for _, case in named])
    for name, case in named:
        if modality:
            case["modality"] = modality
        if "group" not in case:
            # A folder of a patient counts before a header: studies may have a PatientID each.
            known = None if "/" in name else patient_of.get(case["image"])
            case["group"] = known or group_of(name)
    return [case for _, case in named]


def dataset_json(dataset_dir: str | Path) -> dict[str, Any]:
    """Optional facts of an MSD-style `dataset.json`: "labels" and "modality", where stated.

    Returns:
        "labels": {name: native value}, ordered by value, whichever way round the file has them;
        "modality": its text for the first channel, such as "CT" or "MRI". Absent keys are left out.
    """
    content = read_json(Path(dataset_dir) / "dataset.json")
    facts: dict[str, Any] = {}
    if content.get("labels"):
        facts["labels"] = _parse_labels(content["labels"])
    if modality := _modality(content):
        facts["modality"] = modality
    return facts


def stated_labels(dataset_dir: str | Path) -> dict[str, float] | None:
    """{name: native value} from the data set's `dataset.json`; None where it states none."""
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
        InputError: fewer than two groups, a stated split that divides a group, or a patient on both
            sides, by the headers of DICOM files.
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
    validation = [case for case in datalist if case["group"] in chosen]
    require_no_leak(*([case["image"] for case in part] for part in (training, validation)))
    return training, validation


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
    require_no_leak(*([case["image"] for case in part] for part in (training, validation)))
    return training, validation


def _modality(content: dict[str, Any]) -> str | None:
    """Of the first channel; those of a colour photograph, R, G and B, name none."""
    stated = content.get("modality") or content.get("channel_names") or None
    if stated is None or isinstance(stated, str):
        return stated
    names = [str(name) for name in (stated.values() if isinstance(stated, dict) else stated)]
    return None if "".join(name[:1].upper() for name in names) == "RGB" else names[0]


def _require_folder(root: Path) -> None:
    if not root.exists():
        raise InputError(f"dataset_dir '{root}': no such folder; correct the path")
    if not root.is_dir():
        raise InputError(
            f"dataset_dir '{root}': not a folder; give the folder that holds the images"
        )
    if not any(root.iterdir()):
        raise InputError(f"dataset_dir '{root}': empty; put images/ and masks/ into it")


def read_json(path: Path) -> dict[str, Any]:
    """Content of a `dataset.json`; empty where there is no such file.

    Raises:
        InputError: not JSON, or no object.
    """
    if not os.path.lexists(path):
        return {}
    require_here(path, "file")
    try:
        content = json.loads(path.read_bytes())  # in UTF-8 or UTF-16, with or without a mark
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}': not in UTF-8 ({error.reason}); save it so") from error
    except json.JSONDecodeError as error:
        raise InputError(f"'{path}': not valid JSON ({error}); correct it") from error
    if not isinstance(content, dict):
        raise InputError(f"'{path}': not a JSON object; it must have 'training'")
    return content


def lists_cases(root: Path) -> bool:
    """Whether the folder's `dataset.json` lists the pairs (it may state labels alone)."""
    path = root / "dataset.json"
    if not os.path.lexists(path):
        return False
    content = read_json(path)
    has_list = bool({"training", "validation"} & content.keys()) or bool(listed_pairs(content))
    return has_list or find_folders(root)[0] == root


def _parse_labels(labels: Any) -> dict[str, float]:
    if not isinstance(labels, dict):
        raise InputError(f"dataset.json: labels is {json.dumps(labels)[:100]}; {LABELS_FORM}")
    values = {}
    for key, entry in labels.items():
        name, value = (entry, key) if isinstance(entry, str) else (key, entry)
        stated = f"dataset.json: labels has '{key}': {json.dumps(entry)}"
        if isinstance(value, list):
            raise InputError(
                f"{stated}, a region of several values; give each value a name of its own, or set "
                '"labels" in the config'
            )
        if name.lower() == "ignore":
            raise InputError(
                f"{stated}, pixels that nnU-Net leaves out, which is not done here; leave out "
                'images that have them, and set "labels" in the config, or take it out of the list'
            )
        try:
            values[name] = float(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"{stated}; {LABELS_FORM}") from error
    return dict(sorted(values.items(), key=lambda pair: pair[1]))


def _from_json(root: Path) -> list[tuple[str, Case]]:
    content = read_json(root / "dataset.json")
    cases: list[Case] = []
    for split in ("training", "validation"):
        for entry in content.get(split) or (listed_pairs(content) if split == "training" else []):
            case = _json_case(root, split, entry)
            cases.append(case | {"split": split} if content.get("validation") else case)
    if all(case.get("split") == "validation" for case in cases):
        raise InputError(
            f"'{root / 'dataset.json'}': no case in 'training'; list {{\"image\", \"label\"}} there"
        )
    _tell_of_others(root, cases)
    _tell_of_crossed(cases)
    cases.sort(key=lambda case: case["image"])
    return [(_name_in_list(root, case["image"]), case) for case in cases]


def _name_in_list(root: Path, image: str) -> str:
    """As `by_name` has it: the stem, and folders of patients before it."""
    folders = Path(os.path.relpath(image, root)).parts[1:-1]
    is_below = os.path.commonpath([os.path.abspath(root), os.path.abspath(image)]) == (
        os.path.abspath(root)
    )
    stem = split_suffix(image)[0]
    return normalize("NFC", "/".join([*folders, stem] if is_below else [stem]))


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


def _tell_of_crossed(cases: list[Case]) -> None:
    """Lists written by hand may have rows that slipped."""
    stems = [[split_suffix(case[key])[0] for key in ("image", "label")] for case in cases]
    images = {image for image, _ in stems}
    odd = [
        case["label"]
        for case, (image, mask) in zip(cases, stems, strict=True)
        if mask != image and mask in images
    ]
    if odd:
        warnings.warn(
            f"dataset.json: {listed(odd)} listed for an image, but called as another image; check "
            "the list",
            stacklevel=4,
        )


def _json_case(root: Path, split: str, entry: Any) -> Case:
    if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
        raise InputError(
            f"'{root / 'dataset.json'}': {split} has {json.dumps(entry)[:100]}; "
            'each case needs "image" and "label"'
        )
    case = {key: _listed_path(root, key, str(entry[key])) for key in ("image", "label")}
    return case | ({"group": str(entry["group"])} if "group" in entry else {})


def _listed_path(root: Path, key: str, stated: str) -> str:
    """Where a listed file is, whichever way its folders are divided and its letters composed."""
    for text in (stated, stated.replace("\\", "/")):
        for form in (text, normalize("NFC", text), normalize("NFD", text)):
            path = str(root / form)
            # a link to nothing is told of where the file is read
            if os.path.lexists(path) or channel_files(path):
                return path
    raise InputError(
        f"{key} '{root / stated}': listed in dataset.json, but no such file; correct it"
    )


def _from_folders(root: Path) -> list[tuple[str, Case]]:
    image_dir, mask_dirs = find_folders(root)
    if image_dir == root or len(mask_dirs) != 1:
        there = ", ".join(f"'{path.name}'" for path in list_entries(root)[:5])
        raise InputError(
            f"dataset_dir '{root}': needs dataset.json, or images/ and either masks/ or labels/, "
            f"or imagesTr/ and labelsTr/; there: {there}"
        )
    masks = by_name(list_masks(mask_dirs[0]), mask_dirs[0])
    images = by_name(list_images(image_dir), image_dir)
    if image_dir.name in NNUNET_FOLDERS:
        images = join_channels(images, masks)
    if not images:
        raise InputError(f"'{image_dir}': no image in it; put the images there")
    paired = pair(images, masks, mask_dirs[0])
    return [(n, {"image": str(images[n]), "label": str(paired[n])}) for n in sorted(images)]
