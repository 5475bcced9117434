"""The `preprocessing` of train.json: run on files, kept in the record, and made from it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from alignflow.config import MONAI_KEYS, leaves, parts_with_target, running_parser
from alignflow.data.formats import first_line
from alignflow.errors import InputError, causes, find_input_error
from alignflow.targets import resolve

TRANSFORMS = (
    "alignflow.data.transforms",
    "monai.transforms.compose",
    "monai.transforms.croppad",
    "monai.transforms.intensity",
    "monai.transforms.spatial",
)
LOADER = "monai.transforms.io.dictionary"
READER = "alignflow.data.transforms.FileReader"
NEEDED = ("window", "slice_axis", "foreground_only", "mask_threshold")
"""Settings that other stages look at, or set: the transforms must take them from there."""
STEPS = ("FindWindowd", "Slicesd", "ScaleWindowd")
ELSEWHERE = ("classes", "image_size")
"""Settings that stand in other fields of the record."""

Preprocessing = Callable[[dict[str, Any]], Any]


def read(preprocessing: Preprocessing, item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The slices of an image, a mask, or both.

    Args:
        preprocessing: MONAI's `Compose`.
        item: paths of "image", "label" or both, and what else the transforms look at.

    Returns:
        Dictionaries with "image" (C, X, Y) in [-1, 1] and "label" uint8 (1, X, Y), class indices,
        where given, with `meta` from `FindWindowd` and `Slicesd`.

    Raises:
        InputError: what a transform refuses or fails with, or labels between the classes.
    """
    name = item.get("image", item.get("label"))
    try:
        slices = preprocessing(dict(item))
    except Exception as error:  # MONAI wraps what its transforms raise
        cause = [e for e in causes(error) if isinstance(e, Exception)][-1]
        raise find_input_error(error) or InputError(
            f"'{name}': preprocessing fails ({first_line(cause)}); correct it in the config"
        ) from error
    for part in slices:
        if "label" in part:
            label = part["label"]
            if label.dtype != torch.uint8 and (label != label.round()).any():
                raise InputError(
                    f"preprocessing: invents classes in '{item['label']}'; set mode 'nearest' or "
                    "'nearest-exact' for label"
                )
            part["label"] = label.to(torch.uint8)
    return slices


def recorded(parser: ConfigParser | None = None) -> dict[str, Any]:
    """The text of `preprocessing`, and the settings that it takes with '@'.

    Args:
        parser: of the config; None: that of the running one.

    Raises:
        InputError: a transform that no record may name, an expression, or one of the settings
            `NEEDED` that is not taken.
    """
    parser = running_parser() if parser is None else parser
    text = parser.get()["preprocessing"]
    names = {v[1:] for _, v in leaves(text) if isinstance(v, str) and v.startswith("@")}
    require_reading(text, names, "preprocessing")
    kept = sorted(names - set(ELSEWHERE))
    return {"preprocessing": text} | {name: parser.get_parsed_content(name) for name in kept}


def build(reading: Mapping[str, Any], where: str, **settings: Any) -> Compose:
    """The transforms of a record.

    Args:
        reading: what `recorded` gave.
        where: file and field that it stands in, for the message.
        settings: those in `ELSEWHERE`, and any that replace the record's.

    Raises:
        InputError: transforms that are not allowed, or arguments that they do not take.
    """
    text = reading["preprocessing"]
    known = {**reading, **settings}
    try:
        require_reading(text, set(known), where)
        made = _made(_without_disabled(text), known, where)
    except InputError:
        raise
    except Exception as error:  # whatever a transform raises
        raise InputError(
            f"{where}: makes no transforms ({first_line(error)}); correct it"
        ) from error
    if not isinstance(made, Compose):
        raise InputError(f"{where}: no Compose; write it as train.json has it")
    return made


def require_reading(text: Any, names: set[str], where: str) -> None:
    """Refuse transforms that no record may hold, or that other stages cannot work with.

    Args:
        text: of `preprocessing`.
        names: settings that it may take with '@'.
        where: file and field that it stands in, for the message.

    Raises:
        InputError: a target that is not allowed, an expression, a step or setting that is missing.
    """
    for _, part in parts_with_target(text):
        _target(part, where)
    for _, value in leaves(text):
        is_plain = not isinstance(value, str) or value[:1] not in ("$", "%", "@")
        if not is_plain and value[1:] not in names:
            raise InputError(f"{where}: holds '{value}'; write names, numbers and @settings alone")
    values = [value for _, value in leaves(_without_disabled(text))]
    for name in NEEDED:
        if f"@{name}" not in values:
            raise InputError(
                f"{where}: takes no '@{name}', which other stages look at; write it so, and set "
                f'"{name}" at the top of the config'
            )
    for step in STEPS:
        if not any(str(value).endswith(step) for value in values):
            raise InputError(f"{where}: no {step}; write it as train.json has it")


def _without_disabled(value: Any) -> Any:
    """As MONAI has it: parts with a true `_disabled_` are not there."""
    if isinstance(value, list):
        return [
            _without_disabled(part)
            for part in value
            if not (isinstance(part, dict) and part.get("_disabled_"))
        ]
    if isinstance(value, dict):
        return {key: _without_disabled(part) for key, part in value.items()}
    return value


def _made(value: Any, known: Mapping[str, Any], where: str) -> Any:
    """What MONAI's `ConfigParser` makes of it, without evaluating anything."""
    if isinstance(value, str) and value.startswith("@"):
        return known[value[1:]]
    if isinstance(value, list):
        return [_made(part, known, where) for part in value]
    if not isinstance(value, dict):
        return value
    made = {k: _made(v, known, where) for k, v in value.items() if k not in MONAI_KEYS}
    return _target(value, where)(**made) if "_target_" in value else made


def _target(part: Mapping[str, Any], where: str) -> Any:
    """The transform that a part names; MONAI's loader only with our reader.

    Raises:
        InputError: it is none that a record may name.
    """
    target = resolve(part["_target_"], where, (*TRANSFORMS, LOADER))
    if target.__module__ != LOADER:
        return target
    if target.__name__ != "LoadImaged" or part.get("reader") != READER:
        raise InputError(f"{where}: {part['_target_']}; load images by LoadImaged with {READER}")
    return target
