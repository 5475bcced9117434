"""Couplings of noise and data: the teacher's samples and their noise, generated once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from monai.data import Dataset
from torch import Tensor
from tqdm import tqdm

from alignflow.device import Precision
from alignflow.distributed import rank, world
from alignflow.errors import InputError
from alignflow.files import load_tensors, replacing, save_tensors
from alignflow.flow.sampler import FlowSampler
from alignflow.inference.masks import MaskGenerator
from alignflow.inference.noise import pair_noise
from alignflow.stage1 import Stage1
from alignflow.training.checkpoint import Identity

logger = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


class ImageCoupling(Dataset):
    """Pairs (noise, image) of the image flow, each for a mask of the mask flow.

    Source: rectified flow's coupling (Z_0, Z_1), Liu et al., arXiv 2209.03003, sec. 2.1.
    Item: {"noise" (C, X, Y), "data" (C, X, Y), "condition" (2K-1, X, Y)}. Images and masks are kept
    in memory and on disk; noise is computed from the pair's number, condition maps from the mask.

    Args:
        stage1: record of the generator.
        masks: draws masks; its seed should differ from those of inference.
        sampler: the teacher.
        precision: autocast of sampling.
        device: device of the teacher.
        count: number of pairs.
        directory: folder of the pairs, see `generate_cached`.
        identity: facts that the pairs depend on.
    """

    def __init__(
        self,
        *,
        stage1: Stage1,
        masks: MaskGenerator,
        sampler: FlowSampler,
        precision: Precision,
        device: str,
        count: int,
        directory: str,
        identity: dict[str, Any],
    ) -> None:
        self.stage1 = stage1
        self.masks = masks
        self.sampler = sampler
        self.precision = precision
        self.device = device
        drawn = generate_cached(directory, count, self.draw, identity, "teacher's images")
        self.images, self.labels = drawn["data"], drawn["label"]
        super().__init__(range(count))

    @torch.no_grad()
    def draw(self, indices: list[int]) -> Tensors:
        """Images float32 (B, C, X, Y) and masks uint8 (B, 1, X, Y) of these pairs."""
        label = self.masks(indices)
        maps = self.stage1.condition(label).to(self.device)
        with self.precision.autocast():
            image = self.sampler(self.noise(indices).to(self.device), condition=maps)
        return {"data": image.float().cpu(), "label": label}

    def noise(self, indices: list[int]) -> Tensor:
        """Noise x_0 (B, C, X, Y) of these pairs."""
        return pair_noise(self.masks.seed, indices, "image", self.stage1.image_shape)

    def __getitem__(self, index: int) -> Tensors:  # type: ignore[override]
        condition = self.stage1.condition(self.labels[index][None])[0]
        [noise] = self.noise([index])
        return {"noise": noise, "data": self.images[index], "condition": condition}


class MaskCoupling(Dataset):
    """Pairs (noise, distance maps) of the mask flow, each for a description.

    Item: {"noise" (K-1, X, Y), "data" (K-1, X, Y), "vector" (1 + 4 (K-1),)}. No mask is
    rejected, so that the student learns everything the teacher draws.

    Args:
        masks: the teacher and its descriptions.
        count, directory, identity: see `ImageCoupling`.
    """

    def __init__(
        self, *, masks: MaskGenerator, count: int, directory: str, identity: dict[str, Any]
    ) -> None:
        self.masks = masks
        self.drawn = generate_cached(directory, count, self.draw, identity, "teacher's masks")
        super().__init__(range(count))

    def draw(self, indices: list[int]) -> Tensors:
        """Distance maps (B, K-1, X, Y) and descriptions of these pairs."""
        noise, vector = self.masks.start(indices)
        return {"data": self.masks.distances(noise, vector), "vector": vector}

    def __getitem__(self, index: int) -> Tensors:  # type: ignore[override]
        [noise] = self.masks.noise([index])
        return {"noise": noise} | {name: drawn[index] for name, drawn in self.drawn.items()}


def generate_cached(
    directory: str | Path,
    count: int,
    draw: Callable[[list[int]], Tensors],
    identity: dict[str, Any],
    name: str,
    part: int = 16,
) -> Tensors:
    """Tensors of pairs 0 to `count` - 1, one row each, loaded from the folder or generated.

    They are written atomically in parts: a stopped run resumes at the next part, and a damaged part
    is generated again. Each of several processes generates its share of the parts and loads all.

    Args:
        directory: folder of the parts; created.
        count: number of pairs.
        draw: generates the tensors of pairs, given their numbers.
        identity: JSON-compatible facts that the pairs depend on, saved with them.
        name: name of the progress bar.
        part: pairs per part.

    Raises:
        InputError: the pairs in the folder depend on other facts.
    """
    folder = Path(directory)
    facts = folder / "coupling.json"
    if facts.is_file():
        Identity(identity, folder).load_state_dict(_facts_of(facts))
    elif rank() == 0:
        with replacing(facts) as temporary:
            temporary.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
    paths = [folder / f"part-{k:05d}.pt" for k in range(-(-count // part))]
    own = range(rank(), len(paths), world())
    for k in tqdm(own, desc=name, unit="part", disable=rank() > 0):
        if not _is_whole(paths[k]):
            drawn = draw(list(range(k * part, min((k + 1) * part, count))))
            save_tensors(drawn, paths[k])
    idist.barrier()
    parts = [load_tensors(path) for path in paths]
    return {key: torch.cat([one[key] for one in parts]) for key in parts[0]}


def _is_whole(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        load_tensors(path)
    except InputError as error:
        logger.warning("%s; generating it again", error)
        return False
    return True


def _facts_of(path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"'{path}': damaged ({error}); delete its folder to generate the pairs again"
        ) from error
    return facts
