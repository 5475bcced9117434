"""The ICBM152 template that the nilearn package ships, cut into axial slabs.

The template is one head: slabs stand in for the volumes of a data set, each one its own group.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from alignflow.errors import InputError

LABELS = {"0": "background", "1": "grey matter", "2": "white matter"}
CITATION = (
    "Fonov V, Evans AC, Botteron K, Almli CR, McKinstry RC, Collins DL. Unbiased average "
    "age-appropriate atlases for pediatric studies. NeuroImage 54(1):313-327, 2011. "
    "doi:10.1016/j.neuroimage.2010.07.033"
)
LICENCE = (
    "Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological "
    "Institute, McGill University. Permission to use, copy, modify, and distribute this software "
    "and its documentation for any purpose and without fee is hereby granted, provided that the "
    "above copyright notice appear in all copies. The authors and McGill University make no "
    'representations about the suitability of this software for any purpose. It is provided "as '
    'is" without express or implied warranty. The authors are not responsible for any data loss, '
    "equipment damage, property loss, or injury to subjects or patients resulting from the use or "
    "misuse of this software package."
)


class Template(NamedTuple):
    """The template's maps on one grid, each (X, Y, Z) uint8, and its 4x4 affine in mm."""

    t1: np.ndarray
    grey: np.ndarray
    white: np.ndarray
    affine: np.ndarray


class Slab(NamedTuple):
    """One case: image and label (X, Y, Z) uint8, the affine of its own voxel (0, 0, 0)."""

    name: str
    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray


def template_folder() -> Path:
    """The folder of nilearn's shipped files; `InputError` where nilearn is missing."""
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise InputError("nilearn is not installed: pip install nilearn")
    return Path(found.origin).parent / "datasets" / "data"


def load_template(folder: Path) -> Template:
    """Read T1 (0..255, skull-stripped) and the tissue probabilities (255 = 1) from `folder`."""
    images = []
    for kind in ("t1", "gm", "wm"):
        path = folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
        if not path.exists():
            raise InputError(f"{path}: missing; install the nilearn version of pyproject.toml")
        images.append(nib.Nifti1Image.from_filename(path))
    t1, grey, white = (np.asanyarray(image.dataobj) for image in images)
    return Template(t1, grey, white, images[0].affine)


def tissue_labels(grey: np.ndarray, white: np.ndarray) -> np.ndarray:
    """0 where neither probability reaches one half, else 1 (grey) or 2 (white), the likelier.

    Args:
        grey: probability of grey matter times 255, uint8, any shape.
        white: that of white matter, same shape.
    """
    likelier = np.where(white > grey, 2, 1)
    return np.where(np.maximum(grey, white) >= 128, likelier, 0).astype(np.uint8)


def square_window(brain: np.ndarray, side: int) -> tuple[slice, slice]:
    """The axial window of `side` x `side` voxels centred on the brain's bounding box.

    One square for all slices: resizing it to a square grid keeps voxels isotropic.

    Args:
        brain: (X, Y, Z) bool.
        side: voxels.

    Raises:
        InputError: the window is smaller than the brain or larger than the template.
    """
    window = []
    for axis, others in ((0, (1, 2)), (1, (0, 2))):
        inside = np.flatnonzero(brain.any(axis=others))
        first, last = int(inside[0]), int(inside[-1])
        start = (first + last + 1 - side) // 2
        if start < 0 or start + side > brain.shape[axis] or side < last - first + 1:
            raise InputError(
                f"--side {side}: does not hold the brain within the template; take 192"
            )
        window.append(slice(start, start + side))
    return window[0], window[1]


def cut_slabs(template: Template, side: int, thickness: int, min_tissue: int) -> Iterator[Slab]:
    """Axial slabs of the template, lowest first.

    Args:
        template: see `load_template`.
        side: voxels along the sides of the square axial window.
        thickness: slices in a slab; the last one may be thinner.
        min_tissue: slices with fewer labelled voxels are left out.
    """
    labels = tissue_labels(template.grey, template.white)
    window = square_window(template.t1 > 0, side)
    kept = np.flatnonzero((labels > 0).sum(axis=(0, 1)) >= min_tissue)
    if kept.size == 0:
        raise InputError(f"--min_tissue {min_tissue}: no slice has so much tissue; take 2000")
    bottom, top = int(kept[0]), int(kept[-1]) + 1
    for number, z in enumerate(range(bottom, top, thickness)):
        box = (*window, slice(z, min(z + thickness, top)))
        shift = np.eye(4)
        shift[:3, 3] = [part.start for part in box]
        name = f"slab_{number:02d}"
        yield Slab(name, template.t1[box], labels[box], template.affine @ shift)
