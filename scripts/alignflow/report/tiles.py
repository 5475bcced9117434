"""Images of a set as pictures with the outlines of their masks."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from skimage.measure import find_contours
from torch import Tensor
from torch.nn.functional import interpolate

from alignflow.evaluation.copies import nearest, pixels
from alignflow.evaluation.sets import SYNTHETIC, ImageSet
from alignflow.pictures import class_colours, evenly, image_tiles, upright

PAIR = re.compile(r"pair_(\d+)")


@dataclass(frozen=True)
class Tile:
    """One image.

    Attributes:
        name: "reference 3", in the order of the folder; of a pair its own number; with the file's
            name where these are asked for.
        png: data URI.
        width, height: of the picture, pixels; outlines are in the same coordinates.
        outlines: (colour, SVG path) of each class.
    """

    name: str
    png: str
    width: int
    height: int
    outlines: list[tuple[str, str]]


@dataclass(frozen=True)
class NearestPair:
    """A generated image beside the known one that it lies nearest to.

    Attributes:
        generated, known: both.
        distance: between them, over the median distance from real images of the site to their
            nearest known one (from references to each other where they are the known ones and
            there are no others); None where that is undefined.
    """

    generated: Tile
    known: Tile
    distance: float | None


class TileMaker:
    """Makes tiles of the sets of a report.

    Args:
        sets: by name.
        y_up: the second axis of images points up.
        tile_size: longest side of a picture, pixels; larger images are made smaller.
        file_names: show names of files beside the ordinal ones.
    """

    def __init__(
        self, sets: dict[str, ImageSet], *, y_up: bool, tile_size: int, file_names: bool
    ) -> None:
        self.sets = sets
        self.y_up = y_up
        self.tile_size = tile_size
        self.file_names = file_names

    def shown(self, name: str, count: int) -> list[Tile]:
        """Up to `count` images, evenly spread: neighbours may be frames of one sequence.

        Of two sets of pairs those of the same numbers: they began from the same noise.
        """
        rows = list(range(len(self.sets[name])))
        if name in SYNTHETIC:
            rows = self.in_common(name) or rows
        return [self.tile(name, rows[int(k)]) for k in evenly(len(rows), count)]

    def in_common(self, name: str) -> list[int]:
        """The pairs of a set whose number every set of pairs has; some may be in quarantine."""
        found = [{number_of(n) for n in self.sets[s].names} for s in SYNTHETIC if s in self.sets]
        common = set.intersection(*found) - {None}
        return [k for k, n in enumerate(self.sets[name].names) if number_of(n) in common]

    def tile(self, name: str, number: int) -> Tile:
        """One image of a set."""
        images = self.sets[name]
        label = mask_of(images, number)
        image = images.images[number : number + 1]
        scale = min(1.0, self.tile_size / max(image.shape[2:]))
        if scale < 1:
            size = [max(1, round(n * scale)) for n in image.shape[2:]]
            image = interpolate(image, size, mode="bilinear", antialias=True)
            label = None if label is None else _smaller(label, size)
        shown = upright(image_tiles(image)[0], self.y_up)
        outlines = [] if label is None else outline_paths(upright(label.numpy(), self.y_up))
        own = number_of(images.names[number]) if name in SYNTHETIC else None
        title = f"{name} {number + 1 if own is None else own}"
        if self.file_names:
            title = f"{title}, {images.names[number]}"
        return Tile(title, data_uri(shown), shown.shape[1], shown.shape[0], outlines)

    def nearest_pairs(self, known_name: str, view: str, count: int) -> list[NearestPair]:
        """The aligned images that lie nearest to a known one, nearest first.

        Args:
            known_name: "source" or "reference".
            view: "pixels" or "encoder".
            count: most pairs.
        """
        generated, known = self.sets["aligned"], self.sets[known_name]
        distances, index = nearest(points(generated, view), points(known, view))
        unit = self.real_distance(known_name, view)
        order = np.argsort(distances, kind="stable")[:count]
        return [
            NearestPair(
                self.tile("aligned", int(k)),
                self.tile(known_name, int(index[k])),
                float(distances[k]) / unit if unit else None,
            )
            for k in order
        ]

    def real_distance(self, known_name: str, view: str) -> float | None:
        """Median distance of real images of the site to their nearest known one."""
        known = points(self.sets[known_name], view)
        real_name = "target" if "target" in self.sets else "reference"
        if real_name == known_name:
            if len(known) < 2:
                return None
            return float(np.median(nearest(known, known, leave_one_out=True)[0]))
        return float(np.median(nearest(points(self.sets[real_name], view), known)[0]))


def number_of(name: str) -> int | None:
    """Of a pair, from the name of its file: 12 of "pair_00012.png"; None of other names."""
    found = PAIR.match(name)
    return int(found[1]) if found else None


def points(images: ImageSet, view: str) -> Tensor:
    """(N, D): images in pixels, or their features."""
    return pixels(images.images) if view == "pixels" else images.features


def mask_of(images: ImageSet, number: int) -> Tensor | None:
    """Class indices (X, Y) of an image; None where it has no mask."""
    if not images.given[number]:
        return None
    return images.labels[sum(images.given[:number]), 0]


def _smaller(label: Tensor, size: Sequence[int]) -> Tensor:
    return interpolate(label[None, None].float(), list(size), mode="nearest-exact")[0, 0].byte()


def outline_paths(mask: np.ndarray) -> list[tuple[str, str]]:
    """(colour, SVG path) of each class of a mask (rows, columns), in pixels of the picture."""
    found = []
    for value in np.unique(mask[mask > 0]):
        # the border makes contours of structures at the edge of the image close
        contours = find_contours(np.pad(mask == value, 1).astype(float), 0.5)
        path = "".join(_path(contour - 0.5) for contour in contours)
        found.append((colour(int(value)), path))
    return found


def _path(contour: np.ndarray) -> str:
    """A closed line through points (row, column)."""
    return "M" + "L".join(f"{column:.4g} {row:.4g}" for row, column in contour[:-1]) + "Z"


def data_uri(picture: np.ndarray) -> str:
    """PNG of uint8 (rows, columns, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def colour(number: int) -> str:
    """Of a class, as "#rrggbb"."""
    return f"#{class_colours(np.array(number)).tobytes().hex()}"
