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
EXIF_ORIENTATION = 0x0112
UPRIGHT = 1  # of the orientation tag, EXIF and TIFF


def palette_of(path: Path) -> dict[int, tuple[int, int, int]]:
    """Entry -> colour of a mask with a palette of colours, of the entries that are used."""
    if path.suffix.lower() not in (".png", ".bmp"):
        return {}
    with Image.open(path) as image:
        if image.mode != "P" or (colours := image.getpalette("RGB")) is None:
            return {}
        used = np.unique(np.asarray(image)).tolist()
    found = {k: (colours[3 * k], colours[3 * k + 1], colours[3 * k + 2]) for k in used}
    is_gray = all(len(set(colour)) == 1 for colour in found.values())
    return {} if is_gray else found  # grays are read by their levels


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
    if image.getexif().get(EXIF_ORIENTATION, UPRIGHT) != UPRIGHT:
        image = ImageOps.exif_transpose(image)
    if (
        is_mask
        and "A" in image.getbands()
        and len(np.unique(np.asarray(image.getchannel("A")))) > 1
    ):
        raise InputError(f"mask '{path}': transparent in part; save it as gray, 0 for background")
    if image.mode == "P" and is_mask:
        return np.asarray(_mask_of_palette(image, path))
    if is_mask and (depth := _gray_depth(path)) in (2, 4):  # Pillow spreads it over 8 bits
        return np.asarray(image) // (255 // (2**depth - 1))
    is_plain = image.mode in ("L", "RGB", "F") or image.mode.startswith("I")
    is_gray = image.mode in ("1", "LA", "La")
    array = np.asarray(image if is_plain else image.convert("L" if is_gray else "RGB"))
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


def _gray_depth(path: Path) -> int:
    """Bits of a gray PNG, 0 of other files."""
    with path.open("rb") as file:
        header = file.read(26)
    is_gray = header.startswith(b"\x89PNG") and header[25:26] == b"\0"
    return header[24] if is_gray else 0


def _mask_of_palette(image: Image.Image, path: Path) -> Image.Image:
    """Gray levels of a palette of grays, else its entries, of which black, entry 0, is background.

    Raises:
        InputError: entry 0 of a palette of colours is not black.
    """
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    used = np.unique(np.asarray(image))
    if (colours[used] == colours[used, :1]).all():
        return image.convert("L")
    black = [int(k) for k in used if not colours[k].any()]
    if black not in ([], [0]) or colours[0].any():
        where = f"black is entry {black[0]} of its palette" if black else "its palette has no black"
        raise InputError(
            f"mask '{path}': {where}, not entry 0, so the background is unclear; save it as gray, "
            "0 for background"
        )
    return image


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
        if 0 in (page.databytecounts or (0,)):  # tifffile gives 0 in their place
            raise ValueError("parts of its pixels are missing")
        array: Any = page.asarray()
        kind = tifffile.PHOTOMETRIC(page.photometric)
        if page.axes.startswith("S"):  # planes of colours
            array = np.moveaxis(array, 0, -1)
        if kind == tifffile.PHOTOMETRIC.PALETTE:
            colours = np.asarray(page.colormap).T
            return np.asarray(colours[array] >> 8, np.uint8)
    if kind == tifffile.PHOTOMETRIC.MINISWHITE:
        array = ~array if array.dtype == bool else np.iinfo(array.dtype).max - array
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
