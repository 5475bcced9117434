"""A JSON object of another run as lines of a table, without names of files or persons."""

from __future__ import annotations

import re
from typing import Any

from alignflow.report.text import interval, number

MOST_ENTRIES = 24  # more of one kind are a list of cases, and a case may bear a name
MOST_LINES = 80
PLAIN_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_ %+()-]{0,40}")
LEFT_OUT = {"config", "provenance", "versions", "words"}
SAID = {
    "answer",
    "calibrated on",
    "attack",
    "description",
    "kind",
    "meaning",
    "method",
    "note",
    "space",
    "verdict",
}
"""Fields whose text is the writer's own, and not a name found in the data."""


def lines(content: Any, title: str = "") -> list[tuple[str, str]]:
    """(what, value) of the numbers, truths and remarks in a JSON object.

    Other text is left out, since it may be the name of a file, and so is what looks like a list of
    cases; provenance too.
    """
    found = list(_lines(content, title))
    if len(found) > MOST_LINES:
        found = [*found[:MOST_LINES], ("and more", f"{len(found) - MOST_LINES} lines in the file")]
    return found


def sentences(content: dict[str, Any]) -> list[str]:
    """The outcome in the words of the run that wrote it, where it has such ("words")."""
    words = content.get("words")
    return [one for one in words if isinstance(one, str)] if isinstance(words, list) else []


def _lines(content: Any, title: str) -> list[tuple[str, str]]:
    if isinstance(content, bool):
        return [(title, "yes" if content else "no")]
    if isinstance(content, (int, float)) or content is None:
        return [(title, number(content))]
    if isinstance(content, list):
        return [(title, f"{len(content)} entries, in the file")]
    if not isinstance(content, dict):
        return [(title, content)] if title.split(": ")[-1] in SAID else []
    if "value" in content and {"low", "high"} & content.keys():
        ends = interval(content)
        of_it = [(title, number(content["value"]) + (f" ({ends})" if ends else ""))]
        rest = {k: v for k, v in content.items() if k not in ("value", "low", "high")}
        return of_it + _lines(rest, title)
    if len(content) > MOST_ENTRIES:
        return [(title, f"{len(content)} entries, in the file")]
    found = []
    for key, value in content.items():
        if key in LEFT_OUT or not PLAIN_WORD.fullmatch(key):
            continue
        found += _lines(value, f"{title}: {_spoken(key)}" if title else _spoken(key))
    return found


def _spoken(key: str) -> str:
    return key.replace("_", " ")
