"""An image of the site for one mask, on the mask's own grid."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.transforms import Resize
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from alignflow.data.formats import load
from alignflow.data.intensity import to_dtype, unscale
from alignflow.data.slices import slice_axis_of, stack_slices
from alignflow.distillation.students import student_file
from alignflow.flow.sampler import ImageSampler
from alignflow.inference.noise import pair_noise
from alignflow.inference.weights import load_sampler
from alignflow.label.values import tool_index
from alignflow.label.volumes import write_like
from alignflow.networks.velocity import VelocityUNet
from alignflow.stage1 import STUDENTS, Stage1

TEACHER_STEPS = 8  # Euler steps, as alignment trains them


def load_image_sampler(model_dir: str | Path, stage1: Stage1, device: str) -> ImageSampler:
    """The image flow of a bundle: its best student, or the flow itself without students."""
    student = best_student(model_dir)
    sampler = load_sampler(
        VelocityUNet(**stage1.image_network),
        student_file(str(model_dir), "image", student),
        device,
        steps=student or TEACHER_STEPS,
        kind=ImageSampler,
    )
    assert isinstance(sampler, ImageSampler)
    return sampler


def best_student(model_dir: str | Path) -> int | None:
    """Steps of the student of most steps, the one nearest to the flow; None without students."""
    names = (path.stem for path in Path(model_dir).glob(f"{STUDENTS['image']}_*.pt"))
    return max((int(name.rsplit("_", 1)[1]) for name in names), default=None)


def synthesize_file(
    path: str | Path,
    sampler: nn.Module,
    stage1: Stage1,
    stem: str | Path,
    seed: int = 0,
    batch_size: int = 16,
) -> Path:
    """Write an image for the mask in a file, each slice of a volume by itself.

    Args:
        path: of the mask, with values of the tool or of the source.
        sampler: an `ImageSampler`.
        stage1: record of the bundle.
        stem: of the file to write, without suffix, see `write_like`.
        seed: of the noise.
        batch_size: slices at once.

    Returns:
        The path written, in the source's native units.

    Raises:
        InputError: a mask that cannot be read, or has a value that is no class.
    """
    mask = load(path, is_mask=True)
    threshold = stage1.reading["mask_threshold"]
    index = tool_index(mask.as_tensor(), stage1.source.labels, threshold, Path(path).name)
    values = draw(MetaTensor(index, meta=mask.meta), sampler, stage1, seed, batch_size)
    native = unscale(values, *stage1.source.window).numpy()
    return write_like(to_dtype(native, stage1.source.image_dtype), mask, stem)


@torch.no_grad()
def draw(
    index: MetaTensor, sampler: nn.Module, stage1: Stage1, seed: int, batch_size: int
) -> Tensor:
    """Image (C, X, Y, Z) in [-1, 1] for class indices (1, X, Y[, Z])."""
    axis = slice_axis_of(index, stage1.reading["slice_axis"])
    device = next(sampler.parameters()).device
    slices = stack_slices(index.as_tensor(), axis)
    smaller = Resize(stage1.image_size, mode="nearest-exact")
    larger = Resize(tuple(slices.shape[2:]), mode="bilinear", anti_aliasing=True)
    parts = []
    for first in range(0, len(slices), batch_size):
        batch = slices[first : first + batch_size].float()
        labels = torch.stack([_plain(smaller(mask)) for mask in batch]).to(torch.uint8)
        numbers = range(first, first + len(batch))
        noise = pair_noise(seed, numbers, "image", stage1.image_shape)
        x = torch.cat([noise, stage1.condition(labels)], dim=1)
        images = sampler(x.to(device)).float().cpu().clip(-1, 1)
        parts += [_plain(larger(image)) for image in images]
    return torch.stack(parts).movedim(0, axis + 1)


def _plain(tensor: Tensor) -> Tensor:
    return convert_to_tensor(tensor, track_meta=False)
