"""Damaged files of every kind that the package reads: is each refused in one line, or read right?

    python benchmarks/fuzz.py [--count 10000] [--seed 0] [--first 0] [--work DIR] \
      [--only KIND ...] [--keep OUTCOME ...] [--output fuzz.json]

Prints a table by kind and outcome; files that crash, hang, end in a traceback or are misread stay
in DIR, in a folder `mutant_NUMBER` each, and the exit code is 1. `--number N` reads one of them in
this process. ALIGNFLOW_DATA adds real files to those of pydicom's wheel and those written here.
Needs the extras `dicom` and `test`.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import command_line, save
from fuzzing.corpus import find_seeds
from fuzzing.judge import FAILURES, examine
from fuzzing.pool import examine_all, make

OUTCOMES = [
    "equal", "as before", "refused", "refused with some", "refused alone", "pixels differ",
    "others differ", "only here", "not compared",
]  # fmt: skip
SAVED_EVERY = 500  # files


def main() -> None:
    """Print the table, and fail where a file failed."""
    parser = command_line(__doc__)
    parser.add_argument("--count", type=int, default=10000, help="damaged files")
    parser.add_argument("--first", type=int, default=0, help="go on with this number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="for the files; a temporary folder without")
    parser.add_argument("--only", nargs="*", help="kinds, such as DICOM NIfTI")
    parser.add_argument("--keep", nargs="*", default=[], help="keep files of these outcomes too")
    parser.add_argument("--limit", type=float, default=20, help="seconds for a file")
    parser.add_argument("--memory", type=int, default=2048, help="MiB for a file")
    parser.add_argument("--number", type=int, help="read this one again, in this process")
    parser.add_argument("--output", type=Path, help="write the result there (JSON)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        result = run(options, options.work or Path(temporary))
    sys.exit(any(result["totals"].get(name) for name in FAILURES))


def run(options: Any, work: Path) -> dict[str, Any]:
    """Damage, read, count."""
    seeds = find_seeds(work / "whole")
    seeds = [seed for seed in seeds if not options.only or seed.kind in options.only]
    if options.number is not None:
        chosen, path, what = make(seeds, work / "again", options.seed, options.number)
        print(chosen, path, what, examine(chosen, path), sep="\n")
        sys.exit()
    start = time.perf_counter()
    keep = [*FAILURES, *options.keep]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    failures, slowest = [], (0.0, -1)
    numbers = range(options.first, len(seeds) + options.count)
    limits = (options.limit, options.memory)
    for number, chosen, verdict in examine_all(
        seeds, numbers, work / "mutants", options.seed, *limits, keep
    ):
        kind = chosen.kind
        if number >= len(seeds):
            counts[kind][verdict.outcome] += 1
        slowest = max(slowest, (verdict.seconds, number))
        failed = verdict.outcome in FAILURES or number < len(seeds) and verdict.outcome != "equal"
        if failed or verdict.outcome in options.keep:
            line = f"{number} {kind} {chosen.path.name}: {verdict.outcome}: {verdict.detail}"
            print(line, flush=True)
        if verdict.outcome in FAILURES:
            failures.append(line)
        if number % SAVED_EVERY == 0 or number == numbers[-1]:
            result = {"next": number + 1, **_summary(counts, failures, slowest, options)}
            result |= {"whole_files": len(seeds), "seconds": round(time.perf_counter() - start)}
            save(result, options.output)
    print(table(result))
    return result


def _summary(
    counts: dict[str, Counter[str]],
    failures: list[str],
    slowest: tuple[float, int],
    options: Any,
) -> dict[str, Any]:
    totals = sum(counts.values(), Counter())
    return {
        "count": options.count,
        "seed": options.seed,
        "slowest_read": {"seconds": slowest[0], "number": slowest[1]},
        "totals": dict(totals),
        "kinds": {kind: dict(count) for kind, count in sorted(counts.items())},
        "failures": failures,
        "versions": {
            name: version(name)
            for name in ("itk-io", "nibabel", "pydicom", "pillow", "simpleitk", "pynrrd")
        },
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for each kind of file, a column for each outcome."""
    shown = [*OUTCOMES, *FAILURES]
    lines = [f"| kind | files | {' | '.join(shown)} |", "|---" * (len(shown) + 2) + "|"]
    for kind, count in [*result["kinds"].items(), ("all", result["totals"])]:
        cells = [str(count.get(name, 0)) for name in shown]
        lines.append(f"| {kind} | {sum(count.values())} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
