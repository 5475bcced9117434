"""Native values of masks and class indices: 0 is background, 1 to K-1 are foreground."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignflow.data.check import raise_problems
from alignflow.data.raster import palette_of
from alignflow.errors import InputError

logger = logging.getLogger(__name__)

Labels = dict[str, float]  # name -> native value, in the order of class indices

MOST_VALUES = 16
FEWEST = 5  # masks, from which on a value that one of them has alone is told
ONES = {1, 255, 256, 65535}  # what programs write for "yes"
IGNORED = 255  # beside 1, 2, ... it marks outlines and pixels that nobody judged
COUNTED = 65536  # values up to here are counted
BLURRED = 20  # values from which on neighbours are not counted as classes 1, 2, 3, ...
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


def require_one_palette(files: Iterable[str]) -> None:
    """Refuse masks in which one entry of the palette is of two colours: classes go by entry.

    Raises:
        InputError: naming the entry and both files.
    """
    known: dict[int, tuple[tuple[int, int, int], str]] = {}
    for file in files:
        try:
            palette = palette_of(Path(file))
        except Exception:  # Pillow's are bare; reading the mask says what is wrong with it
            continue
        for entry, colour in palette.items():
            first, other = known.setdefault(entry, (colour, file))
            if first != colour:
                raise InputError(
                    f"masks: entry {entry} of the palette is {first} in '{other}' and {colour} in "
                    f"'{file}'; save all masks with one palette, or as gray"
                )


def complete_labels(stated: Mapping[str, Any]) -> Labels:
    """Stated labels with the background in front; the others keep their order.

    A class is stated by its value in the masks, or by the name, or list of names, of structures in
    DICOM masks; then its value is its place in the list: 1, 2, ...

    The background is the class with native value 0, else the one named "background"; where there is
    neither, "background" with value 0 is added.

    Raises:
        InputError: a value that is no number, or two names for one value.
    """
    if not isinstance(stated, Mapping):
        raise InputError(f'labels: {stated!r}; set {{"name": value in the masks, ...}}')
    numbers = {name: value for name, value in stated.items() if is_number(value)}
    if 0 < len(numbers) < len(stated) and set(numbers.values()) != {0}:
        raise InputError(f"labels: {dict(stated)}; give all classes by value, or all by name")
    places = iter(range(1, len(stated) + 1))
    labels = {
        name: float(value) if is_number(value) else _place(name, value, places)
        for name, value in stated.items()
    }
    if len(set(labels.values())) < len(labels):
        raise InputError(f"labels: {labels} gives one value two names; give each its own")
    by_value = {value: name for name, value in labels.items()}
    background = by_value.get(0.0, "background")
    return {background: labels.get(background, 0.0)} | labels


def is_number(value: object) -> bool:
    """Whether a class is stated by its value, and not by names of structures."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _place(name: str, value: object, places: Iterator[int]) -> float:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
        raise InputError(
            f'labels: "{name}" is {value!r}; set one number, its value in the masks, or the '
            "name of a structure"
        )
    return float(next(places))


def _count_labels(by_file: Mapping[str, list[float]]) -> Labels:
    for file, found in by_file.items():
        if len(found) > 2 and file.lower().endswith(LOSSY_SUFFIXES):
            raise InputError(
                f"mask '{file}': {len(found)} values in a JPEG-compressed mask; set mask_threshold"
            )
    values = sorted(set().union(*by_file.values()))
    _require_no_disguise(by_file, values)
    if len(values) > MOST_VALUES:
        richest = max(by_file, key=lambda file: len(by_file[file]))
        raise InputError(
            f"masks: {len(values)} different values (most in '{richest}'), which looks "
            "like soft or JPEG-compressed masks; set mask_threshold, or labels if they are classes"
        )
    close = next((v for v, w in pairwise(values) if v >= BLURRED and w - v <= 2), None)
    if close is not None:
        raise InputError(
            f"masks: values {close:g} and {close + 1:g}, so close that they look like classes "
            "after JPEG compression; save the masks without loss, or set labels if they are classes"
        )
    background = 0.0 if 0.0 in values else values[0]
    foreground = [value for value in values if value != background]
    for file, found in by_file.items():
        ignored = found[0] if found[0] < 0 else found[-1]
        if background == 0 and (ignored < 0 or {1, IGNORED} <= {*found}):
            logger.warning(
                "masks: %g in '%s' is taken for a class; if it marks pixels to ignore, set them to "
                "0, or state labels",
                ignored,
                file,
            )
            break
    for value in foreground:
        holders = [file for file, found in by_file.items() if value in found]
        if len(holders) == 1 and len(by_file) >= FEWEST:
            logger.warning(
                "masks: value %g is in '%s' alone, of %d masks; if it is not a class, correct that "
                "mask, or state labels",
                value,
                holders[0],
                len(by_file),
            )
    return {"background": background} | {f"class{i}": v for i, v in enumerate(foreground, start=1)}


def _require_no_disguise(by_file: Mapping[str, list[float]], values: Sequence[float]) -> None:
    """Refuse values that look like classes and are one structure, written in two ways.

    Raises:
        InputError: values around 0 and 255, or around others, as JPEG leaves them; or one value in
            some masks, another in others, never two in one, and both mean "yes" in some format.
    """
    around = all(value <= 10 or value >= 245 for value in values)
    high = [value for value in values if value >= 245]
    if around and len(high) > 1:
        raise InputError(
            f"masks: values {', '.join(f'{v:g}' for v in values[:6])}, which look like a binary "
            "mask after JPEG compression; set mask_threshold to 127, or labels if they are classes"
        )
    foreground = [value for value in values if value != 0]
    is_binary = all(len([v for v in found if v]) <= 1 for found in by_file.values())
    if len(foreground) > 1 and set(foreground) <= ONES and is_binary:
        first, last = foreground[0], foreground[-1]
        one, other = (next(f for f, found in by_file.items() if v in found) for v in (first, last))
        raise InputError(
            f"masks: {first:g} in '{one}' and {last:g} in '{other}', never in one mask, which look "
            "like one class written in two ways; set mask_threshold to 0, or labels if they are "
            "classes"
        )


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


def values_in(mask: torch.Tensor) -> list[float]:
    """Native values that occur, ascending; counting is much faster than sorting a volume."""
    low, high = mask.min(), mask.max()
    if low < 0 or high >= COUNTED or not torch.equal(mask, mask.round()):
        return mask.unique().tolist()
    counts = torch.bincount(mask.flatten().to(torch.int32), minlength=1)
    return counts.nonzero().flatten().float().tolist()


def to_index(label: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Native values to class indices, uint8; every value must be in `labels`."""
    index = torch.zeros(label.shape, dtype=torch.uint8)
    for k, value in enumerate(labels.values()):
        index[label == value] = k
    return index


def to_native(index: np.ndarray, labels: Labels, dtype: str) -> np.ndarray:
    """Class indices to native values of `dtype`; the inverse of `to_index`."""
    return np.array(list(labels.values()), dtype=dtype)[index]
