"""What alignment does to the images: distances of pairs to unseen images, by `run evaluate`.

    python benchmarks/adaptation/distances.py, with the arguments of run.py

For each pair, number of references and draw, and references with masks or without, pairs of the
source's generator and of the aligned one are compared with the target's test images in the held-out
encoder; the former also with images of the source that the generator has not seen: that much of the
distance is realism, and no matter of sites. What run.py has left in WORK is taken, the rest is
made. Leaves RESULTS/PAIR/distances/ARM-nN-drawD.json and prints a table of all that are there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import Bench, Job
from run import arguments, make_bench
from stages import Settings, say, write_json

from alignflow.errors import print_input_errors_as_one_line

KEPT = ("metrics", "fall", "copies", "masks", "faithfulness")
HEAD = [
    *["run", "KID of source images", "unaligned", "aligned", "floor", "fall"],
    *["unaligned to source", "Dice, unaligned", "aligned"],
    *["spread", "coverage", "nearest reference"],
]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is missing, print all."""
    args = arguments(argv)
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    for pair in args.pairs:
        bench, folder = make_bench(args, pair), args.results / pair / "distances"
        for arm in ("aligned", "aligned_annotated"):
            for n in args.references:
                for draw in args.draws:
                    path = folder / f"{arm}-n{n}-draw{draw}.json"
                    if arm in args.arms and not path.is_file():
                        write_json(path, measured(bench, Job(pair, arm, n, 0, draw)))
                        say(str(path))
        print("\n".join(table(folder)))


def measured(bench: Bench, job: Job) -> dict[str, Any]:
    """What `run evaluate` finds on the pairs of a job's alignment."""
    annotated = job.arm == "aligned_annotated"
    model_dir, _ = bench.alignment(job, annotated)
    overrides = {
        "model_dir": str(model_dir),
        "pairs_dir": str(bench.pairs(model_dir)),
        "unaligned_dir": str(bench.pairs(bench.generator())),
        "reference_dir": str(bench.references(job, annotated)),
        "target_dir": str(bench.test_dir),
        "dataset_dir": str(bench.train_dir),
    }
    found = evaluation(bench, overrides)
    return {
        **vars(job),
        **{key: found[key] for key in KEPT},
        "at_home": at_home(bench),
        "settings": bench.settings,
        "versions": found["provenance"]["versions"],
    }


def at_home(bench: Bench) -> dict[str, Any]:
    """Metrics of unaligned pairs, and of training images, against the source's held-out images."""
    overrides = {
        "model_dir": str(bench.generator()),
        "pairs_dir": str(bench.pairs(bench.generator())),
        "reference_dir": str(bench.images(bench.source.validation)),
        "dataset_dir": str(bench.train_dir),
    }
    metrics = evaluation(bench, overrides)["metrics"]
    return {
        name: {"source": value["source"], "unaligned": value["aligned"]}
        for name, value in metrics.items()
    }


def evaluation(bench: Bench, overrides: Settings) -> dict[str, Any]:
    """What `run evaluate` leaves."""
    folder = bench.stage("evaluate", "evaluate", overrides)
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return found


def table(folder: Path) -> list[str]:
    """A line for each result of a pair."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    for path in sorted(folder.glob("*.json")):
        lines.append("| " + " | ".join(row(json.loads(path.read_text()))) + " |")
    return lines


def row(found: dict[str, Any]) -> list[str]:
    """Its cells: values with their 95% intervals."""
    kid, dice = found["metrics"]["kid"], found["faithfulness"]["dice"]
    return [
        f"{found['arm']}, n = {found['references']}, draw {found['draw']}",
        *(interval(kid[name]) for name in ("source", "unaligned", "aligned")),
        interval(kid["aligned"]["floor"]),
        interval(found["fall"]["kid"]),
        interval(found["at_home"]["kid"]["unaligned"]),
        *(f"{dice[name]['mean']:.3f}" if name in dice else "" for name in ("unaligned", "aligned")),
        interval(found["metrics"]["spread"]["aligned"]),
        interval(found["metrics"]["coverage"]["aligned"]),
        interval(found["copies"]["reference"]["encoder"]["ratio"]),
    ]


def interval(value: dict[str, float | None]) -> str:
    """A value with its interval; nothing where it is undefined."""
    numbers = [value[key] for key in ("value", "low", "high")]
    known = [f"{number:.2f}" for number in numbers if number is not None]
    return f"{known[0]} ({known[1]} to {known[2]})" if len(known) == 3 else " ".join(known)


if __name__ == "__main__":
    print_input_errors_as_one_line()
    main()
