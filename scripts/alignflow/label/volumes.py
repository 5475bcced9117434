"""Results on the grid of the file that they were made from."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
import torch
from monai.data import MetaTensor, PILWriter
from monai.transforms import ResampleToMatch
from torch import Tensor

from alignflow.data.formats import has_geometry, split_suffix
from alignflow.data.slices import slice_axis_of, stack_slices
from alignflow.data.spec import Geometry
from alignflow.data.transforms import OF_THE_FILE, geometry_of
from alignflow.errors import InputError
from alignflow.files import replacing

ANSWERS = (".nrrd", ".nii", ".nii.gz")
"""Formats that a client may ask for, beside the image's own."""


def write_like(values: np.ndarray, like: MetaTensor, stem: str | Path) -> Path:
    """Write an image or a mask with the affine of a loaded file.

    Args:
        values: (C, X, Y, Z) in the type to write.
        like: what `formats.load` or `file_grid` gave for the file.
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


def in_format(path: Path, suffix: str | None) -> Path:
    """The file in the format that a client asks for, which takes its place; None: as it is.

    Raises:
        InputError: another format, or a picture's for a volume.
    """
    if not suffix or suffix == split_suffix(path)[1]:
        return path
    if suffix not in ANSWERS:
        raise InputError(f"result_extension '{suffix}': cannot be sent; give {', '.join(ANSWERS)}")
    made = path.with_name(path.name.removesuffix(split_suffix(path)[1]) + suffix)
    # viewers read NRRD without compression alone
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)), str(made), False)
    path.unlink()
    return made


def file_grid(part: MetaTensor) -> MetaTensor:
    """The grid of the file that a slice is of, as an image without voxels of its own."""
    meta = {name: part.meta[name] for name in OF_THE_FILE if name in part.meta}
    voxels = torch.zeros(1).expand(1, *meta["spatial_shape"])
    return MetaTensor(voxels, affine=torch.as_tensor(meta["original_affine"]), meta=meta)


def on_grid(index: Tensor, geometry: Geometry, image: MetaTensor, slice_axis: int) -> np.ndarray:
    """Class indices on the grid of a file, whatever preprocessing made of that grid.

    Args:
        index: (1, A, B, n), the slices one behind the other.
        geometry: of the first slice.
        image: the file, as `file_grid` gives it.
        slice_axis: that it was cut along.

    Returns:
        (1, X, Y, Z).

    Raises:
        InputError: another grid than that of a picture, which has no place in space.
    """
    axis = slice_axis_of(image, slice_axis)
    whole = stack_slices(image.as_tensor(), axis)
    own = geometry_of(image, whole[0], axis, 0)
    if (*own["shape"], len(whole)) == tuple(index.shape[1:]) and _alike(own, geometry):
        return index.movedim(-1, axis + 1).numpy()
    if own["affine"] is None:
        raise InputError(
            f"'{image.meta['filename_or_obj']}': preprocessing changes its grid, and a picture has "
            "no place in space to bring the mask back to; leave such transforms out"
        )
    cut = MetaTensor(index.float(), affine=torch.tensor(geometry["affine"]))
    native = ResampleToMatch(mode="nearest", padding_mode="zeros")(cut, img_dst=image)
    return np.rint(native.numpy()).astype(np.int64)


def _alike(one: Geometry, other: Geometry) -> bool:
    if one["affine"] is None or other["affine"] is None:
        return True
    return np.allclose(one["affine"], other["affine"], atol=1e-3)


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
