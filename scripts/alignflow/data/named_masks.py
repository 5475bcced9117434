"""Masks that name their regions: DICOM segmentations, structure sets, and 3D Slicer's .seg.nrrd."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path
from typing import Any

from alignflow.data.check import listed
from alignflow.data.dicom import SUFFIXES as DICOM_SUFFIXES
from alignflow.data.dicom_masks import RegionName, region_names
from alignflow.data.formats import split_suffix
from alignflow.data.labels import FEWEST, Labels, complete_labels, is_number
from alignflow.data.nrrd import segment_values
from alignflow.data.structures import Structures, key
from alignflow.errors import InputError

logger = logging.getLogger(__name__)

SIMILAR = 0.8  # share of the letters that two spellings of one name have in common


def classes_of_masks(
    files: Sequence[str], stated: Mapping[str, Any] | None, scheme: str = "disjoint"
) -> tuple[Labels | None, dict[str, float]]:
    """Classes of a data set, by the names of regions, before pixels are read.

    Args:
        files: masks.
        stated: as `complete_labels` takes it; None: every named region is a class, in the order of
            their names.
        scheme: of the classes.

    Returns:
        Labels, None where values of the masks are to decide; and what else regions are called,
        `structures.key` of the name -> native value.

    Raises:
        InputError: a name that is stated and that no mask has; masks none of whose regions is a
            class; names that mean two things, or look like two spellings of one; names here and
            values alone there; nested classes whose order is not stated.
    """
    labels = None if stated is None else complete_labels(stated)
    merged = {} if labels is None or stated is None else _merged(stated, labels)
    named = {file: names for file in files if (names := names_of(Path(file)))}
    if not named:
        if merged:
            raise InputError(
                "labels: names of structures, but the masks have values alone; set the value of "
                'each class, as {"liver": 1}'
            )
        return labels, merged
    found = _by_key(named)
    if labels is None:
        return _labels_of_names(named, found, files, scheme), {}
    rules = Structures.of("disjoint", labels, merged)
    others = sorted(f"'{r.name}'" for r in found.values() if rules.value_of(r.name, r.code) is None)
    missing = [name for name in merged if name not in found]
    there = ", ".join(sorted(f"'{region.name}'" for region in found.values()))[:300]
    if missing:
        raise InputError(f"labels: no mask has a structure '{missing[0]}'; the masks have {there}")
    if len(others) == len(found):
        raise InputError(
            f"labels: none of {', '.join(list(labels)[1:])} is a structure of the masks, which "
            f'have {there}; set "labels", as {{"liver": "Liver"}}'
        )
    if others:
        logger.info("masks: structures %s are not in labels and left out", ", ".join(others))
    _warn_of_misspelt(named, found, rules)
    return labels, merged


def _warn_of_misspelt(
    named: Mapping[str, Sequence[RegionName]], found: Mapping[str, RegionName], rules: Structures
) -> None:
    """Tell of masks that lack a class and have a name like its own, or that lack all classes."""
    values = {k: rules.value_of(region.name, region.code) for k, region in found.items()}
    classes = {k for k, value in values.items() if value is not None}
    for other in found.keys() - classes:
        files = []
        for file, names in _keys(named).items():
            there = {values[name] for name in names}
            missing = {k for k in classes if values[k] not in there}
            if other in names and (missing == classes or any(_is_like(other, k) for k in missing)):
                files.append(file)
        if files:
            logger.warning(
                "masks: '%s' is not in labels, and a class is missing in %s; if it is that class, "
                "correct the name, or state both names for it",
                found[other].name,
                listed(files),
            )


def _require_one_spelling(
    named: Mapping[str, Sequence[RegionName]], found: Mapping[str, RegionName]
) -> None:
    keys = _keys(named)
    holders = {k: [file for file, names in keys.items() if k in names] for k in found}
    for one, other in combinations(found, 2):
        if _is_like(one, other) and not {*holders[one]} & {*holders[other]}:
            names = [found[k].name for k in (one, other)]
            raise InputError(
                f"masks: '{names[0]}' in {listed(holders[one])} and '{names[1]}' in "
                f"{listed(holders[other])}, never in one mask, which look like one structure; "
                f'correct the name, or set "labels", as {{"{names[0]}": {json.dumps(names)}}}, or '
                "with both as classes"
            )


def _keys(named: Mapping[str, Sequence[RegionName]]) -> dict[str, set[str]]:
    return {file: {key(region.name) for region in regions} for file, regions in named.items()}


def _is_like(name: str, other: str) -> bool:
    return SequenceMatcher(None, name, other).ratio() >= SIMILAR


def warn_of_others(files: Sequence[str], rules: Structures) -> None:
    """Tell of regions that the classes of a training set leave out."""
    for file in files:
        for region in names_of(Path(file)) if rules.values else ():
            if rules.value_of(region.name, region.code) is None:
                logger.warning("mask '%s': '%s' is not a class and is left out", file, region.name)


def names_of(path: Path) -> list[RegionName]:
    """What a mask calls its regions; empty where its format has values alone."""
    suffix = split_suffix(path)[1]
    if suffix == ".nrrd" and path.is_file():
        return [RegionName(name) for name in segment_values(path)]
    return region_names(path) if suffix in DICOM_SUFFIXES and path.is_file() else []


def _by_key(named: Mapping[str, Sequence[RegionName]]) -> dict[str, RegionName]:
    """First region of each name.

    Raises:
        InputError: one name with two property types.
    """
    found: dict[str, RegionName] = {}
    for file, regions in named.items():
        for region in regions:
            known = found.setdefault(key(region.name), region)
            if known.kind != region.kind and "" not in (known.kind, region.kind):
                raise InputError(
                    f"mask '{file}': segment '{region.name}' is of type {region.kind}, elsewhere "
                    f"of {known.kind}; name the segments by what they are"
                )
    return found


def _labels_of_names(
    named: Mapping[str, Sequence[RegionName]],
    found: Mapping[str, RegionName],
    files: Sequence[str],
    scheme: str,
) -> Labels:
    """Values 1, 2, ... by name; those of our own codes where all have one."""
    if len(named) < len(files):
        raise InputError(
            f"masks: '{next(iter(named))}' names its structures, others have values; state which "
            'are the same in "labels", as {"liver": 1}'
        )
    codes = {region.code: region.name for region in found.values() if region.code is not None}
    if len(codes) == len(found):
        return {"background": 0.0} | {name: code for code, name in sorted(codes.items())}
    _require_one_spelling(named, found)
    names = {k: region.name for k, region in sorted(found.items())}
    if scheme == "nested" and len(names) > 1:
        raise InputError(
            f"labels: which of {', '.join(names.values())} lies within which is not stated; set "
            '"labels" from the outer to the inner, as {"disc": "Disc", "cup": "Cup"}'
        )
    for k, name in names.items():
        holders = [f for f, regions in named.items() if any(key(r.name) == k for r in regions)]
        if len(holders) == 1 and len(files) >= FEWEST:
            logger.warning(
                "masks: structure '%s' is in '%s' alone, of %d masks; if it is not a class, "
                "correct its name, or state labels",
                name,
                holders[0],
                len(files),
            )
    return {"background": 0.0} | {name: float(v) for v, name in enumerate(names.values(), start=1)}


def _merged(stated: Mapping[str, Any], labels: Labels) -> dict[str, float]:
    """Name of a region -> value of the class that it is stated for."""
    merged: dict[str, float] = {}
    for name, names in stated.items():
        for other in [] if is_number(names) else [names] if isinstance(names, str) else names:
            if key(other) in merged:
                raise InputError(f"labels: structure '{other}' is in two classes; leave it in one")
            merged[key(other)] = labels[name]
    return merged
