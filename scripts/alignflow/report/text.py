"""Numbers as text."""

from __future__ import annotations

from typing import Any

MINUS = "\u2212"
UNDEFINED = "not defined"


def number(value: float | None) -> str:
    """Three significant digits; whole numbers and thousands in full."""
    if value is None:
        return UNDEFINED
    if isinstance(value, int) or 1000 <= abs(value) < 1e15:
        text = f"{round(value):,}".replace(",", "\u202f")
    else:
        text = f"{value:#.3g}".rstrip(".")
    return text.replace("-", MINUS)


def interval(record: dict[str, Any] | None) -> str:
    """ "low to high" of a record; "" where undefined."""
    if not record or record.get("low") is None or record.get("high") is None:
        return ""
    return f"{number(record['low'])} to {number(record['high'])}"


def points(value: float | None) -> str:
    """Points of 100, one decimal."""
    return UNDEFINED if value is None else f"{value:.1f}".replace("-", MINUS)


def signed_points(value: float) -> str:
    """The same with its sign."""
    return f"{value:+.1f}".replace("-", MINUS)


def percent(value: float | None) -> str:
    """A share as a whole percentage."""
    return UNDEFINED if value is None else f"{100 * value:.0f}%".replace("-", MINUS)
