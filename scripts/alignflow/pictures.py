"""Draws sample grids and contact sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from monai.data import Dataset
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries
from torch import Tensor
from torch.utils.data import default_collate

from alignflow.data.spec import SourceSpec
from alignflow.files import replacing

COLOURS = np.array(
    [[0, 0, 0], [86, 180, 233], [240, 228, 66], [204, 121, 167], [0, 158, 115], [230, 159, 0]],
    dtype=np.uint8,
)
"""Colour of each class, repeated if there are more; the colour-blind safe palette of Okabe and Ito
(2008)."""
TILE = 160
"""Approximate longest side of tiles in named rows, pixels."""


def image_tiles(images: Tensor) -> np.ndarray:
    """uint8 (N, X, Y, 3) from images (N, C, X, Y) in [-1, 1]; shows channel 0 if C is not 3."""
    images = images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)
    scaled = images.float().clamp(-1, 1).add(1).mul(127.5).round().byte()
    return scaled.permute(0, 2, 3, 1).cpu().numpy()


def mask_tiles(labels: Tensor) -> np.ndarray:
    """uint8 (N, X, Y, 3) from class indices (N, 1, X, Y)."""
    return class_colours(labels[:, 0].cpu().numpy())


def outline_tiles(images: Tensor, labels: Tensor) -> np.ndarray:
    """Images with the outline of each class drawn on them, uint8 (N, X, Y, 3)."""
    tiles, classes = image_tiles(images).copy(), labels[:, 0].cpu().numpy()
    for tile, mask in zip(tiles, classes, strict=True):
        edge = find_boundaries(mask, mode="inner")
        tile[edge] = class_colours(mask)[edge]
    return tiles


def class_colours(classes: np.ndarray) -> np.ndarray:
    """uint8 colours (..., 3) of class indices (...)."""
    wrapped = np.where(classes == 0, 0, (classes.astype(int) - 1) % (len(COLOURS) - 1) + 1)
    return COLOURS[wrapped]


def save_sheet(
    path: str | Path,
    rows: list[np.ndarray],
    *,
    columns: int,
    zoom: int = 2,
    y_up: bool = False,
    names: Sequence[str] = (),
) -> None:
    """Write a PNG with `rows` of tiles (each uint8 (N, X, Y, 3)), one below the other.

    Args:
        path: path of the PNG; written under a temporary name, then renamed.
        rows: tiles of the same N samples, for instance images, outlines, masks.
        columns: samples per block of rows.
        zoom: whole-number enlargement.
        y_up: whether the second axis points up (patient coordinates), not down (pixel rows).
        names: names of the rows, written on their left; none by default.
    """
    blocks = []
    for start in range(0, len(rows[0]), columns):
        block = [_strip(tiles[start : start + columns], columns, y_up) for tiles in rows]
        blocks.append(np.concatenate(block))
    sheet = np.concatenate(blocks).repeat(zoom, 0).repeat(zoom, 1)
    if names:
        labels = [*names] * len(blocks)
        sheet = np.concatenate([_margin(labels, len(sheet) // len(labels)), sheet], axis=1)
    with replacing(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")


def save_pairs(path: str | Path, images: Tensor, labels: Tensor, y_up: bool) -> None:
    """Write a contact sheet: images (N, C, X, Y), with outlines, and masks (N, 1, X, Y)."""
    rows = [image_tiles(images), outline_tiles(images, labels), mask_tiles(labels)]
    save_sheet(path, rows, columns=8, y_up=y_up)


def save_rows(path: str | Path, rows: Mapping[str, np.ndarray], y_up: bool) -> None:
    """Write a PNG with a named row of tiles, uint8 (N, X, Y, 3), per entry; N may differ.

    Args:
        path, y_up: see `save_sheet`.
        rows: tiles of equal size, by name of the row.
    """
    tiles = list(rows.values())
    save_sheet(
        path,
        tiles,
        columns=max(map(len, tiles)),
        zoom=max(1, TILE // max(tiles[0].shape[1:3])),
        y_up=y_up,
        names=list(rows),
    )


def _margin(names: Sequence[str], height: int) -> np.ndarray:
    """Names below each other at a distance of `height` pixels, uint8 (rows, columns, 3)."""
    font = ImageFont.load_default(14)
    widths = [font.getlength(line) for name in names for line in name.splitlines()]
    margin = Image.new("RGB", (int(max(widths)) + 12, height * len(names)), "white")
    draw = ImageDraw.Draw(margin)
    for k, name in enumerate(names):
        draw.text((6, height * k + 4), name, fill="black", font=font)
    return np.asarray(margin)


def _strip(tiles: np.ndarray, columns: int, y_up: bool) -> np.ndarray:
    """`tiles` side by side with a gap of one pixel, as rows and columns of a picture."""
    strip = [np.pad(upright(tile, y_up), ((1, 1), (1, 1), (0, 0))) for tile in tiles]
    strip += [np.zeros_like(strip[0])] * (columns - len(strip))
    return np.concatenate(strip, axis=1)


def upright(array: np.ndarray, y_up: bool) -> np.ndarray:
    """(X, Y, ...) as rows and columns of a picture."""
    return array.swapaxes(0, 1)[:: -1 if y_up else 1]


def y_points_up(source: SourceSpec) -> bool:
    """Whether the second axis of the source's slices points up in the usual view.

    It does if it runs to anterior or superior (RAS affine, as in NIfTI), but not for pixel rows
    (PNG, DICOM, NRRD in LPS).
    """
    affine = source.geometries[0]["affine"]
    if affine is None:
        return False
    second_axis = np.array(affine)[:3, 1]
    return bool(second_axis[np.abs(second_axis).argmax()] > 0)


def first_batch(dataset: Dataset, size: int) -> dict[str, Tensor]:
    """`size` evenly spread items of a dataset, as a batch."""
    return default_collate([dataset[int(i)] for i in evenly(len(dataset), size)])


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Up to `most` of `count` indices, evenly spread, since neighbours may be similar frames."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)
