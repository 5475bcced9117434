"""What a few images of a new site are worth: segmenters of every arm on its unseen images.

    ALIGNFLOW_DATA=DIR python benchmarks/adaptation/run.py --work DIR --results DIR
        [--pairs wbc heart ...] [--arms aligned ...] [--references 10] [--seeds 0 1 2] [--draws 0 1]

Pairs of sites stand in pairs.json. The target is split by group: about a third is the pool that
references are drawn from, the rest tests every arm. Generators, alignments, pairs and segmenters
stay in WORK and are made once; each run of an arm leaves one JSON in RESULTS/PAIR, and is skipped
where that exists. Several such commands may share WORK and RESULTS; a command that was stopped is
started again. table.py makes the table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arms import ABLATION, ARMS
from bench import Bench, Job
from locks import Busy, locked
from splits import Site
from stages import Cache, Settings, StageFailed, read_settings, say, write_json

from alignflow.errors import InputError, print_input_errors_as_one_line
from alignflow.inference.writing import versions

HERE = Path(__file__).resolve().parent
KNOWN = ARMS | ABLATION
METRICS = ("dice", "hd95")
WAIT = 10.0  # seconds, before asking again for what other processes hold


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing; 1 where a run failed, else 0."""
    args = arguments(argv)
    jobs = list_jobs(args)
    if args.dry_run:
        for job in jobs:
            state = "done" if result_path(args, job).is_file() else "to do"
            print(f"{state:6} {job.pair}/{job.name}")
        return 0
    # it says that the logging file is set to False, which it is
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    failed = work_through(args, jobs)
    for job, reason in failed.items():
        print(f"failed: {job.pair}/{job.name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pairs_file", type=Path, default=HERE / "pairs.json", help="pairs of sites")
    add("--pairs", nargs="+", help="their names (default: all)")
    add("--references", type=int, nargs="+", default=[10], help="their numbers (default 10)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the segmenters")
    add("--draws", type=int, nargs="+", default=[0, 1], help="of references")
    add("--arms", nargs="+", choices=list(KNOWN), default=list(ARMS), help="default: all")
    add("--settings", type=Path, help="overrides of the workflows, over settings.json")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="SECTION.KEY=JSON",
        help="over both",
    )
    add("--quick", action="store_true", help="settings of a few steps, to try the benchmark itself")
    add("--work", type=Path, required=True, help="folder for generators, pairs, segmenters")
    add("--results", type=Path, required=True, help="folder for the results")
    add("--dry_run", action="store_true", help="list the runs and stop")
    args = parser.parse_args(argv)
    known = read_settings(args.pairs_file)
    args.pairs = args.pairs or list(known)
    if unknown := set(args.pairs) - set(known):
        parser.error(f"--pairs {min(unknown)}: '{args.pairs_file}' has {', '.join(known)}")
    args.sites = known
    args.work, args.results = args.work.resolve(), args.results.resolve()
    return args


def list_jobs(args: argparse.Namespace) -> list[Job]:
    """All runs asked for; one for an arm and seed that no reference enters."""
    jobs: dict[Job, None] = {}
    for pair in args.pairs:
        for seed in args.seeds:
            for draw in args.draws:
                for name in args.arms:
                    if KNOWN[name].references:
                        for n in args.references:
                            jobs[Job(pair, name, n, seed, draw)] = None
                    else:
                        jobs[Job(pair, name, None, seed, None)] = None
    return list(jobs)


def result_path(args: argparse.Namespace, job: Job) -> Path:
    """Where the result of a job goes."""
    return args.results / job.pair / f"{job.name}.json"


def settings_of(args: argparse.Namespace, pair: str) -> dict[str, Settings]:
    """Those of the file, with the pair's own and what the command line says.

    Raises:
        InputError: an unreadable file, an override that is none.
    """
    settings = read_settings(HERE / ("quick.json" if args.quick else "settings.json"))
    for section, values in read_settings(args.settings).items() if args.settings else ():
        settings[section] = settings.get(section, {}) | values
    settings["train"] = settings["train"] | args.sites[pair].get("train", {})
    for text in args.set:
        section, key, value = override(text)
        settings.setdefault(section, {})[key] = value
    return settings


def override(text: str) -> tuple[str, str, Any]:
    """Section, key and value of "section.key=JSON".

    Raises:
        InputError: it is not of this form.
    """
    name, _, value = text.partition("=")
    section, _, key = name.partition(".")
    try:
        if key:
            return section, key, json.loads(value)
    except ValueError:
        pass
    raise InputError(f"--set {text}: give SECTION.KEY=JSON, as segment.synthetic_share=0.25")


def work_through(args: argparse.Namespace, jobs: Sequence[Job]) -> dict[Job, str]:
    """Run jobs until each has a result or has failed; those of other processes are waited for."""
    benches: dict[str, Bench] = {}
    failed: dict[Job, str] = {}
    while waiting := [
        job for job in jobs if job not in failed and not result_path(args, job).is_file()
    ]:
        advanced = False
        for job in waiting:
            try:
                if job.pair not in benches:
                    benches[job.pair] = make_bench(args, job.pair)
                run_job(args, benches[job.pair], job)
            except Busy:
                continue
            except (StageFailed, InputError) as error:
                failed[job] = str(error)
            advanced = True
        if not advanced:
            time.sleep(WAIT)
    return failed


def make_bench(args: argparse.Namespace, pair: str) -> Bench:
    """A pair of sites, in the folder that ALIGNFLOW_DATA names.

    Raises:
        InputError: it names none, or a folder that cannot be read.
    """
    if not (data := os.environ.get("ALIGNFLOW_DATA")):
        raise InputError("ALIGNFLOW_DATA: not set; set it to the folder of the data sets")
    sites = [
        Site(**site | {"directory": Path(data).resolve() / site["directory"]})
        for site in (args.sites[pair]["source"], args.sites[pair]["target"])
    ]
    return Bench(*sites, Cache(args.work), settings_of(args, pair))


def run_job(args: argparse.Namespace, bench: Bench, job: Job) -> None:
    """Train or adapt the arm's segmenter, score it, and write its result.

    Raises:
        Busy: another process runs it, or makes what it needs.
    """
    path = result_path(args, job)
    with locked(args.work / "jobs" / job.pair / f"{job.name}.lock"):
        if path.is_file():
            return
        scores = KNOWN[job.arm].scores(bench, job)
        content = json.loads((scores / "scores.json").read_text())
        write_test_set(path.with_name("test_set.json"), bench, list(content["images"]))
        result = {
            **vars(job),
            **read_scores(content),
            "test_sha256": bench.test_sha256,
            "pool": len(bench.target.pool),
            "settings_sha256": fingerprint(bench.settings),
            "commit": versions()["commit"],
        }
        write_json(path, result)
        say(f"{job.pair}/{job.name}: Dice {100 * result['dice_mean']:.1f}")


def fingerprint(settings: Mapping[str, Settings]) -> str:
    """SHA-256 of settings: runs of one table should have one."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def read_scores(content: dict[str, Any]) -> dict[str, Any]:
    """Scores of each image (None without foreground) from a scores.json, and their means.

    An image's score is the mean over the classes that it has.
    """
    found: dict[str, Any] = {}
    for metric in METRICS:
        images = [list(image[metric].values()) for image in content["images"].values()]
        scores = [image_score(classes) for classes in images]
        counted = [score for score in scores if score is not None]
        found[f"{metric}_mean"] = round(sum(counted) / len(counted), 5)
        found[metric] = [None if score is None else round(score, 4) for score in scores]
    return found


def image_score(classes: list[float | None]) -> float | None:
    """Mean over the classes that are there; None without any."""
    present = [score for score in classes if score is not None]
    return sum(present) / len(present) if present else None


def write_test_set(path: Path, bench: Bench, names: Sequence[str]) -> None:
    """The groups of the test images, in the order of the scores, once for a pair."""
    if not path.is_file():
        write_json(path, {"groups": bench.test_groups(names)})


if __name__ == "__main__":
    print_input_errors_as_one_line()
    raise SystemExit(main())
