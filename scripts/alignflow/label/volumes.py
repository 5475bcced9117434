"""Results on the grid of the file that they were made from."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from monai.data import MetaTensor, PILWriter

from alignflow.data.formats import has_geometry
from alignflow.files import replacing


def write_like(values: np.ndarray, like: MetaTensor, stem: str | Path) -> Path:
    """Write an image or a mask with the affine of a loaded file.

    Args:
        values: (C, X, Y, Z) in the type to write.
        like: what `formats.load` gave for the file.
        stem: the path without suffix: ".png" where that file was a picture, else ".nii.gz".

    Returns:
        The path written.
    """
    path = Path(f"{stem}{'.nii.gz' if has_geometry(like) else '.png'}")
    with replacing(path) as temporary:
        if has_geometry(like):
            _save_nifti(values, temporary, like.affine.numpy())
        else:
            _save_png(values[..., 0], temporary)
    return path


def _save_nifti(values: np.ndarray, path: Path, affine: np.ndarray) -> None:
    volume = values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
    image = nibabel.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nibabel.save(image, path)


def _save_png(values: np.ndarray, path: Path) -> None:
    picture = values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
    PILWriter.create_backend_obj(np.ascontiguousarray(picture), values.dtype, scale=None).save(path)
