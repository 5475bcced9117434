"""Whether an adaptation can start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignflow.adaptation.jobs import Facts, overlaid
from alignflow.inspection.check import Check
from alignflow.inspection.disk import bytes_written, free, image_network
from alignflow.inspection.reading import Reading
from alignflow.networks.velocity import VelocityUNet
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
    output: Path,
    sections: Mapping[str, Any],
    configs: Path,
) -> Facts:
    """Check the data, and whether the disk is large enough.

    Args:
        source, references, test: folders; the last two may be None.
        train: content of `train.json` with its overrides.
        bundle: record of a trained bundle that makes training needless, or None.
        output: folder of the adaptation, whose disk must hold it.
        sections: of `adapt.json`.
        configs: folder of the bundle's configs.

    Returns:
        `Check.result` with "problems", "warnings" and, where nothing stops training, "disk".
    """
    check = Check(Reading.of(train, bundle))
    files = check.source(source)
    known = check.site(references, "references", files) if references is not None else []
    if test is not None:
        check.leaks(known, check.site(test, "test", files))
    if references is not None:
        check.separation(references)
    result = check.result
    if not check.problems:
        result["disk"] = _disk(result, source, train, bundle, output, sections, configs)
        if result["disk"]["bytes"] > result["disk"]["free"]:
            check.warnings.append(f"disk: too little space in '{output}'; free some, or set --out")
    return result | {"problems": check.problems, "warnings": check.warnings}


def _disk(
    result: Facts,
    source: Path,
    train: Mapping[str, Any],
    bundle: Stage1 | None,
    output: Path,
    sections: Mapping[str, Any],
    configs: Path,
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
    distill = overlaid(configs / "distill.json", sections["distill"])
    pairs = 2 * overlaid(configs / "inference.json", sections["infer"])["num_pairs"]
    size = sum(p.stat().st_size for p in Path(source).rglob("*") if p.is_file())
    written = bytes_written(
        sum(p.numel() for p in VelocityUNet(**arguments).parameters()),
        channels,
        image_size,
        distill["num_pairs"] + distill["held_out"],
        pairs * size / max(1, found["images"]),
        bundle is None,
    )
    return {"bytes": written, "free": free(output)}
