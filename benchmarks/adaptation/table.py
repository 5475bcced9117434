"""What the results say: each arm's Dice and its gain, the curve over references, labels saved.

    python benchmarks/adaptation/table.py --results DIR --output DIR

Reads every JSON that run.py wrote and writes table.md, summary.json, gain.png and, where a pair was
run with several numbers of references, references.png.

An arm's figure is the mean over test images, seeds and reference draws. Intervals (95%) resample
runs and patients (sequences, or images where nothing groups them); those of a gain are paired: the
same runs and images of both arms.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from arms import ABLATION, ARMS
from numpy.typing import NDArray

from alignflow.errors import InputError, print_input_errors_as_one_line
from alignflow.evaluation.paired import paired_gain
from alignflow.files import replacing

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

TITLES = {
    "strong_aug": "source, strong augmentation",
    "histogram": "histogram matching",
    "fda": "Fourier style (FDA)",
    "gin": "random convolutions (GIN)",
    "pseudo_labels": "pseudo-labels, two rounds",
    "to_source": "site's images carried to the source",
    "unaligned": "pairs, not aligned",
    "aligned": "**ours, no label of the site**",
    "annotated_in_batch": "annotated references in the batch",
    "annotated_finetuned": "fine-tuned on annotated references",
    "aligned_annotated": "**ours, annotated references**",
    "ceiling": "all annotated images of the pool",
}
PAIRS = {
    "wbc": "blood cells",
    "heart": "heart, cine to LGE",
    "dsb18": "nuclei, fluorescence to H&E",
    "polypgen_c2": "polyps, Kvasir to C2",
    "clinic_kvasir": "polyps, ClinicDB to Kvasir",
    "rim_drishti": "discs (control)",
    "he_he": "nuclei, H&E (control)",
}
CHANGES = {
    "one_round": "one round",
    "true_masks": "true masks of the references in alignment",
    "pseudo_in_batch": "references with predicted masks in the batch",
    "no_style": "source images not styled",
    "no_confidence": "unsure pixels count fully",
    "with_distance": "with the distance",
    "distance_alone": "the distance alone",
}
BASE, CEILING = "strong_aug", "ceiling"
OURS = ("aligned", "aligned_annotated")
BOUNDS = {  # lines without references in the curves
    "strong_aug": {"ls": ":", "color": "0.5"},
    "ceiling": {"ls": "--", "color": "0.5"},
}
ANNOTATED = {"annotated_in_batch", "annotated_finetuned"}
Array = NDArray[np.float64]
Scores = dict[tuple[int, int | None], Array]
"""Dice in points of each test image, by (seed, draw); draw is None where no reference enters."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read, print, write; returns the summary."""
    args = arguments(argv)
    results = read_results(args.results)
    groups = {
        path.parent.name: json.loads(path.read_text())["groups"]
        for path in args.results.glob("*/test_set.json")
    }
    places = {pair: place for place, pair in enumerate(PAIRS)}
    pairs = sorted(groups, key=lambda pair: (places.get(pair, len(places)), pair))
    summary = {pair: summarise(results, pair, groups[pair], args.references) for pair in pairs}
    for pair, arms in summary.items():
        if {BASE, CEILING} < arms.keys() and arms.keys() & ANNOTATED:
            saved = labels_needed(results, pair, groups[pair], args.references)
            for arm, needed in saved.items():
                arms[arm]["labels_needed"] = needed
    text = "\n".join(markdown(summary, args.references))
    print(text)
    with replacing(args.output / "table.md") as temporary:
        temporary.write_text(text + "\n")
    with replacing(args.output / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    draw_gains(summary, args.output / "gain.png")
    draw_curves(results, args.output / "references.png")
    return summary


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--results", type=Path, required=True, help="folder that run.py wrote to")
    add("--output", type=Path, required=True, help="folder for tables and figures")
    add("--references", type=int, default=10, help="number of references of the table")
    return parser.parse_args(argv)


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results.

    Raises:
        InputError: none there, or results of one pair on other test images or settings.
    """
    paths = sorted(path for path in folder.glob("*/*.json") if path.name != "test_set.json")
    if not paths:
        raise InputError(f"--results '{folder}': no results; run run.py first")
    results = [json.loads(path.read_text()) for path in paths]
    first: dict[str, dict[str, Any]] = {}
    for path, result in zip(paths, results, strict=True):
        known = first.setdefault(result["pair"], result)
        for key, what in (("test_sha256", "test images"), ("settings_sha256", "settings")):
            if known[key] != result[key]:
                raise InputError(
                    f"'{path}': other {what} than the first result of '{result['pair']}'; "
                    "remove those of one run"
                )
    return results


def scores_of(results: Sequence[dict[str, Any]], pair: str, n: int) -> dict[str, Scores]:
    """Arms of a pair with n references, and those that use none, in the order of the table."""
    return {
        arm: {
            (r["seed"], r["draw"]): 100 * np.array(r["dice"], dtype=float)  # None becomes NaN
            for r in runs
        }
        for arm in (*ARMS, *ABLATION)
        if (runs := runs_of(results, pair, arm, n))
    }


def runs_of(results: Sequence[dict[str, Any]], pair: str, arm: str, n: int) -> list[dict[str, Any]]:
    """Results of an arm of a pair with n references, or with none."""
    return [
        r for r in results if (r["pair"], r["arm"]) == (pair, arm) and r["references"] in (n, None)
    ]


def summarise(
    results: Sequence[dict[str, Any]], pair: str, groups: Sequence[str], n: int
) -> dict[str, dict[str, Any]]:
    """{arm: {"dice", "low", "high", "hd95", "runs", "less": {other: difference}}}."""
    arms, found = scores_of(results, pair, n), {}
    for arm, runs in arms.items():
        table = np.stack(list(runs.values()))
        dice = paired_gain(table, np.zeros_like(table), groups)
        distances = [r["hd95_mean"] for r in runs_of(results, pair, arm, n)]
        found[arm] = {
            "dice": dice["value"],
            "low": dice["low"],
            "high": dice["high"],
            "hd95": float(np.mean(distances)),
            "runs": len(runs),
            "less": {
                other: gain(runs, arms[other], groups)
                for other in arms
                if other != arm and compared(arm, other)
            },
        }
    return found


def compared(arm: str, other: str) -> bool:
    """Whether the difference of two arms is reported."""
    if arm in ABLATION:
        return other == OURS[0]
    return other not in ABLATION and (other == BASE or arm in OURS)


def gain(ours: Scores, other: Scores, groups: Sequence[str]) -> dict[str, float] | None:
    """Mean Dice less that of the other arm over the runs of both, with its interval.

    A run without references is compared with each draw of its seed.
    """
    common = [
        (a, b)
        for a in ours
        for b in other
        if a[0] == b[0] and (a[1] == b[1] or None in (a[1], b[1]))
    ]
    if not common:
        return None
    tables = [np.stack([ours[a] for a, _ in common]), np.stack([other[b] for _, b in common])]
    found = paired_gain(*tables, groups)
    return {key: found[key] for key in ("value", "low", "high")} | {"runs": len(common)}


def labels_needed(
    results: Sequence[dict[str, Any]], pair: str, groups: Sequence[str], n: int
) -> dict[str, dict[str, float | None]]:
    """Annotated references that the best arm without us needs for the Dice of ours with n.

    Its curve is piecewise linear through 0 annotated (strong augmentation), every number that was
    run (the better of in the batch and fine-tuned) and the whole pool; it counts as rising. The
    interval resamples groups. None: more than the pool has.
    """
    curve = annotated_curve(results, pair)
    ours = {arm: runs for arm, runs in scores_of(results, pair, n).items() if arm in OURS}
    numbers = np.unique(np.array(groups), return_inverse=True)[1]
    size, rng = numbers.max() + 1, np.random.default_rng(0)
    draws = [np.ones(size, int)]
    draws += [np.bincount(rng.integers(size, size=size), minlength=size) for _ in range(1000)]
    found = {}
    for arm, runs in ours.items():
        needed = [needed_for(runs, curve, draw[numbers]) for draw in draws]
        low, high = np.percentile(needed[1:], [2.5, 97.5], method="nearest")
        ends = {"value": needed[0], "low": low, "high": high}
        found[arm] = {key: float(v) if np.isfinite(v) else None for key, v in ends.items()}
    return found


def annotated_curve(results: Sequence[dict[str, Any]], pair: str) -> dict[int, list[Scores]]:
    """Annotated images -> runs of each arm that learns from so many, without us."""
    counts = {r["references"] for r in results if r["pair"] == pair} - {None}
    curve: dict[int, list[Scores]] = {}
    for n in sorted(counts):
        arms = scores_of(results, pair, n)
        curve[0] = [arms[BASE]]
        if known := [arms[arm] for arm in sorted(ANNOTATED & arms.keys())]:
            curve[n] = known
    pool = next(r["pool"] for r in results if r["pair"] == pair)
    return curve | {pool: [scores_of(results, pair, 0)[CEILING]]}


def needed_for(ours: Scores, curve: dict[int, list[Scores]], weights: NDArray[Any]) -> float:
    """Where the curve reaches ours, images counted with these weights; infinity if it does not."""
    aim = mean(ours, weights)
    before, reached = 0, -np.inf
    for n, arms in curve.items():
        dice = max(mean(runs, weights) for runs in arms)
        if dice >= aim:
            share = (aim - reached) / (dice - reached) if np.isfinite(reached) else 1.0
            return before + share * (n - before)
        before, reached = n, max(dice, reached)
    return float("inf")


# -- output ----------------------------------------------------------------------------------------


def markdown(summary: dict[str, dict[str, Any]], n: int) -> list[str]:
    """The table of Dice, then ours less every other arm."""
    pairs = list(summary)
    lines = [f"Dice on unseen images of the site, {n} references (95% interval; runs)", ""]
    head = [row(["", *(PAIRS.get(pair, pair) for pair in pairs)]), "|---" * (len(pairs) + 1) + "|"]
    lines += head
    for arm, title in TITLES.items():
        if any(arm in summary[pair] for pair in pairs):
            lines.append(row([title, *(cell(summary[pair].get(arm)) for pair in pairs)]))
    for ours in OURS:
        lines += ["", f"{TITLES[ours].strip('*')}: Dice less that of", ""]
        lines += head
        for arm, title in TITLES.items():
            cells = [summary[p].get(ours, {"less": {}})["less"].get(arm) for p in pairs]
            if any(cells):
                lines.append(row([title, *map(signed, cells)]))
        cells = [summary[pair].get(ours, {}).get("labels_needed") for pair in pairs]
        if any(cells):
            lines.append(row(["annotated images that the best other needs", *map(count, cells)]))
    if any(arm in summary[pair] for arm in CHANGES for pair in pairs):
        lines += ["", "ours, no label of the site, with one change: Dice less that without it", ""]
        lines += head
        for arm, title in CHANGES.items():
            cells = [summary[p].get(arm, {"less": {}})["less"].get(OURS[0]) for p in pairs]
            lines.append(row([title, *map(signed, cells)]))
    return lines


def row(cells: Sequence[str]) -> str:
    """Of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def cell(arm: dict[str, Any] | None) -> str:
    """Dice with its interval and runs."""
    if arm is None:
        return ""
    return f"{arm['dice']:.1f} ({arm['low']:.1f} to {arm['high']:.1f}; {arm['runs']})"


def signed(found: dict[str, float] | None) -> str:
    """A difference with its interval."""
    if found is None:
        return ""
    return f"{found['value']:+.1f} ({found['low']:+.1f} to {found['high']:+.1f})"


def count(found: dict[str, float | None] | None) -> str:
    """A number of images with its interval."""
    if found is None:
        return ""
    value, low, high = ("more than all" if n is None else f"{n:.0f}" for n in found.values())
    return f"{value} ({low} to {high})"


def draw_gains(summary: dict[str, dict[str, Any]], path: Path) -> None:
    """Bars with intervals: each arm of each pair."""
    figure, axes = plt.subplots(
        1, len(summary), figsize=(1.6 + 2.3 * len(summary), 4), sharey=True, squeeze=False
    )
    arms = [arm for arm in TITLES if any(arm in found for found in summary.values())]
    for axis, (pair, found) in zip(axes[0], summary.items(), strict=True):
        for place, arm in enumerate(arms):
            if arm in found:
                dice, low, high = (found[arm][key] for key in ("dice", "low", "high"))
                error = [[dice - low], [high - dice]]
                axis.barh(place, dice, xerr=error, color=colour(arm), capsize=2)
        axis.set(title=PAIRS.get(pair, pair).replace(", ", ",\n"), xlabel="Dice, points")
        bounds = [found[arm][key] for arm in found for key in ("low", "high")]
        axis.set_xlim(max(0, min(bounds) - 5), min(100, max(bounds) + 3))
    axes[0, 0].set_yticks(range(len(arms)), [TITLES[arm].strip("*") for arm in arms])
    axes[0, 0].invert_yaxis()
    save(figure, path)


def colour(arm: str) -> str:
    """Ours, with masks of the site, and the rest."""
    if arm in OURS:
        return "tab:blue"
    return "tab:gray" if ARMS[arm].labels else "lightgray"


def draw_curves(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Dice over the number of references, a panel for each pair that has several numbers."""
    panels = {}
    for pair in dict.fromkeys(r["pair"] for r in results):
        counts = {r["references"] for r in results if r["pair"] == pair} - {None}
        if len(counts) > 1:
            panels[pair] = sorted(counts)
    if not panels:
        return
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False)
    for axis, (pair, counts) in zip(axes[0], panels.items(), strict=True):
        by_count = {n: scores_of(results, pair, n) for n in counts}
        for arm, title in TITLES.items():
            known = {n: mean(arms[arm]) for n, arms in by_count.items() if arm in arms}
            if arm in BOUNDS and known:
                axis.axhline(next(iter(known.values())), label=title, **BOUNDS[arm])
            elif ARMS[arm].references and len(known) > 1:
                axis.plot(list(known), list(known.values()), marker="o", label=title.strip("*"))
        axis.set_xscale("log")
        axis.set_xticks(counts, [str(n) for n in counts])
        axis.minorticks_off()
        axis.set(xlabel="references", ylabel="Dice, points", title=PAIRS.get(pair, pair))
        axis.legend(fontsize=7)
    save(figure, path)


def mean(runs: Scores, weights: NDArray[Any] | None = None) -> float:
    """Over images, counted with these weights, and runs."""
    table = np.mean(list(runs.values()), axis=0)
    counted = np.isfinite(table)
    return float(np.average(table[counted], weights=None if weights is None else weights[counted]))


def save(figure: Any, path: Path) -> None:
    """Write and close."""
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)


if __name__ == "__main__":
    print_input_errors_as_one_line()
    main()
