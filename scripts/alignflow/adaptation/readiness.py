"""Whether an adaptation can start, and what it will take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignflow.adaptation.clock import Clock
from alignflow.adaptation.jobs import Facts, overlaid
from alignflow.adaptation.plan import Folders, Plan
from alignflow.inspection.check import Check
from alignflow.inspection.cost import disk, free, image_network, measure
from alignflow.inspection.reading import Reading
from alignflow.stage1 import Stage1


class NotReady(RuntimeError):
    """The data has problems that stop training or alignment."""


def inspect(
    *,
    source: Path,
    references: Path | None,
    test: Path | None,
    train: Mapping[str, Any],
    bundle: Stage1 | None,
    device: str,
    output: Path,
    sections: Mapping[str, Any],
    costs: Mapping[str, float],
    configs: Path,
    seeds: int,
    rounds: int,
) -> Facts:
    """Check the data, and estimate time and disk.

    Args:
        source, references, test: folders; the last two may be None.
        train: content of `train.json` with its overrides.
        bundle: record of a trained bundle that makes training needless, or None.
        device: to time a training step on.
        output: folder of the adaptation, whose disk must hold it.
        sections, costs: of `adapt.json`.
        configs: folder of the bundle's configs.
        seeds: trainings of each segmenter.
        rounds: of pseudo-masks.

    Returns:
        `Check.result` with "problems", "warnings" and, where nothing stops training, "cost".
    """
    check = Check(Reading.of(train, bundle))
    files = check.source(source)
    known = check.site(references, "references", files) if references is not None else []
    if test is not None:
        check.leaks(known, check.site(test, "test", files))
    if references is not None:
        check.separation(source, references)
    result = check.result
    if not check.problems:
        result["cost"] = _cost(
            result, source, train, bundle, device, output, sections, costs, configs, seeds, rounds
        )
        if result["cost"]["bytes"] > result["cost"]["free"]:
            check.warnings.append(f"disk: too little space in '{output}'; free some, or set --out")
    return result | {"problems": check.problems, "warnings": check.warnings}


def _cost(
    result: Facts,
    source: Path,
    train: Mapping[str, Any],
    bundle: Stage1 | None,
    device: str,
    output: Path,
    sections: Mapping[str, Any],
    costs: Mapping[str, float],
    configs: Path,
    seeds: int,
    rounds: int,
) -> Facts:
    found = result["source"]
    channels = int(next(iter(found["channels"])))
    classes = 1 + max(1, found["masks"]["values"])
    image_size = list(train["image_size"] if bundle is None else bundle.image_size)
    arguments = (
        image_network(train["network_def"], channels, classes)
        if bundle is None
        else bundle.image_network
    )
    step, parameters = measure(arguments, image_size, train["batch_size"], device)
    clock = Clock(costs, step)
    # folders do not matter here: only the lengths of the stages are asked for
    folders = Folders(
        configs=configs,
        root=output,
        source=source,
        references=source,
        test=None,
        model_dir=None if bundle is None else output,
        inputs={"source": "", "references": "", "model": ""},
    )
    for job in Plan(folders, sections, list(range(seeds)), {"validation": source}, rounds).jobs:
        clock.plan(job.name, job.work)
    distill = overlaid(configs / "distill.json", sections["distill"])
    pairs = 2 * overlaid(configs / "inference.json", sections["infer"])["num_pairs"]
    size = sum(p.stat().st_size for p in Path(source).rglob("*") if p.is_file())
    return {
        "step_seconds": step,
        "seconds": clock.left(),
        "bytes": disk(
            parameters,
            channels,
            image_size,
            distill["num_pairs"] + distill["held_out"],
            pairs * size / max(1, found["images"]),
            bundle is None,
        ),
        "free": free(output),
    }
