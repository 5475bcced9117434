"""A trained segmenter on disk: weights, and the information needed to use them."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignflow.errors import InputError
from alignflow.files import replacing, save_tensors, sha256
from alignflow.inference.writing import versions
from alignflow.segmentation.keep import KeepWeights
from alignflow.segmentation.network import build_network, load_weights

logger = logging.getLogger(__name__)

FILE = "segmenter.json"
WEIGHTS = "segmenter.pt"


@dataclass
class SegmenterRecord:
    """Content of `segmenter.json`, beside `segmenter.pt`.

    Attributes:
        network: config of the network, "_target_" and its arguments.
        channels: C of its images.
        labels: name -> native value, in the order of class indices, background first.
        image_size: [X, Y] that images are read at, pixels.
        window: (low, high) of the source in native units, which map to -1 and 1.
        reading: how images are read, see `Stage1`.
        inferer_mode: "resize" or "sliding".
        provenance: config and its hash, seed, versions, hashes of weights, numbers of pairs.
        validation: Dice and IoU on the source's validation split, see `KeepWeights.scores`.
    """

    network: dict[str, Any]
    channels: int
    labels: dict[str, float]
    image_size: list[int]
    window: list[float]
    reading: dict[str, Any]
    inferer_mode: str
    provenance: dict[str, Any]
    validation: dict[str, Any] = field(default_factory=dict)

    def save(self, directory: str | Path, kept: KeepWeights, config: dict[str, Any]) -> None:
        """Write weights and record.

        Args:
            directory: receives `segmenter.pt` and `segmenter.json`.
            kept: weights, and their scores on the validation split.
            config: config of the run.

        Raises:
            InputError: the weights are not finite.
        """
        require_finite(kept.state)
        weights = Path(directory) / WEIGHTS
        save_tensors(kept.state, weights)
        text = json.dumps(config, sort_keys=True, default=str)
        self.validation = kept.scores
        self.provenance |= {
            "config": json.loads(text),
            "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "weights_sha256": sha256(weights),
            "versions": versions(),
        }
        with replacing(weights.with_name(FILE)) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        logger.info(
            "wrote %s and %s to '%s'; Dice on the validation images %.3f",
            WEIGHTS,
            FILE,
            directory,
            kept.scores["dice"]["mean"],
        )

    @classmethod
    def load(cls, directory: str | Path) -> SegmenterRecord:
        """Read the record of a trained segmenter and check its weights against it.

        Raises:
            InputError: files are missing or damaged, or the weights are of another run.
        """
        path = Path(directory) / FILE
        for needed in (path, path.with_name(WEIGHTS)):
            if not needed.is_file():
                raise InputError(f"'{needed}': no such file; run segment, or set segmenter_dir")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            record = cls(**{one.name: content[one.name] for one in fields(cls)})
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"'{path}': damaged or of another version ({error}); run segment again"
            ) from error
        if record.provenance.get("weights_sha256") != sha256(path.with_name(WEIGHTS)):
            raise InputError(
                f"'{path.with_name(WEIGHTS)}' is not the file that {FILE} was written with; "
                "run segment to its end, or copy the whole folder"
            )
        return record

    def build(self, directory: str | Path, device: str | torch.device) -> nn.Module:
        """The network with the weights in `directory`, on `device`, in eval mode."""
        network = build_network(self.network, f"'{Path(directory) / FILE}', field 'network'")
        load_weights(network, Path(directory) / WEIGHTS)
        return network.to(device).eval()


def load_labeller(directory: str | None, device: str | torch.device) -> nn.Module | None:
    """The segmenter that predicts masks of references; None without a folder."""
    return None if directory is None else SegmenterRecord.load(directory).build(directory, device)


def require_finite(state: dict[str, Tensor]) -> None:
    """Raise `InputError` if weights are NaN or infinite."""
    broken = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise InputError(
            f"segmenter: weights '{broken[0]}' are not finite after training; "
            "lower learning_rate, or set precision to fp32"
        )
