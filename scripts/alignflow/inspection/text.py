"""What a check found, in words."""

from __future__ import annotations

from typing import Any


def lines(result: dict[str, Any]) -> list[str]:
    """Of `Check.result` with its "problems" and "warnings"."""
    found = []
    for name in ("source", "references", "test"):
        if result.get(name):
            found += _set_lines(name, result[name])
    if "duplicates" in result:
        counts = result["duplicates"]
        found.append(
            f"copies in the source: {counts['exact']} exact, {counts['near']} nearly "
            f"({counts['near_in_other_groups']} of them in other groups); across training and "
            f"validation: {counts['leaks']}"
        )
    if "separation" in result:
        found += _separation_lines(result["separation"])
    if "disk" in result:
        needed, free = (size(result["disk"][key]) for key in ("bytes", "free"))
        found.append(f"`alignflow adapt` needs about {needed} of disk; {free} are free")
    found += [f"warning: {text}" for text in result["warnings"]]
    found += [f"problem: {text}" for text in result["problems"]]
    problems, warnings = len(result["problems"]), len(result["warnings"])
    found.append(
        f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}: "
        + ("training cannot start" if problems else "training can start")
    )
    return found


def size(count: float) -> str:
    """Bytes as MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def _set_lines(name: str, found: dict[str, Any]) -> list[str]:
    head = f"{name}: {_counted(found['images'], 'image')} ({_listed(found['formats'])})"
    if "groups" in found:
        head += (
            f" of {_counted(found['groups'], 'group')}, {found['training']} for training and "
            f"{found['validation']} for validation"
        )
    result = [head]
    result.append(f"  modality {_listed(found['modalities'])}; size {_spread(found['sizes'])}")
    if found["spacing_mm"]:
        result.append(f"  spacing in mm {_spread(found['spacing_mm'])}")
    for number, channel in enumerate(found["intensity"]):
        result.append(
            f"  channel {number}: values {channel['lowest']:g} to {channel['highest']:g}, "
            f"median of the means {channel['median_mean']:.4g}"
        )
    masks = found["masks"]
    if masks:
        result.append(f"  {_counted(masks['masks'], 'mask')}, {masks['empty']} of them empty")
        for value, one in masks["classes"].items():
            area = one["area"]
            name = f" ({one['name']})" if one["name"] else ""
            result.append(
                f"  class {value}{name}: in {_counted(one['images'], 'image')}, "
                f"{100 * area['median']:.2g}% of the area (5% to 95%: "
                f"{100 * area['low']:.2g}% to {100 * area['high']:.2g}%)"
            )
    return result


def _separation_lines(found: dict[str, Any]) -> list[str]:
    result = [
        f"distance of {_counted(found['images'], 'reference')} to the source (energy distance; "
        "for as many source images by chance):"
    ]
    for name, one in found["spaces"].items():
        interval = "" if one["low"] is None else f" (95%: {one['low']:.3g} to {one['high']:.3g})"
        result.append(
            f"  {name}: {one['value']:.3g}{interval}; by chance {one['floor']:.3g}, "
            f"95% of draws below {one['floor_high']:.3g}"
        )
    result.append("  apart: align" if found["apart"] else "  at the floor: nothing to align")
    return result


def _spread(found: dict[str, Any] | None) -> str:
    if found is None:
        return "unknown"
    common = " x ".join(f"{v:g}" for v in found["common"])
    if found["share"] == 1:
        return common
    low, high = (" x ".join(f"{v:g}" for v in found[k]) for k in ("smallest", "largest"))
    return f"mostly {common} ({100 * found['share']:.0f}%), from {low} to {high}"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items()) or "none"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
