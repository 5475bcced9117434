"""Share, schedule and selection of synthetic pairs, chosen on the source's validation split."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from alignflow.config import running_config
from alignflow.errors import InputError
from alignflow.files import replacing
from alignflow.segmentation.record import SegmenterRecord

logger = logging.getLogger(__name__)

FREE = ("synthetic_share", "schedule", "synthetic_epochs", "selection_floor")


def choose(candidates: list[dict[str, Any]], output_dir: str, tracking_uri: str) -> dict[str, Any]:
    """Train a segmenter with each candidate's settings and compare their validation Dice.

    Everything else is as in the running config. Each segmenter stays in
    `output_dir/candidate_K`; a candidate that was trained already is not trained again.

    Args:
        candidates: each {key: value} of `FREE`.
        output_dir: receives `choice.json`: the candidates with their Dice, and the best one.
        tracking_uri: of the one MLflow store in which all candidates are runs.

    Raises:
        InputError: no candidates, or keys other than those of `FREE`.
    """
    if not candidates:
        raise InputError('config "choose_from": empty; list settings to compare')
    for candidate in candidates:
        for key in candidate.keys() - set(FREE):
            raise InputError(f'config "choose_from": key "{key}"; set only {", ".join(FREE)}')
    config = {k: v for k, v in running_config().items() if k != "choose_from"}
    config["tracking_uri"] = tracking_uri
    results = [
        candidate
        | {"dice": train_candidate(config, candidate, Path(output_dir) / f"candidate_{k}")}
        for k, candidate in enumerate(candidates)
    ]
    choice = {"chosen": max(results, key=lambda one: one["dice"]), "candidates": results}
    with replacing(Path(output_dir) / "choice.json") as temporary:
        temporary.write_text(json.dumps(choice, indent=1) + "\n")
    logger.info("chosen on source validation: %s", choice["chosen"])
    return choice


def train_candidate(config: dict[str, Any], candidate: dict[str, Any], folder: Path) -> float:
    """Validation Dice of one candidate's segmenter."""
    changed = config | candidate | {"output_dir": str(folder), "test_dir": None, "choose_from": []}
    path = folder / "segment_config.json"
    text = json.dumps(changed, indent=2, default=str) + "\n"
    done = path.is_file() and path.read_text() == text and (folder / "segmenter.json").is_file()
    if not done:
        with replacing(path) as temporary:
            temporary.write_text(text)
        made = ConfigWorkflow(
            config_file=str(path), logging_file=False, workflow_type="train", run_id="segment"
        )
        made.initialize()
        made.run()
        made.finalize()
    dice: float = SegmenterRecord.load(folder).validation["dice"]["mean"]
    return dice
