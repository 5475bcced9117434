"""Do arms miss structures, or outline them by another rule? Sensitivity, precision, growth.

    python benchmarks/adaptation/outlines.py, with the arguments of run.py

Where the target draws its outlines wider or narrower than the source did, the arm that follows the
source's rule most closely has the lowest Dice there. So the segmenters of all runs with a result
are taken from WORK, and what they predict on the target's test images is grown by 0 to 4 pixels:
what is only a rule of outlining then goes away. All classes are taken as one foreground; images
without any do not count. Leaves RESULTS/NAME/outlines/outlines.json and prints a table, each figure
the mean over images, seeds and draws.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any, cast

import numpy as np
from arms import ARMS
from monai.inferers import SimpleInferer
from run import arguments, list_jobs, make_bench, result_path, settings_of
from stages import say, write_json
from torch import Tensor
from torch.nn.functional import max_pool2d

from alignflow.data.references import References
from alignflow.device import default_device
from alignflow.errors import InputError, print_input_errors_as_one_line
from alignflow.inference.writing import versions
from alignflow.segmentation.data import read_test
from alignflow.segmentation.record import SegmenterRecord
from alignflow.segmentation.scoring import overlap_tables, predict
from alignflow.stage1 import Stage1

GROWTH = range(5)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every run that has a result, print the arms."""
    args = arguments(argv)
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    settings = settings_of(args)
    jobs = [job for job in list_jobs(args) if result_path(args, job).is_file()]
    if not jobs:
        raise InputError(f"results '{args.results}/{args.name}': none of these runs; call run.py")
    runs = []
    for labelled, group in groupby(jobs, key=lambda job: job.labelled):  # as list_jobs sorts them
        bench = make_bench(args, labelled, settings)
        stage1 = Stage1.load(str(bench.generator()))
        site = read_test(str(bench.test_dir), stage1, stage1.image_size)
        assert site is not None  # there is a test_dir
        for job in group:
            runs.append(vars(job) | measured(ARMS[job.arm].segmenter(bench, job), site))
    path = args.results / args.name / "outlines/outlines.json"
    write_json(path, {"runs": runs, "settings": settings, "versions": versions()})
    say(str(path))
    print("\n".join(table(runs)))


def measured(segmenter_dir: Path, site: References) -> dict[str, float]:
    """Means over the labelled images of a site."""
    segmenter = SegmenterRecord.load(segmenter_dir).build(segmenter_dir, default_device())
    predicted = predict(segmenter, site.images, SimpleInferer()).clamp(max=1)
    labels = cast("Tensor", site.labels).clamp(max=1)
    scores = [overlap_tables(grown(predicted, pixels), labels, 2) for pixels in GROWTH]
    found = {name: float(np.nanmean(scores[0][name])) for name in ("sensitivity", "precision")}
    dice = {f"dice_grown_{n}": float(np.nanmean(table["dice"])) for n, table in enumerate(scores)}
    return found | dice


def grown(masks: Tensor, pixels: int) -> Tensor:
    """Masks uint8 (N, 1, X, Y) of 0 and 1, grown by so many pixels in all eight directions."""
    return max_pool2d(masks.float(), 2 * pixels + 1, stride=1, padding=pixels).byte()


def table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each arm, labelled images and number of references."""
    columns = ["sensitivity", "precision", *(f"dice_grown_{pixels}" for pixels in GROWTH)]
    lines = ["| " + " | ".join(["arm", *columns]) + " |", "|---" * (len(columns) + 1) + "|"]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["arm"], run["labelled"], run["references"]), []).append(run)
    for (arm, labelled, references), members in groups.items():
        head = f"{arm}, {labelled or 'all'} labelled" + (f", n = {references}" * bool(references))
        means = [f"{mean(run[name] for run in members):.3f}" for name in columns]
        lines.append("| " + " | ".join([f"{head} ({len(members)})", *means]) + " |")
    return lines


if __name__ == "__main__":
    print_input_errors_as_one_line()
    main()
