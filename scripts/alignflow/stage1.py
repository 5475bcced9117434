"""The record of stage 1, with everything later stages need besides the weights."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from monai.transforms import Compose
from torch import Tensor

from alignflow.data.preprocessing import NEEDED, build
from alignflow.data.spec import SourceSpec
from alignflow.data.structures import Classes
from alignflow.errors import InputError
from alignflow.files import replacing, sha256
from alignflow.masks.class_index import Scheme
from alignflow.masks.distance import condition_maps, to_distance

logger = logging.getLogger(__name__)

FILE = "stage1.json"
WEIGHTS = {"image": "model.pt", "mask": "mask_model.pt", "segmenter": "segmenter.pt"}
STUDENTS = {"image": "student", "mask": "mask_student"}
"""Weights in distilled bundles: student_4.pt is the image flow's student with four steps."""
READING = {"preprocessing", *NEEDED}


@dataclass
class Stage1:
    """Networks, source and masks of a trained generator; saved as `stage1.json` with the weights.

    Attributes:
        source: channels, labels, intensity window, formats and geometries of the source.
        image_size: [X, Y] of the networks' images, pixels.
        image_network: arguments of the image flow's `VelocityUNet`.
        mask_network: arguments of the mask flow's `VelocityUNet`.
        clip: truncation of the signed distance, pixels.
        scheme: "disjoint" or "nested" classes.
        postprocess: limits of `MaskPostprocess`, fitted on the training masks.
        descriptions: presence, log-area and centroid of each training mask (`masks.describe`).
        segmenter: config of the source segmenter's network: "_target_" and its arguments.
        reading: how the source was read: `preprocessing` and its settings.
        appearance: colour and texture of training images, see `alignment.gap`.
    """

    source: SourceSpec
    image_size: list[int]
    image_network: dict[str, Any]
    mask_network: dict[str, Any]
    clip: float
    scheme: Scheme
    postprocess: dict[str, Any]
    descriptions: list[list[float]]
    segmenter: dict[str, Any]
    reading: dict[str, Any]
    appearance: list[list[float]]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, X, Y) of an image and its noise."""
        return (self.source.channels, *self.image_size)

    @property
    def num_classes(self) -> int:
        """K, background included."""
        return len(self.source.labels)

    @property
    def classes(self) -> Classes:
        """Names, values and scheme of the classes."""
        source = self.source
        return {"labels": source.labels, "structures": source.structures, "scheme": self.scheme}

    def preprocessing(self, **settings: Any) -> Compose:
        """The transforms with which the source was read, see `preprocessing.read`.

        Args:
            settings: replace those of the record, such as "image_size" or "window".
        """
        own = {"classes": self.classes, "image_size": self.image_size} | settings
        return build(self.reading, f"{FILE}, field 'reading'", **own)

    def as_written(self) -> Stage1:
        """The same record, but images are read with the window used for written pairs.

        Percentiles of each pair would remove differences in brightness.
        """
        return replace(self, reading=self.reading | {"window": list(self.source.window)})

    def condition(self, label: Tensor) -> Tensor:
        """Condition (B, 2K-1, X, Y) of the image flow, from class indices (B, 1, X, Y)."""
        distance = [to_distance(m, self.num_classes, self.clip, self.scheme) for m in label]
        return condition_maps(label, torch.stack(distance), self.num_classes)

    @idist.one_rank_only()
    def save(self, directory: str) -> None:
        """Write the record with the hashes of the weights in the folder."""
        record = {name: value for name, value in asdict(self).items() if name != "source"}
        record["source"] = self.source.to_dict()
        record["weights"] = weight_hashes(directory)
        with replacing(Path(directory) / FILE) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        logger.info("wrote %s and %s to '%s'", ", ".join(record["weights"]), FILE, directory)

    @classmethod
    def load(cls, directory: str) -> Stage1:
        """Read the record of a trained generator and check its weights against it.

        Raises:
            InputError: the record is missing, damaged or of another version, or its weights are
                missing, of another run, or contain more than tensors.
        """
        path = Path(directory) / FILE
        if not path.is_file():
            raise InputError(
                f"'{directory}': no {FILE}; run training first, "
                "or set model_dir to the models of a trained bundle"
            )
        record = read_record(path)
        for name in WEIGHTS.values():
            if not (Path(directory) / name).is_file():
                raise InputError(
                    f"'{directory}': no {name}; run training to its end, or copy the whole folder"
                )
        for name, digest in weight_hashes(directory).items():
            if record["weights"].get(name) != digest:
                raise InputError(
                    f"'{Path(directory) / name}' is not the file that {FILE} was written with; "
                    "run training to its end, or copy the whole folder"
                )
            require_tensors(Path(directory) / name)
        values = {field.name: record[field.name] for field in fields(cls)}
        return cls(**values | {"source": SourceSpec.from_dict(record["source"])})


def read_record(path: Path) -> dict[str, Any]:
    """The content of a `stage1.json`.

    Raises:
        InputError: not JSON, or a required field is missing.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"'{path}': not valid JSON ({error}); copy it from the training again"
        ) from error
    known = record if isinstance(record, dict) else {}
    needed = [*(field.name for field in fields(Stage1)), "weights"]
    missing = [name for name in needed if name not in known]
    missing += sorted(f"reading.{name}" for name in READING - set(known.get("reading", READING)))
    if missing:
        raise InputError(
            f"'{path}': no field '{missing[0]}'; it was written by another version, train again"
        )
    for network in ("image_network", "mask_network"):
        if known[network].pop("refine", 0):  # 0 in records of earlier versions
            raise InputError(
                f"'{path}': {network} has a refinement, which this version lacks; train again"
            )
    return known


def require_tensors(path: Path) -> None:
    """Refuse a file of weights that could run code when loaded.

    Everything, including MONAI's handlers, loads weights with `weights_only`; this check gives a
    one-line error.

    Raises:
        InputError: the file contains anything except tensors and plain values.
    """
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch's unpickler can raise any exception
        raise InputError(
            f"'{path}': not only tensors ({type(error).__name__}), so it was not loaded; use "
            "weights written by training"
        ) from error


def weight_hashes(directory: str) -> dict[str, str]:
    """SHA-256 of each weight file that exists in the folder, students included."""
    paths = [Path(directory) / name for name in WEIGHTS.values()]
    for name in STUDENTS.values():
        paths += sorted(Path(directory).glob(f"{name}_*.pt"))
    return {path.name: sha256(path) for path in paths if path.is_file()}
