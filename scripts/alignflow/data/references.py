"""Images of a site without (or with) masks, read as the source was."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.transforms import Resize
from monai.utils import convert_to_tensor
from torch import Tensor

from alignflow.data.case import geometry_of
from alignflow.data.check import check_pair, raise_problems
from alignflow.data.datalist import build_datalist, lists_cases, read_json
from alignflow.data.folders import (
    by_name,
    find_folders,
    list_images,
    list_masks,
    masks_among,
    pair,
    short_names,
)
from alignflow.data.formats import load
from alignflow.data.intensity import Window, scale
from alignflow.data.labels import check_values, to_index
from alignflow.data.nnunet import FOLDERS as NNUNET_FOLDERS
from alignflow.data.nnunet import join_channels, require_channels
from alignflow.data.slices import is_single_slice, slice_axis_of, stack_slices
from alignflow.data.spec import Geometry
from alignflow.errors import InputError
from alignflow.stage1 import Stage1

logger = logging.getLogger(__name__)


@dataclass
class References:
    """Images of one site at the generator's size.

    Attributes:
        images: float32 (N, C, X, Y) in [-1, 1].
        labels: class indices uint8 (N, 1, X, Y), 0 where `given` is False; None without any mask.
        given: which images came with a mask.
        names: file of each image (see `folders.short_names`), with "[k]" for slice k of a volume.
        geometries: the grid that each image came on.
    """

    images: Tensor
    labels: Tensor | None
    given: list[bool]
    names: list[str]
    geometries: list[Geometry]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all images, for the provenance."""
        return hashlib.sha256(self.images.numpy().tobytes()).hexdigest()


@dataclass
class _Slice:
    image: Tensor
    label: Tensor | None
    name: str
    geometry: Geometry


def load_references(directory: str | Path, stage1: Stage1) -> References:
    """Read every image of a folder with the intensity policy, size and labels of stage 1.

    The folder holds images, or is a data set as `build_datalist` reads it, of which masks may be
    missing, or `imagesTs/` of nnU-Net. A folder within is a DICOM series, or a patient's. Volumes
    give all their slices but constant ones. Of duplicates (equal pixels) the first is kept and the
    others are named in a warning.

    Args:
        directory: the folder.
        stage1: record of the bundle.

    Raises:
        InputError: no images; and, all at once, images that are unreadable, constant, or of another
            channel count or modality than the source; masks that do not fit.
    """
    found: list[_Slice] = []
    problems: list[str] = []
    files = listed_files(Path(directory))
    names = short_names([image for image, _ in files])
    for name, (image_path, label_path) in zip(names, files, strict=True):
        try:
            found += _read(name, image_path, label_path, stage1)
        except InputError as error:
            problems.append(f"reference {error}")
    raise_problems(problems)
    kept = _without_duplicates(found)
    given = [s.label is not None for s in kept]
    labels = None
    if any(given):
        empty = torch.zeros(1, *stage1.image_size, dtype=torch.uint8)
        labels = torch.stack([empty if s.label is None else s.label for s in kept])
    return References(
        images=torch.stack([s.image for s in kept]),
        labels=labels,
        given=given,
        names=[s.name for s in kept],
        geometries=[s.geometry for s in kept],
    )


def listed_files(root: Path) -> list[tuple[str, str | None]]:
    """(image, mask or None) of each case in a folder of references.

    Raises:
        InputError: no such folder, no image in it, two images or masks of one stem where there are
            masks, several masks that fit an image, masks among the images, an image that lacks a
            channel, or a `dataset.json` that does not fit.
    """
    if not str(root) or not root.is_dir():
        raise InputError(f"references '{root}': no such folder; give a folder of images")
    folder, mask_dirs = find_folders(root)
    is_nnunet = folder.name in NNUNET_FOLDERS
    if lists_cases(root) and (mask_dirs or not is_nnunet):
        return [(case["image"], case["label"]) for case in build_datalist(root)]
    masks = {n: path for one in mask_dirs for n, path in by_name(list_masks(one), one).items()}
    files = list_images(folder, aside=mask_dirs)
    if not files:
        raise InputError(f"references '{folder}': no image in it; put the images there")
    if not masks and not is_nnunet:
        for path in masks_among(files, folder):
            raise InputError(
                f"references '{path}': a mask by its name, among images; put masks into "
                f"'{root / 'masks'}', and images into '{root / 'images'}'"
            )
        return [(str(path), None) for path in files]
    images = by_name(files, folder)
    if is_nnunet:
        images = join_channels(images, masks)
        require_channels(images.values(), read_json(root / "dataset.json"))
    paired = pair(images, masks)
    found = [(str(path), paired.get(name)) for name, path in images.items()]
    return [(image, None if mask is None else str(mask)) for image, mask in found]


def _read(name: str, image_path: str, label_path: str | None, stage1: Stage1) -> list[_Slice]:
    image = load(image_path)
    require_fit(image, stage1)
    label = None if label_path is None else _label(image, label_path, stage1)
    window = window_of(image, stage1)
    axis = slice_axis_of(image, stage1.reading["slice_axis"])
    images = stack_slices(image.as_tensor(), axis)
    labels = [None] * len(images) if label is None else list(stack_slices(label, axis))
    if is_single_slice(image):
        geometry = geometry_of(image, images[0], axis, 0)
        return [_small(images[0], labels[0], name, window, geometry, stage1)]
    return [
        _small(pixels, mask, f"{name}[{k}]", window, geometry_of(image, pixels, axis, k), stage1)
        for k, (pixels, mask) in enumerate(zip(images, labels, strict=True))
        if pixels.min() < pixels.max()
    ]


def window_of(image: MetaTensor, stage1: Stage1) -> Window:
    """The window (low, high) in native units that an image of the site is scaled by."""
    if stage1.reading["scope"] == "volume":
        return stage1.intensity.window_of(image, stage1.source.modality)
    return stage1.source.window


def require_fit(image: MetaTensor, stage1: Stage1) -> None:
    """Refuse an image (C, X, Y[, Z]) that the source's networks cannot take.

    Raises:
        InputError: other channels or another modality than the source, values that are not finite,
            or all equal.
    """
    name, source = Path(image.meta["filename_or_obj"]).name, stage1.source
    intensity = stage1.intensity
    if image.shape[0] != source.channels:
        raise InputError(
            f"'{name}': {image.shape[0]} channels, but the source has {source.channels}; convert "
            "it, or train on a source with as many"
        )
    # A folder of bare images states no modality: what is unknown is taken for the source's.
    modality = intensity.modality_of(image, source.modality)
    if modality != source.modality:
        raise InputError(
            f"'{name}': {modality}, but the source is {source.modality}; "
            'remove it, or train with "modality" set'
        )
    if not torch.isfinite(image).all():
        raise InputError(f"'{name}': values that are not finite; repair or remove it")
    if image.min() == image.max():
        raise InputError(f"'{name}': all pixels are {image.min().item():g}; remove it")


def _label(image: MetaTensor, path: str, stage1: Stage1) -> Tensor:
    threshold = stage1.reading["mask_threshold"]
    mask = load(path, is_mask=True, image=image, structures=stage1.structures)
    check_pair(image, mask, integer_label=threshold is None)
    if threshold is not None:
        return (mask.as_tensor() > threshold).to(torch.uint8)
    check_values(path, mask.unique().tolist(), stage1.source.labels)
    return to_index(mask.as_tensor(), stage1.source.labels)


def _small(
    image: Tensor,
    label: Tensor | None,
    name: str,
    window: Window,
    geometry: Geometry,
    stage1: Stage1,
) -> _Slice:
    mask = None
    if label is not None:
        nearest = Resize(stage1.image_size, mode="nearest-exact")(label.contiguous().float())
        mask = convert_to_tensor(nearest, track_meta=False).to(torch.uint8)
    return _Slice(small_image(image, window, stage1.image_size), mask, name, geometry)


def small_image(image: Tensor, window: Window, size: list[int]) -> Tensor:
    """A slice (C, A, B) in native units as the networks take it, (C, X, Y) in [-1, 1].

    Resized first, then scaled, as in training.
    """
    small = Resize(size, mode="bilinear", anti_aliasing=True)(image.contiguous())
    return scale(convert_to_tensor(small, track_meta=False).float(), *window)


def _without_duplicates(slices: list[_Slice]) -> list[_Slice]:
    first: dict[str, _Slice] = {}
    for part in slices:
        digest = hashlib.sha256(part.image.numpy().tobytes()).hexdigest()
        if digest in first:
            logger.warning(
                "reference '%s' is a duplicate of '%s'; counted once", part.name, first[digest].name
            )
        first.setdefault(digest, part)
    return list(first.values())
