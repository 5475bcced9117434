"""The JSON files that other runs wrote, read with checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alignflow.errors import InputError
from alignflow.report.tiles import data_uri

ANSWERS = ("better", "worse", "unclear", "unknown", "no_gap", "nothing_found")
"""Of `run adapt`: whether the segmenter got better at the site, or that nothing was adapted."""


def read_json(path: Path, key: str, needed: tuple[str, ...], fix: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: of the file.
        key: of the config that led to it, named in the errors.
        needed: fields that it must have.
        fix: command that writes it, named in the errors.

    Raises:
        InputError: no such file, no JSON object, or a field is missing.
    """
    if not path.is_file():
        raise InputError(f"{key}: no file '{path}'; {fix}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{key} '{path}': not valid JSON ({error}); {fix} again") from error
    known = content if isinstance(content, dict) else {}
    for field in needed:
        if field not in known:
            raise InputError(f"{key} '{path}': no field '{field}'; {fix} again")
    if not isinstance(content, dict):
        raise InputError(f"{key} '{path}': no JSON object; {fix} again")
    return content


def read_optional(path: Path, key: str) -> dict[str, Any] | None:
    """The same, None where there is no such file."""
    if not path.is_file():
        return None
    return read_json(path, key, (), "write it")


def read_evaluation(folder: str | None) -> dict[str, Any] | None:
    """`evaluation.json` of `run evaluate`; None without a folder."""
    if folder is None:
        return None
    needed = ("sets", "metrics", "fall", "copies", "masks", "faithfulness", "encoder", "unseen")
    return read_json(Path(folder) / "evaluation.json", "evaluation_dir", needed, "run evaluate")


def read_verdict(path: str | None) -> dict[str, Any] | None:
    """`verdict.json` of `run adapt`; None without a path."""
    if path is None:
        return None
    content = read_json(Path(path), "verdict", ("answer", "text"), "run adapt")
    refusal = f"verdict '{path}': says no answer or no text; run adapt again"
    _sentences(content["text"], refusal)
    if content["answer"] not in ANSWERS:
        raise InputError(refusal)
    return content


def read_picture(verdict: str | None) -> str | None:
    """`verdict.png` beside the `verdict.json` of `run adapt`, as a data URI; None without one."""
    path = None if verdict is None else Path(verdict).with_name("verdict.png")
    return data_uri(np.asarray(Image.open(path))) if path is not None and path.is_file() else None


def read_audit(folder: str | None) -> list[str] | None:
    """The sentences of `audit.json`, which name no file; None without a folder."""
    if folder is None:
        return None
    path = Path(folder) / "audit.json"
    words = read_json(path, "audit_dir", ("words",), "run audit")["words"]
    return _sentences(words, f"audit_dir '{path}': 'words' is not a list of text; run audit again")


def _sentences(content: Any, refusal: str) -> list[str]:
    if not isinstance(content, list) or not content or not all(isinstance(s, str) for s in content):
        raise InputError(refusal)
    return content
