"""Writes the aligned bundle: a model folder like that of stage 1, with record and picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from torch import Tensor

from alignflow.alignment.monitor import Monitor
from alignflow.alignment.reward import SetReward
from alignflow.alignment.sampling import FixedSamples
from alignflow.config import running_config
from alignflow.data.references import References
from alignflow.errors import InputError
from alignflow.files import replacing
from alignflow.flow.sampler import FlowSampler
from alignflow.inference.writing import versions
from alignflow.pictures import image_tiles, outline_tiles, save_sheet, y_points_up
from alignflow.stage1 import WEIGHTS, Stage1, weight_hashes

COLUMNS = 12


def require_other_folder(output_dir: str, model_dir: str) -> None:
    """Raise `InputError` if alignment would overwrite the bundle it starts from."""
    if Path(output_dir).resolve() == Path(model_dir).resolve():
        raise InputError(
            f"output_dir '{output_dir}': is model_dir too, so the new weights would replace those "
            "of the bundle; give another folder"
        )


@idist.one_rank_only()
def save_bundle(
    stage1: Stage1, model_dir: str, output_dir: str, trained: Sequence[str] = ("image",)
) -> None:
    """Write the record, and copy the weights that were not `trained`."""
    for flow, name in WEIGHTS.items():
        if flow not in trained:
            with replacing(Path(output_dir) / name) as temporary:
                shutil.copyfile(Path(model_dir) / name, temporary)
    stage1.save(output_dir)


class SaveAlignment:
    """Handler: writes picture and record of the alignment when training is complete.

    `alignment.png` shows references, and below them unaligned and aligned samples of the same masks
    from the same noise. `align.json` holds the curve, the epoch that was kept, names and hash of
    the references, the config, hashes of the initial weights, and versions.

    Args:
        output_dir: output folder of the run.
        model_dir: the initial bundle.
        stage1: its record.
        references: references of the site.
        gap: result of `appearance_gap`.
        samples, unaligned: fixed masks and noise, and their unaligned images.
        sampler: sampler of the aligned network.
        monitor: has the curve and the best epoch.
        reward: the fitted reward.
    """

    def __init__(
        self,
        *,
        output_dir: str,
        model_dir: str,
        stage1: Stage1,
        references: References,
        gap: dict[str, float],
        samples: FixedSamples,
        unaligned: Tensor,
        sampler: FlowSampler,
        monitor: Monitor,
        reward: SetReward,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.model_dir = model_dir
        self.stage1 = stage1
        self.references = references
        self.gap = gap
        self.samples = samples
        self.unaligned = unaligned
        self.sampler = sampler
        self.monitor = monitor
        self.reward = reward
        self.config = running_config()

    def attach(self, engine: Engine) -> None:
        """Register at COMPLETED, after the monitor."""
        engine.add_event_handler(Events.COMPLETED, self)

    @idist.one_rank_only()
    def __call__(self, engine: Engine) -> None:
        """Write both files."""
        self.picture()
        with replacing(self.output_dir / "align.json") as temporary:
            temporary.write_text(
                json.dumps(self.record(), indent=1, default=str) + "\n", encoding="utf-8"
            )

    def picture(self) -> None:
        """Four rows: references, unaligned and aligned samples, these with mask outlines."""
        aligned = self.samples.draw(self.sampler).cpu()
        chosen = np.linspace(0, len(aligned) - 1, min(COLUMNS, len(aligned))).astype(int)
        labels = self.samples.labels[chosen]
        references = image_tiles(self.references.images)
        rows = [
            references[np.arange(len(chosen)) % len(references)],
            image_tiles(self.unaligned[chosen].cpu()),
            image_tiles(aligned[chosen]),
            outline_tiles(aligned[chosen], labels),
        ]
        y_up = y_points_up(self.stage1.source)
        save_sheet(self.output_dir / "alignment.png", rows, columns=COLUMNS, y_up=y_up)

    def record(self) -> dict[str, Any]:
        """See the class."""
        monitor = self.monitor
        return {
            "kept_epoch": monitor.best_epoch,
            "before": monitor.curve[0],
            "kept": monitor.curve[monitor.best_epoch],
            "curve": monitor.curve,
            "left_out": 0 if monitor.split.left_out is None else len(monitor.split.left_out),
            "appearance": self.gap,
            "units": {name: term.unit for name, term in self.reward.terms.items()},
            "references": self.references.names,
            "references_sha256": self.references.fingerprint,
            "stage1_weights_sha256": weight_hashes(self.model_dir),
            "config": self.config,
            "versions": versions(),
        }
