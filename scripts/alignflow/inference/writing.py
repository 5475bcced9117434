"""Writes pairs, contact sheet and provenance."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import monai
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from tqdm import tqdm

from alignflow import __version__
from alignflow.config import running_config
from alignflow.data import nnunet
from alignflow.data.dicom_masks import require_highdicom
from alignflow.data.dicomweb import require_address, require_client, store
from alignflow.data.intensity import unscale
from alignflow.data.spec import Geometry
from alignflow.data.writer import (
    pair_name,
    write_dicom_pair,
    write_image,
    write_label,
    write_nnunet_pair,
)
from alignflow.distributed import all_gather_objects, rank
from alignflow.errors import InputError
from alignflow.files import replacing
from alignflow.inference.masks import MaskGenerator, mask_report
from alignflow.inference.noise import pair_generator
from alignflow.inference.progress import PairProgress, pair_files
from alignflow.pictures import save_pairs, y_points_up
from alignflow.stage1 import Stage1, weight_hashes

logger = logging.getLogger(__name__)

QUARANTINE = "quarantine"  # of `run audit`, within the folder of the pairs


class WritePairs:
    """Handler of the generating evaluator: writes each batch at once, so memory stays constant.

    `output_dir/images/pair_00000.*` and `output_dir/labels/pair_00000.*`, with the source's classes
    and modality in `dataset.json`, form a data set that training can read. `contact_sheet.png`
    shows the first pairs. `provenance.json`, written last, says how the pairs were generated. Each
    of several processes writes its pairs; the first process writes the rest. The slices of a volume
    are kept in memory until it is complete.

    Args:
        stage1: record of the generator: formats, window, label values, geometries.
        masks: has the counts of rejected masks.
        progress: has the pairs that a stopped run has written.
        output_dir: output folder; pairs of an earlier run are replaced.
        model_dir: bundle; the hashes of its weights are recorded.
        total: number of pairs that this process writes.
        seed: random seed of the run; chooses the geometry of each pair.
        native_size: write on the grid of a source slice instead of the generator's.
        output_format: None for the source's format (NIfTI if that is DICOM); "dicom" for
            `pair_00000.dcm`, an image (a folder of slices for a volume) and its segmentation; or
            "nnunet" for an nnU-Net v2 data set: `imagesTr/pair_00000_0000.*`,
            `labelsTr/pair_00000.*` and `dataset.json`.
        dicomweb_url: server to which DICOM pairs are sent at the end (STOW-RS), or None.
        dicomweb_timeout, dicomweb_attempts: see `dicomweb.store`.
        sheet_size: pairs on the contact sheet.

    Raises:
        InputError: if `output_dir` contains another data set, the format is unknown, or it needs a
            package that is missing.
    """

    def __init__(
        self,
        *,
        stage1: Stage1,
        masks: MaskGenerator,
        progress: PairProgress,
        output_dir: str,
        model_dir: str,
        total: int,
        seed: int = 0,
        native_size: bool = True,
        output_format: str | None = None,
        dicomweb_url: str | None = None,
        dicomweb_timeout: float = 60.0,
        dicomweb_attempts: int = 5,
        sheet_size: int = 32,
    ) -> None:
        self.stage1 = stage1
        self.masks = masks
        self.progress = progress
        self.output_dir = Path(output_dir)
        require_own_folder(self.output_dir)
        self.seed = seed
        self.native_size = native_size
        self.output_format = output_format
        if output_format not in (None, "dicom", "nnunet"):
            raise InputError(
                f'config "output_format": {output_format!r}; set null, "dicom" or "nnunet"'
            )
        self.dicomweb_url = dicomweb_url
        self.dicomweb_timeout, self.dicomweb_attempts = dicomweb_timeout, dicomweb_attempts
        if output_format == "dicom":
            require_highdicom()
        if dicomweb_url is not None:
            if output_format != "dicom":
                raise InputError('config "dicomweb_url": needs "output_format" set to "dicom"')
            require_address(dicomweb_url)
            require_client()
        self.weights_sha256 = weight_hashes(model_dir)
        self.run = json.dumps([self.weights_sha256, seed])
        self.sheet_size = sheet_size
        self.shown: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        self.slices: list[tuple[torch.Tensor, torch.Tensor, Geometry]] = []
        # With a delay the bar appears at the first batch, not above an earlier error.
        self.bar = tqdm(total=total, desc="pairs", unit="pair", delay=1e-3, disable=rank() > 0)
        # Handlers cannot find the running config, so it is read here.
        self.config = running_config()

    def attach(self, engine: SupervisedEvaluator) -> None:
        """Register on the evaluator."""
        engine.add_event_handler(Events.STARTED, self.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write_batch)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    @idist.one_rank_only(with_barrier=True)
    def clear(self, engine: SupervisedEvaluator) -> None:
        """Remove the files of an earlier run."""
        for name in ("provenance.json", "contact_sheet.png"):
            (self.output_dir / name).unlink(missing_ok=True)
        shutil.rmtree(self.output_dir / QUARANTINE, ignore_errors=True)
        self.progress.begin()

    def write_batch(self, engine: SupervisedEvaluator) -> None:
        """Write the pairs of one batch."""
        output, batch = engine.state.output, engine.state.batch
        for i, index in enumerate(output["index"]):
            image, label = output["image"][i], output["label"][i]
            geometry = batch["geometry"][i] if "geometry" in batch else self.geometry(index)
            if "slices" in batch:
                self.write_slice(index, image, label, geometry, batch["slices"][i])
            else:
                self.write_pair(index, image, label, geometry)
            if len(self.shown) < self.sheet_size:
                self.shown.append((index, image, label))
        self.progress.record(output["index"], self.masks.pop_counts())
        self.bar.update(len(output["index"]))

    def write_slice(
        self, index: int, image: torch.Tensor, label: torch.Tensor, geometry: Geometry, count: int
    ) -> None:
        """Keep a slice of volume `index`; write the pair after the last of `count` slices."""
        self.slices.append((image, label, geometry))
        if len(self.slices) == count:
            images, labels, geometries = zip(*self.slices, strict=True)
            self.slices = []
            volume, mask = (torch.stack(parts, dim=-1) for parts in (images, labels))
            self.write_pair(index, volume, mask, geometries[0])

    def write_pair(
        self, index: int, image: torch.Tensor, label: torch.Tensor, geometry: Geometry
    ) -> None:
        """Write one pair: image (C, X, Y[, Z]) in [-1, 1], label (1, X, Y[, Z]) class indices."""
        source, name = self.stage1.source, pair_name(index)
        native = unscale(image, *source.window)
        images, labels = self.output_dir / "images", self.output_dir / "labels"
        if self.output_format == "nnunet":
            case = (native, label, self.output_dir, source, geometry, name)
            write_nnunet_pair(*case, self.native_size)
        elif self.output_format == "dicom":
            pair = (native, label, (images, labels))
            as_file = self.native_size, self.progress.begun
            write_dicom_pair(*pair, source, geometry, self.run, index, *as_file)
        else:
            write_image(native, images / name, source, geometry, self.native_size)
            write_label(label, labels / name, source, geometry, self.native_size)

    def geometry(self, index: int) -> Geometry:
        """The grid of a random source slice, which depends on the seed and the pair's number."""
        geometries = self.stage1.source.geometries
        generator = pair_generator(self.seed, index, "geometry")
        return geometries[int(torch.randint(len(geometries), (1,), generator=generator))]

    def finish(self, engine: SupervisedEvaluator) -> None:
        """Write contact sheet, `dataset.json` and provenance; send DICOM pairs."""
        self.bar.close()
        # All processes must make both of these calls.
        self.shown = sorted(sum(all_gather_objects(self.shown), []), key=lambda pair: pair[0])
        counts: dict[int, dict[str, Any]] = {}
        for one in all_gather_objects(self.progress.counts):
            counts |= one
        self.write_rest(mask_report(counts[batch] for batch in sorted(counts)))

    @idist.one_rank_only()
    def write_rest(self, masks: dict[str, object]) -> None:
        """Write the files about all pairs, with the report of their masks."""
        _, *shown = zip(*self.shown[: self.sheet_size], strict=True)
        images, labels = (torch.stack(parts) for parts in shown)
        y_up = y_points_up(self.stage1.source)
        save_pairs(self.output_dir / "contact_sheet.png", images, labels, y_up)
        self.write_json("dataset.json", self.description())
        self.write_json("provenance.json", self.provenance(masks))
        logger.info(
            "wrote %d pairs, contact_sheet.png and provenance.json to '%s'",
            len(self.progress),
            self.output_dir,
        )
        if self.dicomweb_url is not None:
            self.store(self.dicomweb_url)
        self.progress.finish()

    def store(self, url: str) -> None:
        """Send the pairs to a server, except those sent by an interrupted transfer."""
        stored = self.progress.stored
        paths = pair_files(self.output_dir)
        files = [f for p in paths for f in (sorted(p.iterdir()) if p.is_dir() else [p])]
        files = [path for path in files if self.progress.stored_name(url, path) not in stored]
        note = partial(self.progress.note_stored, url)
        there = store(url, files, self.dicomweb_timeout, self.dicomweb_attempts, note)
        logger.info("stored %d files on '%s'; %d were already there", len(files), url, there)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write `content` to a file of the output folder."""
        with replacing(self.output_dir / name) as temporary:
            temporary.write_text(
                json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8"
            )

    def description(self) -> dict[str, Any]:
        """Content of `dataset.json`: names of the classes, and the modality."""
        source = self.stage1.source
        if self.output_format == "nnunet":
            return {"synthetic": True, **nnunet.description(source, len(self.progress))}
        modality = {"0": source.modality}
        return {"synthetic": True, "modality": modality, "labels": source.labels}

    def provenance(self, masks: dict[str, object]) -> dict[str, Any]:
        """How the pairs were generated; without a time, so that equal commands give equal bytes."""
        return {
            "synthetic": True,
            "pairs": [pair_name(index) for index in range(len(self.progress))],
            "seed": self.seed,
            "config": self.config,
            "weights_sha256": self.weights_sha256,
            "masks": masks,
            "intensity_window": list(self.stage1.source.window),
            "labels": self.description()["labels"],
            "versions": versions(),
        }


def require_own_folder(folder: Path) -> None:
    """Raise `InputError` if the folder contains anything except pairs of an earlier run."""
    foreign = [p for p in pair_files(folder) if not p.name.startswith(("pair_", ".partial-"))]
    description = folder / "dataset.json"
    if description.is_file() and b'"synthetic": true' not in description.read_bytes():
        foreign.append(description)
    if foreign:
        raise InputError(
            f"output_dir '{folder}': contains other data ('{foreign[0].name}'); give another folder"
        )


def versions() -> dict[str, str]:
    """Versions of the code and of the libraries that affect its results."""
    found = {"alignflow": __version__, "monai": monai.__version__, "torch": str(torch.__version__)}
    for name in ("numpy", "scipy", "scikit-image"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found | {"commit": commit()}


def commit() -> str:
    """Git commit of the code, followed by '+' if files were changed; "" outside a checkout."""
    call = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty=+",
        "--abbrev=40",
    ]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
