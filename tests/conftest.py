"""Fixtures that several test files share: tiny data sets made on the spot."""

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

# tiny tensors: a pool of threads costs more than it gives
torch.set_num_threads(1)


def disc(shape, radius, centre=None):
    """A filled disc (bool) of `radius` pixels in `shape`, at its middle by default."""
    middle = [(size - 1) / 2 for size in shape] if centre is None else centre
    grid = np.indices(shape)
    distance = sum((axis - point) ** 2 for axis, point in zip(grid, middle, strict=True))
    return distance <= radius**2


def nested_discs(shape, radius):
    """Labels 0, 1 (ring) and 2 (core)."""
    return disc(shape, radius).astype(np.uint8) + disc(shape, radius / 2)


@pytest.fixture
def nifti_dataset(tmp_path):
    """MSD-style folder of 3 MR-like volumes, 24 x 20 x 6 at 1.5 x 1.5 x 3 mm, labels 0..2."""
    root = tmp_path / "nifti"
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    affine[:3, 3] = [-10.0, 5.0, 20.0]
    rng = np.random.default_rng(0)
    training = []
    for number in range(3):
        radii = 3 + number + np.arange(6) / 2
        label = np.stack([nested_discs((24, 20), radius) for radius in radii], axis=-1)
        image = (100 * (1 + label) + rng.normal(0, 5, label.shape)).astype(np.float32)
        case = {"group": f"patient{number}"}
        for key, volume in (("image", image), ("label", label)):
            path = root / f"{key}s" / f"case{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(volume, affine), path)
            case[key] = f"./{path.relative_to(root).as_posix()}"
        training.append(case)
    description = {
        "name": "discs",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "ring", "2": "core"},
        "numTraining": 3,
        "training": training,
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return root


@pytest.fixture
def png_dataset(tmp_path):
    """`images/` (RGB, 32 wide and 24 high) with `masks/` (grey 0 or 255), 6 pairs."""
    root = tmp_path / "png"
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(6):
        mask = disc((24, 32), 4 + number)
        image = rng.integers(60, 90, (24, 32, 3)) + 100 * mask[..., None]
        Image.fromarray(image.astype(np.uint8)).save(root / f"images/{number:03d}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / f"masks/{number:03d}.png")
    return root
