"""Images of a site without (or with) masks, read as the source was."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch import Tensor

from alignflow.data.check import raise_problems
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
from alignflow.data.nnunet import FOLDERS as NNUNET_FOLDERS
from alignflow.data.nnunet import join_channels, require_channels
from alignflow.data.preprocessing import Preprocessing, read
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
    """Read every image of a folder by the preprocessing of stage 1.

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
    preprocessing = stage1.preprocessing(foreground_only=False)
    for name, (image_path, label_path) in zip(names, files, strict=True):
        try:
            found += _read(name, image_path, label_path, stage1, preprocessing)
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


def _read(
    name: str, image_path: str, label_path: str | None, stage1: Stage1, preprocessing: Preprocessing
) -> list[_Slice]:
    item = (
        {"image": image_path} if label_path is None else {"image": image_path, "label": label_path}
    )
    # A folder of bare images states no modality: what is unknown is taken for the source's.
    slices = read(preprocessing, item | {"modality": stage1.source.modality})
    require_fit(slices[0]["image"], stage1)
    found = []
    for part in slices:
        image, meta = convert_to_tensor(part["image"], track_meta=False), part["image"].meta
        label = convert_to_tensor(part["label"], track_meta=False) if label_path else None
        if meta["slice"] is None:
            found.append(_Slice(image, label, name, meta["geometry"]))
        elif image.min() < image.max():
            found.append(_Slice(image, label, f"{name}[{meta['slice']}]", meta["geometry"]))
    return found


def require_fit(image: MetaTensor, stage1: Stage1) -> None:
    """Refuse an image (C, X, Y) that the source's networks cannot take.

    Raises:
        InputError: other channels or another modality than the source.
    """
    name, source = Path(image.meta["filename_or_obj"]).name, stage1.source
    if image.shape[0] != source.channels:
        raise InputError(
            f"'{name}': {image.shape[0]} channels, but the source has {source.channels}; convert "
            'it, or train with "channels" set to 3 (gray is repeated) or 1 (the mean of colours)'
        )
    if image.meta["modality"] != source.modality:
        raise InputError(
            f"'{name}': {image.meta['modality']}, but the source is {source.modality}; "
            'remove it, or train with "modality" set'
        )


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
