"""Pictures: PNG, JPEG and BMP by Pillow, TIFF by tifffile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageOps

from alignflow.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
TIFF_SUFFIXES = (".tif", ".tiff")
UPRIGHT = 1  # of the orientation tag, EXIF and TIFF


def read_raster(path: Path, is_mask: bool) -> np.ndarray:
    """(C, X, Y) of one channel or three; X runs along the columns. Alpha is dropped.

    A palette gives RGB, of a mask its entries.

    Raises:
        InputError: several pages, 16-bit colour in a PNG, CMYK, a mask with an unclear palette.
        Exception: whatever the library raises on damaged files.
    """
    if path.suffix.lower() in TIFF_SUFFIXES:
        array = _read_tiff(path)
    else:
        if path.suffix.lower() == ".png":
            _require_8_bit_colour(path)
        with Image.open(path) as image:
            array = _plain(image, path, is_mask)
    return np.ascontiguousarray(np.atleast_3d(array).transpose(2, 1, 0))


def _plain(image: Image.Image, path: Path, is_mask: bool) -> np.ndarray:
    """(Y, X) or (Y, X, 3), in values of the file's own depth."""
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise InputError(f"image '{path}': several pages ({pages}); save each as its own file")
    # Viewers and annotation tools show a photograph upright, so masks are drawn on it upright.
    image = ImageOps.exif_transpose(image)
    if image.mode == "P" and is_mask:
        return np.asarray(_mask_of_palette(image, path))
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))
    is_deep = image.mode == "F" or image.mode.startswith("I")
    array = np.asarray(image if is_deep else image.convert("RGB"))
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _require_8_bit_colour(path: Path) -> None:
    """Refuse a PNG of which Pillow would read the high bytes alone.

    Raises:
        InputError: 16 bits a channel, in colour or with alpha.
    """
    with path.open("rb") as file:
        header = file.read(26)  # IHDR, PNG specification, section 11.2.2
    if len(header) == 26 and header[24] == 16 and header[25] != 0:
        raise InputError(
            f"image '{path}': 16 bits a channel in colour or with alpha; save it as 16-bit gray "
            "without alpha, or as 8-bit colour"
        )


def _mask_of_palette(image: Image.Image, path: Path) -> Image.Image:
    """Indices of the palette as classes; gray levels where black, the background, is not entry 0.

    Raises:
        InputError: black is another entry than 0 of a palette of colours.
    """
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    used = np.unique(np.asarray(image))
    black = [int(k) for k in used if not colours[k].any()]
    if not black or black[0] == 0:
        return image
    if (colours[used] == colours[used, :1]).all():
        return image.convert("L")
    raise InputError(
        f"mask '{path}': black is entry {black[0]} of its palette, not entry 0, so the "
        "background is unclear; save it as gray, 0 for background"
    )


def _read_tiff(path: Path) -> np.ndarray:
    """(Y, X) or (Y, X, 3), black being 0."""
    with tifffile.TiffFile(path) as file:
        if len(file.pages) > 1:
            raise InputError(
                f"image '{path}': several pages ({len(file.pages)}); save each as its own file"
            )
        page = file.pages.first
        if page.tags.valueof("Orientation", default=UPRIGHT) != UPRIGHT:
            raise InputError(f"image '{path}': stored turned or mirrored; save it upright")
        array: Any = page.asarray()
        kind = tifffile.PHOTOMETRIC(page.photometric)
        if page.axes.startswith("S"):  # planes of colours
            array = np.moveaxis(array, 0, -1)
        if kind == tifffile.PHOTOMETRIC.PALETTE:
            colours = np.asarray(page.colormap).T
            return np.asarray(colours[array] >> 8, np.uint8)
    if kind == tifffile.PHOTOMETRIC.MINISWHITE:
        array = 1 - array if array.dtype == bool else np.iinfo(array.dtype).max - array
    elif kind not in COLOURS:
        raise InputError(f"image '{path}': {kind.name} pixels; save it as gray or RGB")
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    return np.asarray(array[..., : COLOURS.get(kind, 1)] if array.ndim == 3 else array)


COLOURS = {  # and their channels: what follows them is alpha
    tifffile.PHOTOMETRIC.MINISBLACK: 1,
    tifffile.PHOTOMETRIC.RGB: 3,
    tifffile.PHOTOMETRIC.YCBCR: 3,  # of JPEG, which imagecodecs gives as RGB
}
