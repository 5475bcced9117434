"""What the results say: a table of the arms, gains with their intervals, and the curve over n.

    python benchmarks/adaptation/table.py --results DIR --output DIR [--tuned_on kvasir_c2]
        [--control rimone_drishti]

Reads every JSON that run.py wrote and writes table.md, summary.json and, where a pair was run with
several numbers of references, references.png.

An arm's figure is the mean over test images, seeds and reference draws. The interval of a gain is
a paired bootstrap (95%, percentile): test images and seeds are resampled, after averaging over
draws; the second interval resamples whole groups (sequences, patients) in place of images.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from alignflow.errors import InputError, print_input_errors_as_one_line
from alignflow.evaluation.paired import resampled_means
from alignflow.files import replacing

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

ORDER = [
    *["source", "source_aug", "fda", "histogram", "unaligned", "mmd_guidance"],
    *["source_bn", "tta_bn", "tta_tent", "tta_bn_test", "tta_tent_test"],
    *["aligned", "aligned_aug", "finetune", "oracle", "ceiling"],
]
OURS = ("aligned", "aligned_aug")
WITH_TARGET_LABELS = ("finetune", "oracle", "ceiling")
HEADROOM = ("ceiling", "source_aug")  # what labelled images of the site would gain as the pairs
COMMON = ("train", "segment")  # sections of the settings that every arm goes by
PAIRS = ("inference", "pairs")
OWN = {
    "unaligned": PAIRS,
    "mmd_guidance": (*PAIRS, "mmd_guidance"),
    **dict.fromkeys(OURS, (*PAIRS, "align")),
    **dict.fromkeys(("tta_bn", "tta_bn_test"), ("source_bn", "tta_bn")),
    "tta_tent_test": ("tta_tent",),
}
"""Further sections that an arm goes by; the section of its own name where nothing stands here."""

Array = NDArray[np.float64]
Key = tuple[str, int | None]
"""A table's rows: name of the site pair, labelled source images (None: all)."""


@dataclass
class Arm:
    """The runs of one arm on one pair: its scores by (seed, draw), each of all test images."""

    dice: dict[tuple[int, int], Array]
    iou: dict[tuple[int, int], Array]

    def mean(self, of: str = "dice") -> float:
        """Mean over images, draws and seeds, in points (0 to 100)."""
        return 100 * float(np.mean(self.by_seed(of)))

    def spread(self) -> float:
        """Standard deviation of the runs' mean Dice, points; 0 for one run."""
        means = [np.nanmean(scores) for scores in self.dice.values()]
        return 100 * float(np.std(means, ddof=1)) if len(means) > 1 else 0.0

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for seed, _ in self.dice})

    def by_seed(self, of: str = "dice", seeds: Sequence[int] | None = None) -> Array:
        """Scores (seeds, images), averaged over the draws; images without foreground left out."""
        scores = getattr(self, of)
        rows = [
            np.mean([values for (s, _), values in scores.items() if s == seed], axis=0)
            for seed in (self.seeds if seeds is None else seeds)
        ]
        table = np.array(rows)
        return table[:, ~np.isnan(table).any(axis=0)]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read, print, write; returns the summary."""
    args = arguments(argv)
    results = read_results(args.results)
    summary = summarise(results, read_groups(args.results))
    summary |= {"tuned_on": args.tuned_on, "control": args.control, "mixed": mixed(results)}
    summary["mean_gain"] = mean_gains(summary["rows"], args.control)
    if args.baseline is not None:
        summary["variants"] = variants(results, args.baseline)
    text = markdown(summary)
    print(text)
    with replacing(args.output / "table.md") as temporary:
        temporary.write_text(text + "\n")
    with replacing(args.output / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    draw_curves(results, args.output / "references.png")
    return summary


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--results", type=Path, required=True, help="folder that run.py wrote to")
    add("--output", type=Path, required=True, help="folder for table, summary and figure")
    add("--tuned_on", nargs="*", default=[], help="pairs on which settings were chosen")
    add("--control", nargs="*", default=[], help="pairs without a gap, left out of the mean gain")
    add("--baseline", help="folder whose source_aug each arm of each variant (ablation.sh) is less")
    return parser.parse_args(argv)


# -- reading ---------------------------------------------------------------------------------------


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results.

    Raises:
        InputError: none there, or results of one pair on different test images.
    """
    paths = sorted(path for path in folder.glob("*/*.json") if path.name != "test_set.json")
    if not paths:
        raise InputError(f"--results '{folder}': no results; run run.py first")
    results = [json.loads(path.read_text()) for path in paths]
    tests: dict[str, str] = {}
    for path, result in zip(paths, results, strict=True):
        if tests.setdefault(result["pair"], result["test_sha256"]) != result["test_sha256"]:
            raise InputError(
                f"'{path}': scored on other test images than the first result of "
                f"'{result['pair']}'; remove those of one run"
            )
    return results


def read_groups(folder: Path) -> dict[str, list[str]]:
    """Pair -> group of each test image, in the order of the scores."""
    paths = sorted(folder.glob("*/test_set.json"))
    return {path.parent.name: json.loads(path.read_text())["groups"] for path in paths}


def arms_of(
    results: Sequence[dict[str, Any]], pair: str, labelled: int | None, n: int
) -> dict[str, Arm]:
    """Arms of one pair with n references, those that use none included, in the table's order."""
    found: dict[str, Arm] = defaultdict(lambda: Arm({}, {}))
    for result in results:
        fits = (result["pair"], result["labelled"]) == (pair, labelled)
        if fits and result["references"] in (n, None):
            run = (result["seed"], result["draw"] or 0)
            for name in ("dice", "iou"):
                scores = np.array(result[name], dtype=float)  # None becomes NaN
                getattr(found[result["arm"]], name)[run] = scores
    return {name: found[name] for name in sorted(found, key=_place)}


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def counts_of(results: Sequence[dict[str, Any]], pair: str, labelled: int | None) -> list[int]:
    """The numbers of references that a pair was run with."""
    return sorted(
        {
            r["references"]
            for r in results
            if (r["pair"], r["labelled"]) == (pair, labelled) and r["references"] is not None
        }
    )


def mixed(results: Sequence[dict[str, Any]]) -> list[str]:
    """What differs between results that stand in one table: code, or settings of an arm."""
    found = []
    if len(versions := {r["versions"]["commit"] for r in results}) > 1:
        found.append(f"{len(versions)} versions of the code")
    for pair in sorted({r["pair"] for r in results}):
        chosen = [r for r in results if r["pair"] == pair]
        if len({sections(r, COMMON) for r in chosen}) > 1:
            found.append(f"several settings of {' or '.join(COMMON)} ({pair})")
        for arm in sorted({r["arm"] for r in chosen}, key=_place):
            if len({sections(r, OWN.get(arm, (arm,))) for r in chosen if r["arm"] == arm}) > 1:
                found.append(f"several settings of {arm} ({pair})")
    return found


def sections(result: dict[str, Any], names: Sequence[str]) -> str:
    """Those sections of a result's settings, as text to compare."""
    return json.dumps([result["settings"].get(name) for name in names], sort_keys=True)


# -- figures ---------------------------------------------------------------------------------------


def summarise(results: Sequence[dict[str, Any]], groups: dict[str, list[str]]) -> dict[str, Any]:
    """{"rows": one for each pair, number of labelled images and of references}."""
    rows = []
    keys = sorted({(r["pair"], r["labelled"]) for r in results}, key=str)
    for pair, labelled in keys:
        for n in counts_of(results, pair, labelled) or [0]:
            arms = arms_of(results, pair, labelled, n)
            row: dict[str, Any] = {"pair": pair, "labelled": labelled, "references": n}
            row["test_images"] = int(next(iter(arms.values())).by_seed().shape[1])
            row["arms"] = {
                name: {
                    "dice": arm.mean(),
                    "iou": arm.mean("iou"),
                    "spread": arm.spread(),
                    "runs": len(arm.dice),
                }
                for name, arm in arms.items()
            }
            row["gains"] = gains(arms, groups.get(pair))
            rows.append(row)
    return {"rows": rows}


def gains(arms: dict[str, Arm], groups: Sequence[str] | None) -> dict[str, Any]:
    """Dice of each of our arms less that of what it must beat, and what there is to gain."""
    best = best_baseline(arms)
    others = dict.fromkeys(["source", "source_aug", "unaligned", best])
    compared = [(ours, other) for ours in OURS for other in others] + [HEADROOM]
    found = {}
    for one, other in compared:
        if one in arms and other in arms:
            gain = difference(arms[one], arms[other], groups)
            found[f"{one} - {other}"] = gain | {"is_best_baseline": one in OURS and other == best}
    return found


def best_baseline(arms: dict[str, Arm]) -> str | None:
    """The arm without target labels, other than ours, that has the largest Dice on the test set.

    Chosen on the very images that it is compared on, which favours it.
    """
    baselines = {n: a.mean() for n, a in arms.items() if n not in (*OURS, *WITH_TARGET_LABELS)}
    return max(baselines, key=lambda name: baselines[name]) if baselines else None


def difference(ours: Arm, other: Arm, groups: Sequence[str] | None = None) -> dict[str, Any]:
    """Mean gain in Dice points over their common seeds, with bootstrap intervals.

    Raises:
        InputError: no seed in common.
    """
    seeds = sorted(set(ours.seeds) & set(other.seeds))
    if not seeds:
        raise InputError("results: two arms without a common seed; run the same seeds for all")
    both = [arm.by_seed("dice", seeds) for arm in (ours, other)]
    gain = 100 * (both[0] - both[1])
    low, high = bootstrap(gain, np.arange(gain.shape[1]))
    result = {"value": float(gain.mean()), "low": low, "high": high, "seeds": len(seeds)}
    counted = _groups_of_counted(ours, groups)
    if counted is not None and len(set(counted)) < len(counted):
        result["group_low"], result["group_high"] = bootstrap(gain, counted)
    return result


def _groups_of_counted(arm: Arm, groups: Sequence[str] | None) -> NDArray[Any] | None:
    """Groups of the images with foreground."""
    if groups is None:
        return None
    table = np.array(list(arm.dice.values()))
    return np.unique(np.array(groups)[~np.isnan(table).any(axis=0)], return_inverse=True)[1]


def bootstrap(gain: Array, groups: NDArray[Any]) -> tuple[float, float]:
    """95% percentile interval of the mean of `gain` (seeds, images), see `resampled_means`.

    With as many groups as images this is the bootstrap over images.
    """
    low, high = np.percentile(resampled_means(gain, groups), [2.5, 97.5])
    return float(low), float(high)


def variants(results: Sequence[dict[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """Dice of every arm of every variant of one pair less source_aug of the baseline.

    Raises:
        InputError: the baseline has no source_aug.
    """
    base = next((arms_of(results, baseline, r["labelled"], 0) for r in results), {})
    if "source_aug" not in base:
        raise InputError(f"--baseline {baseline}: no results of source_aug there; run it")
    found = []
    for pair, labelled in sorted({(r["pair"], r["labelled"]) for r in results}, key=str):
        for n in counts_of(results, pair, labelled) or [0]:
            for name, arm in arms_of(results, pair, labelled, n).items():
                if name != "source_aug":
                    gain = difference(arm, base["source_aug"])
                    found.append({"variant": pair, "arm": name, "dice": arm.mean()} | gain)
    return found


def mean_gains(rows: Sequence[dict[str, Any]], control: Sequence[str]) -> dict[str, Any]:
    """Mean over the pairs of each gain, all source images labelled and the pairs' common n."""
    counted = [r for r in rows if r["labelled"] is None and r["pair"] not in control]
    if not counted:
        return {}
    common = set.intersection(
        *(
            {r["references"] for r in counted if r["pair"] == p}
            for p in {r["pair"] for r in counted}
        )
    )
    found = {}
    for n in sorted(common):
        chosen = [r for r in counted if r["references"] == n]
        for name in sorted({k for r in chosen for k in r["gains"]}):
            gains_ = [r["gains"][name] for r in chosen if name in r["gains"]]
            if len(gains_) == len(chosen):
                found[f"{name}, n = {n}"] = {
                    "value": float(np.mean([g["value"] for g in gains_])),
                    "pairs": len(gains_),
                    "above_0": sum(g["low"] > 0 for g in gains_),
                }
    return found


# -- output ----------------------------------------------------------------------------------------


def markdown(summary: dict[str, Any]) -> str:
    """Both tables and the notes."""
    lines = ["Dice / IoU of unseen target images (points), runs in brackets", ""]
    lines += arm_table(summary["rows"])
    lines += ["", "Gains in Dice points, 95% interval over images and seeds [over groups]", ""]
    lines += gain_table(summary["rows"])
    for name, gain in summary["mean_gain"].items():
        lines.append(
            f"\nMean gain over {gain['pairs']} pairs, {name}: {gain['value']:+.1f}; "
            f"interval above 0 on {gain['above_0']}"
        )
    lines += ["", *variant_table(summary.get("variants", [])), *notes(summary)]
    return "\n".join(lines)


def variant_table(found: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each arm of each variant; none without variants."""
    if not found:
        return []
    lines = ["| variant | arm | Dice | less source_aug | interval |", "|---|---|---|---|---|"]
    for row in found:
        interval = f"{row['low']:+.1f} to {row['high']:+.1f}"
        lines.append(
            f"| {row['variant']} | {row['arm']} | {row['dice']:.1f} | {row['value']:+.1f} "
            f"| {interval} |"
        )
    return [*lines, ""]


def arm_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A column for each row of the summary, a line for each arm."""
    names = sorted({name for row in rows for name in row["arms"]}, key=_place)
    heads = [title(row) for row in rows]
    lines = ["| arm | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for name in names:
        cells = [_cell(row["arms"].get(name)) for row in rows]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _cell(arm: dict[str, float] | None) -> str:
    return "" if arm is None else f"{arm['dice']:.1f} / {arm['iou']:.1f} ({arm['runs']})"


def gain_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each gain; that over the best baseline is marked."""
    lines = ["| pair | gain | points | interval |", "|---|---|---|---|"]
    for row in rows:
        for name, gain in row["gains"].items():
            mark = " (best baseline)" if gain["is_best_baseline"] else ""
            interval = f"{gain['low']:+.1f} to {gain['high']:+.1f}"
            if "group_low" in gain:
                interval += f" [{gain['group_low']:+.1f} to {gain['group_high']:+.1f}]"
            lines.append(f"| {title(row)} | {name}{mark} | {gain['value']:+.1f} | {interval} |")
    return lines


def title(row: dict[str, Any]) -> str:
    """Of a row of the summary."""
    labelled = "" if row["labelled"] is None else f", {row['labelled']} labelled"
    return f"{row['pair']}, n = {row['references']}{labelled}"


def notes(summary: dict[str, Any]) -> list[str]:
    """What a reader must know of the table."""
    tuned = ", ".join(summary["tuned_on"]) or "not stated"
    lines = [f"Settings were chosen on: {tuned}; the other pairs were run unchanged."]
    if summary["control"]:
        lines.append(f"Control without a gap: {', '.join(summary['control'])}.")
    lines.append(
        "The best baseline is the best on the test images themselves; "
        f"it has no target labels (not one of {', '.join(WITH_TARGET_LABELS)})."
    )
    if summary["mixed"]:
        lines.append(f"Results of {', '.join(summary['mixed'])} stand in this table.")
    return lines


def draw_curves(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Dice over the number of references, a panel for each pair that has several numbers."""
    keys = sorted({(r["pair"], r["labelled"]) for r in results}, key=str)
    keys = [key for key in keys if len(counts_of(results, *key)) > 1]
    if not keys:
        return
    figure, axes = plt.subplots(1, len(keys), figsize=(5 * len(keys), 3.6), squeeze=False)
    for axis, key in zip(axes[0], keys, strict=True):
        draw_curve(axis, results, key)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)


def draw_curve(axis: Any, results: Sequence[dict[str, Any]], key: Key) -> None:
    """Arms with references as curves (bars: spread of the runs), the others as level lines."""
    counts = counts_of(results, *key)
    by_count = {n: arms_of(results, *key, n) for n in counts}
    with_references = {r["arm"] for r in results if r["references"] is not None}
    for name in sorted({name for arms in by_count.values() for name in arms}, key=_place):
        points = [(n, arms[name]) for n, arms in by_count.items() if name in arms]
        if name not in with_references:
            axis.axhline(points[0][1].mean(), ls="--", lw=1, color="0.6")
            axis.annotate(name, (counts[-1], points[0][1].mean()), fontsize=7, ha="right")
        elif len(points) > 1:
            x, arms = zip(*points, strict=True)
            spreads = [arm.spread() for arm in arms]
            axis.errorbar(x, [a.mean() for a in arms], spreads, marker="o", capsize=2, label=name)
    axis.set_xscale("log")
    axis.set_xticks(counts, [str(n) for n in counts])
    axis.minorticks_off()
    axis.set(xlabel="references", ylabel="Dice, points", title=key[0])
    axis.legend(fontsize=7)


if __name__ == "__main__":
    print_input_errors_as_one_line()
    main()
