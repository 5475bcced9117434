"""Generated images and masks to files of the source's own format and geometry."""

from __future__ import annotations

from pathlib import Path

import itk
import nibabel
import numpy as np
import torch
from monai.data import ITKWriter, NibabelWriter, PILWriter
from monai.transforms import Resize
from monai.transforms.utils import scale_affine
from monai.utils import convert_to_tensor

from alignflow.data.dicom_seg import dicom_segmentation
from alignflow.data.dicom_writer import dicom_series, save_dicom
from alignflow.data.formats import NIFTI_SUFFIXES, PIL_SUFFIXES, channel_name, split_suffix
from alignflow.data.intensity import to_dtype
from alignflow.data.labels import to_native
from alignflow.data.nnunet import file_ending, is_colour_file, labels_of
from alignflow.data.spec import Geometry, SourceSpec, writable_dtype
from alignflow.errors import InputError
from alignflow.files import replacing


def write_image(
    image: np.ndarray | torch.Tensor,
    stem: str | Path,
    spec: SourceSpec,
    geometry: Geometry,
    native_size: bool = True,
) -> Path:
    """Write one generated image, or a volume of slices.

    Args:
        image: (C, X, Y) or (C, X, Y, Z) in native units.
        stem: the path without its suffix, which `spec` states.
        spec: of the source.
        geometry: the grid of the source slice that the file is written on, of a volume that of its
            first slice.
        native_size: resample (bilinearly) to the shape of `geometry`; else keep the generator's
            grid, with an affine that covers the same field of view.

    Returns:
        The path written.
    """
    values, affine = _place_image(image, geometry, native_size)
    pixels = to_dtype(values, spec.image_dtype)
    return write_volume(pixels, Path(f"{stem}{spec.image_suffix}"), affine)


def write_label(
    index: np.ndarray | torch.Tensor,
    stem: str | Path,
    spec: SourceSpec,
    geometry: Geometry,
    native_size: bool = True,
) -> Path:
    """Write one generated mask with the native label values of the source.

    Args:
        index: (X, Y), (1, X, Y) or (1, X, Y, Z), class indices.
        stem, spec, geometry, native_size: as for `write_image`; the classes are resampled one by
            one and the largest wins, which keeps contours smooth and invents no class.

    Returns:
        The path written.
    """
    classes, affine = _place_label(index, len(spec.labels), geometry, native_size)
    pixels = to_native(classes, spec.labels, spec.label_dtype)
    return write_volume(pixels[None], Path(f"{stem}{spec.label_suffix}"), affine)


def pair_name(index: int) -> str:
    """File name of a pair, without suffix."""
    return f"pair_{index:05d}"


def write_dicom_pair(
    image: np.ndarray | torch.Tensor,
    index: np.ndarray | torch.Tensor,
    folders: tuple[Path, Path],
    spec: SourceSpec,
    geometry: Geometry,
    run: str,
    number: int,
    native_size: bool = True,
    date: str = "",
) -> list[Path]:
    """Write one generated pair as a DICOM series and a DICOM segmentation that refers to it.

    Args:
        image, index, spec, geometry, native_size: as for `write_image` and `write_label`.
        folders: of images and of masks. The image is `pair_NUMBER.dcm`, or the slices of a volume
            `pair_NUMBER/000001.dcm` and so on; the mask is `pair_NUMBER.dcm`.
        run: what tells this run from others, for the UIDs.
        number: of the pair.
        date: of the study, see `dicom_series`.

    Returns:
        The paths, that of the mask last.

    Raises:
        InputError: channels or a grid that DICOM has no place for, or highdicom is missing.
    """
    values, affine = _place_image(image, geometry, native_size)
    classes, _ = _place_label(index, len(spec.labels), geometry, native_size)
    if np.linalg.det(affine[:3, :3]) < 0:  # DICOM counts slices along the normal of row and column
        values, classes, affine = _reversed(values, classes, affine)
    known = None if geometry["affine"] is None else affine
    series = dicom_series(values, known, spec, run, number, date)
    # Made before any is written: a pair is whole or not there.
    segmentation = dicom_segmentation(classes, spec.labels, series, run)
    name = folders[0] / pair_name(number)
    paths = [name / f"{k:06d}.dcm" for k in range(1, len(series) + 1)]
    if len(series) == 1:
        paths = [name.with_suffix(".dcm")]
    paths.append(folders[1] / f"{pair_name(number)}.dcm")
    return [save_dicom(d, path) for d, path in zip([*series, segmentation], paths, strict=True)]


def write_nnunet_pair(
    image: np.ndarray | torch.Tensor,
    index: np.ndarray | torch.Tensor,
    root: Path,
    spec: SourceSpec,
    geometry: Geometry,
    name: str,
    native_size: bool = True,
) -> list[Path]:
    """Write one generated pair as a case of an nnU-Net data set, version 2.

    Args:
        image, index, spec, geometry, native_size: as for `write_image` and `write_label`.
        root: of the data set: `imagesTr/NAME_0000.png`, a file for each channel but one for all of
            a colour picture, and `labelsTr/NAME.png` with the values of `nnunet.labels_of`.
        name: of the case.

    Returns:
        The paths, that of the mask last.
    """
    suffix = file_ending(spec)
    values, affine = _place_image(image, geometry, native_size)
    classes, _ = _place_label(index, len(spec.labels), geometry, native_size)
    pixels = to_dtype(values, writable_dtype(spec.image_dtype, suffix, 1))
    masks = to_native(classes, labels_of(spec.labels), "uint8")
    parts = [pixels] if is_colour_file(spec) else np.split(pixels, len(pixels))
    path = root / f"imagesTr/{name}{suffix}"
    written = [write_volume(p, channel_name(path, k), affine) for k, p in enumerate(parts)]
    return [*written, write_volume(masks[None], root / f"labelsTr/{name}{suffix}", affine)]


def _reversed(
    values: np.ndarray, classes: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The last slice first; every voxel stays where it is in space."""
    flip = np.eye(4)
    flip[2, 2:] = -1, values.shape[3] - 1
    return values[..., ::-1], classes[..., ::-1], affine @ flip


def _place_image(
    image: np.ndarray | torch.Tensor, geometry: Geometry, native_size: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(C, X, Y, Z) and its affine."""
    values = torch.as_tensor(image, dtype=torch.float32)
    values = values if values.ndim == 4 else values[..., None]
    if native_size:
        values = _resize(values, geometry["shape"])
    return values.numpy(), _affine(geometry, (values.shape[1], values.shape[2]))


def _place_label(
    index: np.ndarray | torch.Tensor, num_classes: int, geometry: Geometry, native_size: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(X, Y, Z) and its affine."""
    classes = torch.as_tensor(index).long()
    classes = classes[0] if classes.ndim > 2 else classes
    classes = classes if classes.ndim == 3 else classes[..., None]
    if native_size:
        classes = _resize_classes(classes, num_classes, geometry["shape"])
    return classes.numpy(), _affine(geometry, (classes.shape[0], classes.shape[1]))


def _resize(values: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """(C, X, Y, Z) to (C, *shape, Z), slice by slice."""
    slices = values.movedim(3, 1).flatten(0, 1)
    resized = Resize(spatial_size=shape, mode="bilinear", anti_aliasing=True)(slices)
    plain = convert_to_tensor(resized, track_meta=False)
    return plain.unflatten(0, (values.shape[0], values.shape[3])).movedim(1, 3)


def _resize_classes(classes: torch.Tensor, num_classes: int, shape: list[int]) -> torch.Tensor:
    if list(classes.shape[:2]) == list(shape):
        return classes
    one_hot = torch.nn.functional.one_hot(classes, num_classes).movedim(-1, 0).float()
    return _resize(one_hot, shape).argmax(0)


def _affine(geometry: Geometry, size: tuple[int, int]) -> np.ndarray:
    """The affine that lays a grid of `size` over the field of view of `geometry`."""
    affine = np.eye(4) if geometry["affine"] is None else np.array(geometry["affine"])
    return affine @ scale_affine([*geometry["shape"], 1], [*size, 1], centered=True)


def write_volume(pixels: np.ndarray, path: Path, affine: np.ndarray) -> Path:
    """Write values as they are.

    Args:
        pixels: (C, X, Y, Z), of a dtype that the format holds.
        path: whose suffix chooses the format.
        affine: RAS, mm; a picture file has no place for it.

    Raises:
        InputError: several slices for a picture file.
    """
    suffix = split_suffix(path)[1]
    if suffix in PIL_SUFFIXES and pixels.shape[3] > 1:
        raise InputError(
            f'config "whole_volumes": the source is {suffix}, which holds no volume; '
            'set it to false, or "output_format" to "dicom"'
        )
    with replacing(path) as temporary:
        if suffix in PIL_SUFFIXES:
            _save_pil(pixels[..., 0], temporary)
        elif suffix in NIFTI_SUFFIXES:
            _save_nifti(pixels, temporary, affine)
        else:
            _save_itk(pixels, temporary, affine)
    return path


def _save_pil(pixels: np.ndarray, path: Path) -> None:
    channel_last = np.moveaxis(pixels, 0, -1)
    picture = channel_last[..., 0] if len(pixels) == 1 else channel_last
    image = PILWriter.create_backend_obj(np.ascontiguousarray(picture), pixels.dtype, scale=None)
    options = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}
    image.save(path, **options)


def _save_nifti(pixels: np.ndarray, path: Path, affine: np.ndarray) -> None:
    volume = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
    image = NibabelWriter.create_backend_obj(volume, affine=affine, dtype=pixels.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nibabel.save(image, path)


def _save_itk(pixels: np.ndarray, path: Path, affine: np.ndarray) -> None:
    is_vector = len(pixels) > 1
    volume = np.moveaxis(pixels, 0, -1) if is_vector else pixels[0]
    image = ITKWriter.create_backend_obj(
        volume, channel_dim=-1 if is_vector else None, affine=affine, dtype=pixels.dtype
    )
    itk.imwrite(image, str(path))
