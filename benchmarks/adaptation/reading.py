"""Images of the segmenters, read once in a process: reading took a third of a short training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alignflow.segmentation import data

KINDS = ("labelled", "pairs", "site", "test")
IMPORTS = [f"$from {__name__} import read_{kind}" for kind in KINDS]
"""Behind the imports of segment.json: its functions by those here, of the same names."""

_known: dict[str, Any] = {}


def _once(read: Callable[..., Any]) -> Callable[..., Any]:
    def reading(*arguments: Any) -> Any:
        # folders of the cache bear the hash of their content, so a name stands for what is in it
        key = f"{read.__name__}{arguments!r}"
        if key not in _known:
            _known[key] = read(*arguments)
        return _known[key]

    return reading


read_labelled = _once(data.read_labelled)
read_pairs = _once(data.read_pairs)
read_site = _once(data.read_site)
read_test = _once(data.read_test)
