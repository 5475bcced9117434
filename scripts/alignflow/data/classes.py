"""The classes of a data set, found in one look over its masks before images are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from monai.data import MetaTensor
from scipy.ndimage import maximum_filter, minimum_filter

from alignflow.data.check import check_mask
from alignflow.data.formats import load
from alignflow.data.labels import Labels, find_labels, require_one_palette, values_in
from alignflow.data.named_masks import classes_of_masks
from alignflow.data.structures import Classes
from alignflow.data.threads import for_each
from alignflow.errors import InputError
from alignflow.masks.class_index import Scheme

Look = tuple[list[float], set[float]]
EDGE = 3  # a class of outlines has a low number: 0 background, 1 cell, 2 outline
BINARY: Labels = {"background": 0.0, "foreground": 1.0}  # what a mask above a threshold is read as


def find_classes(
    cases: Sequence[Mapping[str, str]],
    stated: Mapping[str, Any] | None = None,
    threshold: float | None = None,
    scheme: Scheme = "disjoint",
    num_workers: int = 4,
    progress: bool = True,
    looked: Mapping[str, Look] | None = None,
) -> Classes:
    """Names and values of the classes; masks are opened where neither is stated.

    Args:
        cases: the datalist.
        stated: {name: native value}, or of DICOM masks {name: structure or list of structures};
            None: every value, or every structure by name, is a class.
        threshold: two classes, foreground being values above it (soft or JPEG masks).
        scheme: of the classes.
        num_workers: threads that read masks.
        progress: show a progress bar.
        looked: of each mask, where they were opened before.

    Raises:
        InputError: whatever `classes_of_masks` and `find_labels` refuse. A mask that cannot be read
            is passed over: whoever reads it with its image says so.
    """
    files = [case["label"] for case in cases]
    labels, structures = classes_of_masks(files, stated, scheme)
    require_one_palette(files)
    if labels is None or threshold is not None:
        if looked is None:
            looked = _look(files, threshold is None, num_workers, progress)
        found = {file: looked[file] for file in files if file in looked}
        labels = _by_value({file: values for file, (values, _) in found.items()}, labels, threshold)
        if threshold is None:
            _require_more_than_edges(found)
    return {"labels": labels, "structures": structures, "scheme": scheme}


def _look(
    files: Sequence[str], is_integer: bool, num_workers: int, progress: bool
) -> dict[str, Look]:
    """Of each mask that can be read."""

    def attempt(file: str) -> Look | None:
        try:
            mask = load(file, is_mask=True)
            check_mask(mask, is_integer)
        except InputError:
            return None
        return look_at(mask)

    looked = for_each(files, attempt, num_workers, "masks", progress)
    return {file: one for file, one in zip(files, looked, strict=True) if one is not None}


def look_at(mask: MetaTensor) -> Look:
    """Native values of a mask, and those of `edges_of`."""
    values = values_in(mask.as_tensor())
    return values, edges_of(mask.numpy().squeeze()) if len(values) > 2 else set()


def edges_of(mask: np.ndarray) -> set[float]:
    """Values all of whose pixels lie between a lower and a higher one: none in a volume.

    Args:
        mask: (X, Y) of a picture.
    """
    if mask.ndim != 2:
        return set()
    between = (minimum_filter(mask, 3) < mask) & (mask < maximum_filter(mask, 3))
    return set(np.unique(mask[between]).tolist()) - set(np.unique(mask[~between]).tolist())


def _require_more_than_edges(looked: Mapping[str, Look]) -> None:
    """Refuse masks whose outlines were blurred when they were resized.

    Raises:
        InputError: a value that lies between others in every mask, one pixel wide.
    """
    blurred = {v for _, edges in looked.values() for v in edges if v > EDGE}
    for values, edges in looked.values():
        blurred -= {*values} - edges
    if blurred:
        listed = ", ".join(f"{value:g}" for value in sorted(blurred)[:5])
        file = next(file for file, (_, edges) in looked.items() if edges & blurred)
        raise InputError(
            f"masks: {listed} lie only on outlines between other values (as in '{file}'), which "
            "looks like masks that were resized softly; set mask_threshold, or labels if they are "
            "classes"
        )


def _by_value(
    values: Mapping[str, list[float]], labels: Labels | None, threshold: float | None
) -> Labels:
    if not values:
        return labels or BINARY  # reading tells why
    if threshold is None:
        return find_labels(values)
    binary = {file: sorted({float(v > threshold) for v in found}) for file, found in values.items()}
    find_labels(binary, BINARY)  # raises where no mask has foreground
    if labels is None:
        # Written masks must come back as foreground when they are read with the same threshold.
        return {"background": 0.0, "class1": max(found[-1] for found in values.values())}
    if len(labels) != 2:
        raise InputError(
            f"labels: {labels} with mask_threshold; give one foreground class, or none"
        )
    return labels
