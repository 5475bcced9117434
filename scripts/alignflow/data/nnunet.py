"""Names and channels of nnU-Net data sets, versions 1 and 2.

An image is a file for each channel, NAME_0000.png, NAME_0001.png, ..., and its mask is NAME.png.
Such an image has the path NAME.png beside its files, as the lists of version 1 write it; no file
has this name, and `formats.load` reads the channels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from alignflow.data.check import raise_problems
from alignflow.data.formats import PIL_SUFFIXES, channel_files, channel_name, split_suffix
from alignflow.data.spec import SourceSpec
from alignflow.errors import InputError

CHANNEL = re.compile(r"(.+)_(\d{4})")
FOLDERS = {"imagesTr": "labelsTr", "imagesTs": "labelsTs"}
COLOURS = (3, 4)  # channels of one picture file: RGB, with alpha
ENDINGS = {".jpg": ".png", ".jpeg": ".png", ".tiff": ".tif", ".nii": ".nii.gz", ".mhd": ".mha"}
RESERVED = ("background", "ignore")  # names of labels, of which nnU-Net makes its own use


def join_channels(images: Mapping[str, Path], masks: Container[str]) -> dict[str, Path]:
    """Images of an nnU-Net folder, by name, from their files.

    Args:
        images: files by name without suffix.
        masks: names; a file that has a mask of just its own name is an image by itself.

    Raises:
        InputError: channels of one image in several formats, or NAME beside NAME_0000.
    """
    parts = {key: m for key in images if key not in masks and (m := CHANNEL.fullmatch(key))}
    if not any(match[2] == "0000" for match in parts.values()):
        return dict(images)  # names that end in a number, as in Decathlon folders
    joined: dict[str, Path] = {}
    for key, file in images.items():
        name, path = key, file
        if key in parts:
            name, (stem, _) = parts[key][1], split_suffix(file)
            path = file.with_name(stem[:-5] + file.name[len(stem) :])
        if joined.setdefault(name, path) != path or (key in parts and os.path.lexists(path)):
            raise InputError(
                f"'{file}': '{joined[name].name}' is the same case; keep one format, and a number "
                "of the channel (_0000, ...) at the end of each name"
            )
    return joined


def listed_pairs(content: Mapping[str, Any]) -> list[dict[str, str]]:
    """{"image", "label"} of each case of "dataset", by which version 2 lists files anywhere.

    Args:
        content: of `dataset.json`.

    Raises:
        InputError: a case of several files.
    """
    listed = content.get("dataset")
    cases = listed if isinstance(listed, dict) else {}
    cases = {n: c for n, c in cases.items() if isinstance(c, dict) and {*c} >= {"images", "label"}}
    for name, case in cases.items():
        if not isinstance(case["images"], list) or len(case["images"]) != 1:
            raise InputError(
                f"dataset.json: dataset has '{name}' with images {str(case['images'])[:100]}; give "
                "one file, or several as imagesTr/NAME_0000, NAME_0001, ... without this list"
            )
    return [{"image": case["images"][0], "label": case["label"]} for case in cases.values()]


def require_channels(images: Iterable[str | Path], content: Mapping[str, Any]) -> None:
    """Refuse images that lack a channel.

    Args:
        images: paths; those of a whole file are passed over.
        content: of `dataset.json`; the number of its channel names, where it has them, counts.

    Raises:
        InputError: naming the missing files; more channels than are named.
    """
    found = {path: channel_files(path) for path in images}
    found = {path: files for path, files in found.items() if files}
    if not found:
        return
    names = content.get("channel_names") or content.get("modality")
    counts = {len(files) for files in found.values()}
    wanted = len(names) if isinstance(names, dict) else max(counts)
    is_picture = split_suffix(next(iter(found)))[1] in PIL_SUFFIXES
    if counts == {1} and is_picture and wanted in COLOURS:
        return
    raise_problems(
        [
            f"image '{channel_name(path, len(files))}': no such file, but images have {wanted} "
            "channels; add it, or correct channel_names in dataset.json"
            for path, files in found.items()
            if len(files) < wanted
        ]
        + [
            f"image '{files[wanted]}': a channel that dataset.json does not name; remove it, or "
            "add it to channel_names"
            for files in found.values()
            if len(files) > wanted
        ]
    )


def description(spec: SourceSpec, count: int) -> dict[str, Any]:
    """Content of the `dataset.json` of written pairs.

    Args:
        spec: of the source.
        count: number of pairs.
    """
    is_colour = spec.modality == "RGB8" and spec.channels == 3
    names = "RGB" if is_colour else [spec.modality] * spec.channels
    return {
        "channel_names": {str(number): name for number, name in enumerate(names)},
        "labels": {name: int(value) for name, value in labels_of(spec.labels).items()},
        "numTraining": count,
        "file_ending": file_ending(spec),
    }


def labels_of(labels: Mapping[str, float]) -> dict[str, float]:
    """Values of classes as nnU-Net demands them: 0 for "background", and no gap.

    Args:
        labels: name -> native value, in the order of class indices.

    Returns:
        The native values where they are 0 to K-1, else the class indices.
    """
    is_gapless = sorted(labels.values()) == list(range(len(labels)))
    values = labels.values() if is_gapless else range(len(labels))
    names = ["background", *(f"{n}_" if n in RESERVED else n for n in [*labels][1:])]
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def file_ending(spec: SourceSpec) -> str:
    """The suffix of images and masks alike: of a format that nnU-Net reads, without loss."""
    return ENDINGS.get(spec.image_suffix, spec.image_suffix)


def is_colour_file(spec: SourceSpec) -> bool:
    """Whether all channels go into one file."""
    return file_ending(spec) in PIL_SUFFIXES and spec.channels == 3
