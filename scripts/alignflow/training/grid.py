"""Pictures of samples at each validation."""

from __future__ import annotations

from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from alignflow.data.dataset import SliceDataset
from alignflow.flow.sampler import FlowSampler
from alignflow.masks.class_index import Scheme
from alignflow.masks.distance import from_distance
from alignflow.pictures import (
    first_batch,
    image_tiles,
    mask_tiles,
    outline_tiles,
    save_sheet,
    y_points_up,
)
from alignflow.training.update import Target


class SampleGrid:
    """Handler of a validator: shows samples for held-out conditions beside the held-out data.

    For the image flow: the real image with its mask's outline, the generated image with the same
    outline, and the generated image alone. For the mask flow: the real mask, and a generated mask
    with the same area and position.

    Args:
        directory: receives NAME_epoch_NNNN.png.
        name: name of the flow.
        sampler: sampler with the averaged network.
        dataset: held-out slices.
        target: function that returns data and condition of the flow.
        device: device of the sampler.
        size: number of samples.
        scheme: scheme of the distance maps; only used for masks.
        seed: random seed of the noise, the same at every validation.
    """

    def __init__(
        self,
        *,
        directory: str,
        name: str,
        sampler: FlowSampler,
        dataset: SliceDataset,
        target: Target,
        device: str,
        size: int = 16,
        scheme: Scheme = "disjoint",
        seed: int = 0,
    ) -> None:
        self.directory = Path(directory)
        self.name = name
        self.sampler = sampler.to(device)
        self.batch = first_batch(dataset, size)
        self.target = target
        self.device = device
        self.scheme = scheme
        self.y_up = y_points_up(dataset.spec)
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register on a validator; MONAI's ValidationHandler gives it the trainer's epoch."""
        engine.add_event_handler(Events.COMPLETED, self)

    @idist.one_rank_only()
    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        """Sample and write the picture."""
        data, condition = self.target(self.batch)
        noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(self.seed))
        condition = {name: c.to(self.device) for name, c in condition.items()}
        # In full precision, as in `infer`: bf16 would add grain.
        sample = self.sampler(noise.to(self.device), **condition).cpu()
        path = self.directory / f"{self.name}_epoch_{engine.state.epoch:04d}.png"
        label = self.batch["label"]
        if "condition" in condition:
            real, fake = outline_tiles(data, label), outline_tiles(sample, label)
            rows = [real, fake, image_tiles(sample)]
        else:
            rows = [mask_tiles(label), mask_tiles(from_distance(sample, self.scheme))]
        save_sheet(path, rows, columns=8, y_up=self.y_up)
