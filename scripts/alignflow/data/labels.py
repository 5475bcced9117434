"""Native values of masks and class indices: 0 is background, 1 to K-1 are foreground."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from alignflow.data.check import raise_problems
from alignflow.errors import InputError
from alignflow.masks.class_index import Scheme

Labels = dict[str, float]  # name -> native value, in the order of class indices

MOST_VALUES = 16
LOSSY_SUFFIXES = (".jpg", ".jpeg")


def find_labels(values: Mapping[str, Iterable[float]], stated: Labels | None = None) -> Labels:
    """The classes of a data set.

    Args:
        values: native values that occur in each mask, by file name.
        stated: {name: native value}, see `complete_labels`. None: every value that
            occurs is a class, 0 (or the smallest) is background.

    Returns:
        {name: native value}, background first; names are "class1", ... where none are stated.

    Raises:
        InputError: a value that is not stated, more than 16 values, or no foreground at all.
    """
    by_file = {file: sorted(set(found)) for file, found in values.items()}
    labels = _count_labels(by_file) if stated is None else complete_labels(stated)
    raise_problems(
        [line for file, found in by_file.items() for line in _unknown(file, found, labels)]
    )
    background = next(iter(labels.values()))
    if all(value == background for found in by_file.values() for value in found):
        raise InputError(
            f"masks: none of {len(by_file)} has foreground, all pixels are {background:g}; "
            "correct the masks"
        )
    return labels


def require_one_name(names: Mapping[str, Mapping[float, str]]) -> None:
    """Refuse masks that call one value by two names: numbers of structures are those of a file.

    Args:
        names: native value -> name of each mask, by file name; empty where a format has no names.

    Raises:
        InputError: one value, two names (DICOM PS3.3, C.8.8.5: an ROI Number is unique within one
            structure set only; so are segment numbers).
    """
    first: dict[float, tuple[str, str]] = {}
    for file, found in names.items():
        for value, name in found.items():
            known, where = first.setdefault(value, (name, file))
            if known.strip().casefold() != name.strip().casefold():
                raise InputError(
                    f"masks: {value:g} is '{known}' in '{where}' and '{name}' in '{file}'; number "
                    "structures alike in all files, or save each mask with one value for a class"
                )


def complete_labels(stated: Mapping[str, float]) -> Labels:
    """Stated labels with the background in front; the others keep their order.

    The background is the class with native value 0, else the one named "background"; where there is
    neither, "background" with value 0 is added.

    Raises:
        InputError: a value that is no number, or two names for one value.
    """
    if not isinstance(stated, Mapping):
        raise InputError(f'labels: {stated!r}; set {{"name": value in the masks, ...}}')
    labels = {name: _as_number(name, value) for name, value in stated.items()}
    if len(set(labels.values())) < len(labels):
        raise InputError(f"labels: {labels} gives one value two names; give each its own")
    by_value = {value: name for name, value in labels.items()}
    background = by_value.get(0.0, "background")
    return {background: labels.get(background, 0.0)} | labels


def overlap_of(scheme: Scheme, labels: Mapping[str, float] | None) -> list[float] | None:
    """Whether regions of one mask may overlap, as `formats.load` takes it.

    Nested classes lie within each other, so that the later one is on top; disjoint ones may not.

    Args:
        scheme: of the classes.
        labels: name -> native value, background first; None where the values decide the order.
    """
    if scheme == "disjoint":
        return None
    return [] if labels is None else list(complete_labels(labels).values())


def _as_number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f'labels: "{name}" is {value!r}; set one number, its value in the masks')
    return float(value)


def _count_labels(by_file: Mapping[str, list[float]]) -> Labels:
    for file, found in by_file.items():
        if len(found) > 2 and file.lower().endswith(LOSSY_SUFFIXES):
            raise InputError(
                f"mask '{file}': {len(found)} values in a JPEG-compressed mask; set mask_threshold"
            )
    values = sorted(set().union(*by_file.values()))
    _require_no_disguise(by_file, values)
    if len(values) > MOST_VALUES:
        raise InputError(
            f"masks: {len(values)} different values (most in '{_richest(by_file)}'), which looks "
            "like soft or JPEG-compressed masks; set mask_threshold, or labels if they are classes"
        )
    background = 0.0 if 0.0 in values else values[0]
    foreground = [value for value in values if value != background]
    return {"background": background} | {f"class{i}": v for i, v in enumerate(foreground, start=1)}


def _require_no_disguise(by_file: Mapping[str, list[float]], values: Sequence[float]) -> None:
    """Refuse values that look like classes and are one structure, written in two ways.

    Raises:
        InputError: values around 0 and 255, as JPEG leaves them; or 1 in some masks and 255 in
            others, never in one.
    """
    around = all(value <= 10 or value >= 245 for value in values)
    high = [value for value in values if value >= 245]
    if around and len(high) > 1:
        raise InputError(
            f"masks: values {', '.join(f'{v:g}' for v in values[:6])}, which look like a binary "
            "mask after JPEG compression; set mask_threshold to 127, or labels if they are classes"
        )
    if values == [0, 1, 255] and not any({1, 255} <= set(found) for found in by_file.values()):
        ones, others = (next(f for f, found in by_file.items() if v in found) for v in (1, 255))
        raise InputError(
            f"masks: 1 in '{ones}' and 255 in '{others}', never in one mask, which look like one "
            "class written in two ways; set mask_threshold to 0, or labels if they are classes"
        )


def _richest(by_file: Mapping[str, list[float]]) -> str:
    return max(by_file, key=lambda file: len(by_file[file]))


def check_values(file: str, found: Iterable[float], labels: Labels) -> None:
    """Raise `InputError` where a mask has a value that is no class."""
    raise_problems(_unknown(file, found, labels))


def _unknown(file: str, found: Iterable[float], labels: Labels) -> list[str]:
    unknown = sorted(set(found) - set(labels.values()))
    if not unknown:
        return []
    listed = ", ".join(f"{value:g}" for value in unknown[:5])
    known = ", ".join(f"{name}={value:g}" for name, value in labels.items())
    return [
        f"mask '{file}': value {listed} is not in labels ({known}); add it, or correct the mask"
    ]


def to_index(label: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Native values to class indices, uint8; every value must be in `labels`."""
    index = torch.zeros(label.shape, dtype=torch.uint8)
    for k, value in enumerate(labels.values()):
        index[label == value] = k
    return index


def to_native(index: np.ndarray, labels: Labels, dtype: str) -> np.ndarray:
    """Class indices to native values of `dtype`; the inverse of `to_index`."""
    return np.array(list(labels.values()), dtype=dtype)[index]
