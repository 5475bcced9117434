"""Whether an adaptation can start."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignflow.adaptation.jobs import Facts, overlaid
from alignflow.adaptation.plan import CONFIG_OF, SECTIONS
from alignflow.adaptation.verdict import ADAPTED, SOURCE
from alignflow.config import require_plain
from alignflow.errors import InputError
from alignflow.inspection.check import Check
from alignflow.inspection.disk import bytes_written, free, image_network
from alignflow.inspection.reading import Reading
from alignflow.limits import check_limits
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
        bundle: record of a trained bundle, or None.
        output: folder of the adaptation; its disk must have enough space.
        sections: sections of `adapt.json`.
        configs: folder of the bundle's configs.

    Returns:
        `Check.result` with "problems", "warnings" and, without problems, "disk".
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
            check.warnings.append(f"disk: too little space in '{output}'; free space, or set --out")
    return result | {"problems": check.problems, "warnings": check.warnings}


def require_folders(data: Mapping[str, str | None], model_dir: str | None, output_dir: str) -> None:
    """Refuse data that is not a folder, paths that configs cannot hold, and results inside data.

    Raises:
        InputError: naming the setting and the path.

    Args:
        data: "source", "references" and "test".
        model_dir, output_dir: folders of the adaptation.
    """
    for name, path in data.items():
        if path is not None and not (path and Path(path).is_dir()):
            raise InputError(f"config \"{name}\": '{path}' is not a folder; give --{name} DIR")
    for path in filter(None, (*data.values(), model_dir, output_dir)):
        require_plain(str(Path(path).resolve()), "folder")
    root = Path(output_dir).resolve()
    for path in filter(None, data.values()):
        if root == Path(path).resolve() or Path(path).resolve() in root.parents:
            raise InputError(
                f"output_dir '{output_dir}': is inside '{path}', which would change with every "
                "stage; give a folder outside the data"
            )


def require_arms(arms: Facts, hand_over: str) -> None:
    """Raise `InputError` if there can be no verdict with these segmenters."""
    wrong = [name for name, one in arms.items() if not isinstance(one, dict)]
    if wrong or not {SOURCE, ADAPTED} <= arms.keys():
        raise InputError(
            f'config "arms": {", ".join(arms)}; each is {{key: value}} of segment.json, and '
            f'"{SOURCE}" and "{ADAPTED}" are among them'
        )
    if hand_over not in arms:
        raise InputError(f'config "hand_over": {hand_over!r}; set one of {", ".join(arms)}')


def require_keys(sections: Facts, configs: Path) -> None:
    """Refuse keys and values that a later stage would refuse.

    Raises:
        InputError: naming the section and the key.
    """
    named = [(name, name, sections[name]) for name in SECTIONS]
    named += [(f"arms.{arm}", "segment", one) for arm, one in sections["arms"].items()]
    for section, stage, settings in named:
        path = configs / f"{CONFIG_OF.get(stage, stage)}.json"
        if not path.is_file():
            continue
        known = [k for k in json.loads(path.read_text(encoding="utf-8")) if not k.startswith("_")]
        for key in settings:
            top = key.replace("#", "::").split("::")[0]
            if top not in known:
                raise InputError(
                    f"{section}.{key}: not a key of {path.name}{_near(top, known)}; remove it"
                )
        check_limits(settings)


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


def _near(key: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean '{found[0]}'?)" if found else ""
