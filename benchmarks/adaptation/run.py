"""What a few images of a new site are worth: segmenters of every arm on its unseen images.

    python benchmarks/adaptation/run.py --source DIR --target DIR --name NAME --work DIR
        --results DIR [--references 10] [--seeds 0 1 2] [--draws 0 1 2] [--labelled all]

Both folders hold images and masks as stage 1 reads them. The target is split by group (a column of
its index.csv; without one, single images): about a third is the pool that references are drawn
from, the rest tests every arm. Generators, alignments, pairs and segmenters stay in WORK and are
made once; each run of an arm leaves one JSON in RESULTS/NAME, and is skipped where that exists.
Several such commands may share WORK and RESULTS; a command that was stopped is started again.
table.py makes the table.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arms import ARMS
from bench import Bench, Job
from locks import Busy, locked
from splits import Site
from stages import Cache, Settings, StageFailed, read_settings, say, seconds_of, write_json

from alignflow.errors import InputError, print_input_errors_as_one_line
from alignflow.inference.writing import versions

HERE = Path(__file__).resolve().parent
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
    add("--source", type=Path, required=True, help="folder of the source's images and masks")
    add("--target", type=Path, required=True, help="folder of the target's")
    add("--name", required=True, help="of the pair: the folder in RESULTS")
    for site in ("source", "target"):
        add(f"--{site}_column", help="column of index.csv that chooses rows")
        add(f"--{site}_value", help="what the chosen rows have there")
        add(f"--{site}_group_column", help="column of index.csv that splits keep whole")
        add(f"--{site}_group_pattern", help="the same: regular expression on names, one group")
    add("--references", type=int, nargs="+", default=[10], help="their numbers (default 10)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the segmenters")
    add("--draws", type=int, nargs="+", default=[0, 1, 2], help="of references")
    add(
        "--all_draws",
        nargs="*",
        default=["aligned"],
        metavar="ARM",
        help="arms run on every draw; the others on the first (default: aligned)",
    )
    add("--labelled", nargs="+", default=["all"], help="labelled source images: all, or numbers")
    add("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="default: all")
    add("--model_dir", type=Path, help="a generator trained on this split of the source")
    add("--mask_threshold", type=float, help="masks are foreground above it")
    add("--settings", type=Path, default=HERE / "settings.json", help="overrides of the workflows")
    add(
        "--set", nargs="+", action="extend", default=[], metavar="SECTION.KEY=JSON", help="in those"
    )
    add("--quick", action="store_true", help="settings of a few steps, to try the benchmark itself")
    add("--work", type=Path, required=True, help="folder for generators, pairs, segmenters")
    add("--results", type=Path, required=True, help="folder for the results")
    add("--dry_run", action="store_true", help="list the runs and stop")
    args = parser.parse_args(argv)
    for site in ("source", "target"):
        if (getattr(args, f"{site}_column") is None) != (getattr(args, f"{site}_value") is None):
            parser.error(f"--{site}_column and --{site}_value go together")
    args.work, args.results = args.work.resolve(), args.results.resolve()
    return args


def list_jobs(args: argparse.Namespace) -> list[Job]:
    """All runs asked for; one for an arm and seed that no reference enters."""
    jobs = []
    for labelled in map(labelled_count, args.labelled):
        for seed in args.seeds:
            for name in args.arms:
                cases: list[tuple[int | None, int | None]] = [(None, None)]
                if ARMS[name].uses_references:
                    draws = args.draws if name in args.all_draws else args.draws[:1]
                    cases = [(n, draw) for n in args.references for draw in draws]
                jobs += [Job(args.name, name, labelled, n, seed, draw) for n, draw in cases]
    return jobs


def labelled_count(text: str) -> int | None:
    """None for "all".

    Raises:
        InputError: neither that nor a number.
    """
    if text == "all":
        return None
    if not text.isdigit():
        raise InputError(f"--labelled {text}: give all or a number")
    return int(text)


def result_path(args: argparse.Namespace, job: Job) -> Path:
    """Where the result of a job goes."""
    return args.results / job.pair / f"{job.name}.json"


def settings_of(args: argparse.Namespace) -> dict[str, Settings]:
    """Those of the file, with what the command line says.

    Raises:
        InputError: an unreadable file, an override that is none.
    """
    settings = read_settings(HERE / "quick.json" if args.quick else args.settings)
    settings.setdefault("train", {})
    if args.mask_threshold is not None:
        settings["train"]["mask_threshold"] = args.mask_threshold
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
    settings = settings_of(args)
    benches: dict[int | None, Bench] = {}
    failed: dict[Job, str] = {}
    while waiting := [
        job for job in jobs if job not in failed and not result_path(args, job).is_file()
    ]:
        advanced = False
        for job in waiting:
            if job.labelled not in benches:
                benches[job.labelled] = make_bench(args, job.labelled, settings)
            try:
                run_job(args, benches[job.labelled], job)
            except Busy:
                continue
            except (StageFailed, InputError) as error:
                failed[job] = str(error)
            advanced = True
        if not advanced:
            time.sleep(WAIT)
    return failed


def make_bench(
    args: argparse.Namespace, labelled: int | None, settings: dict[str, Settings]
) -> Bench:
    """The pair with so many labelled source images."""
    sites = [
        Site(
            getattr(args, site).resolve(),
            getattr(args, f"{site}_column"),
            getattr(args, f"{site}_value"),
            getattr(args, f"{site}_group_column"),
            getattr(args, f"{site}_group_pattern"),
        )
        for site in ("source", "target")
    ]
    model_dir = None if args.model_dir is None else args.model_dir.resolve()
    return Bench(*sites, labelled, Cache(args.work), settings, model_dir)


def run_job(args: argparse.Namespace, bench: Bench, job: Job) -> None:
    """Train or adapt the arm's segmenter, score it, and write its result.

    Raises:
        Busy: another process runs it, or makes what it needs.
    """
    path = result_path(args, job)
    with locked(args.work / "jobs" / job.pair / f"{job.name}.lock"):
        if path.is_file():
            return
        segmenter = ARMS[job.arm].segmenter(bench, job)
        scores = bench.scores(segmenter)
        content = json.loads((scores / "scores.json").read_text())
        write_test_set(path.with_name("test_set.json"), bench, list(content["images"]))
        result = {
            **vars(job),
            **read_scores(content),
            "test_sha256": bench.test_sha256,
            "validation_dice": validation_dice(segmenter),
            "seconds": {"segmenter": seconds_of(segmenter), "scoring": seconds_of(scores)},
            "settings": bench.settings,
            "versions": versions(),
        }
        write_json(path, result)
        say(f"{job.pair}/{job.name}: Dice {100 * result['dice_mean']:.1f}")


def read_scores(content: dict[str, Any]) -> dict[str, Any]:
    """Dice and IoU from a scores.json: of each image (None without foreground), and their means.

    An image's score is the mean over the classes that it has.
    """
    found: dict[str, Any] = {}
    for metric in ("dice", "iou"):
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


def validation_dice(segmenter: Path) -> float | None:
    """Mean Dice on the images that validated the training."""
    record = json.loads((segmenter / "segmenter.json").read_text())
    dice = record["validation"].get("dice", {}).get("mean")
    return None if dice is None else round(dice, 5)


def write_test_set(path: Path, bench: Bench, names: Sequence[str]) -> None:
    """The groups of the test images, in the order of the scores, once for a pair."""
    if not path.is_file():
        write_json(path, {"groups": bench.test_groups(names)})


if __name__ == "__main__":
    print_input_errors_as_one_line()
    raise SystemExit(main())
