"""Where the slices of a DICOM series lie (PS3.3, C.7.6.2), and how uneven ones get a regular grid.

Places are in mm, in DICOM's axes (LPS).
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from alignflow.errors import InputError

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # to RAS, and back
ONE_PLACE = 1e-3  # mm: slices nearer than this are at one place
SPACING_TOLERANCE = 0.05  # share of the slice spacing that a gap may differ by
SIDEWAYS_TOLERANCE = 0.5  # of a pixel, over the whole series
MOST_PLANES = 4  # made of each slice that there is: else it is a guess, not a series


@dataclass(frozen=True)
class Planes:
    """Parallel slices of one grid, in spatial order or against it.

    Attributes:
        positions: (Z, 3), the centre of each slice's first pixel.
        axes: (2, 3), from one pixel to the next, first along a row.
        step: of the slices along their normal, commonest one where they are uneven.
    """

    positions: np.ndarray
    axes: np.ndarray
    step: float

    @property
    def normal(self) -> np.ndarray:
        """Unit vector (3,): row by column."""
        cross = np.cross(self.axes[0], self.axes[1])
        return cross / np.linalg.norm(cross)

    @property
    def along(self) -> np.ndarray:
        """(Z,) places along the normal, from the first slice on."""
        return (self.positions - self.positions[0]) @ self.normal

    @property
    def sideways(self) -> np.ndarray:
        """(Z, 2) shifts against the first slice within the plane, in pixels."""
        return (self.positions - self.positions[0]) @ np.linalg.pinv(self.axes)

    @property
    def tilt(self) -> float:
        """Largest angle, in degrees, between the normal and the way from slice to slice."""
        travel = np.diff(self.positions, axis=0)
        cosines = np.abs(travel @ self.normal) / np.linalg.norm(travel, axis=1)
        return float(np.degrees(np.arccos(cosines.min(initial=1.0))))

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) RAS, of slices that are a regular grid."""
        lps = np.eye(4)
        step = self.along[-1] / (len(self.positions) - 1)
        lps[:3, :3] = np.c_[self.axes.T, self.normal * step]
        lps[:3, 3] = self.positions[0]
        return LPS @ lps

    @classmethod
    def of_grid(cls, affine: np.ndarray, count: int) -> Planes:
        """The slices of a volume of `count`, from its affine (RAS)."""
        lps = LPS @ affine
        positions = lps[:3, 3] + np.arange(count)[:, None] * lps[:3, 2]
        planes = cls(positions, lps[:3, :2].T, 0.0)
        return replace(planes, step=float(abs(lps[:3, 2] @ planes.normal)))

    def locate(self, points: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        """The slice nearest to points (n, 3) that lie in one plane.

        Returns:
            Its number, (n, 2) pixel coordinates in it, and (n,) heights above it, in steps.
        """
        heights = (points - self.positions[0]) @ self.normal
        k = int(np.abs(self.along - heights.mean()).argmin())
        pixels = (points - self.positions[k]) @ np.linalg.pinv(self.axes)
        return k, pixels, (heights - self.along[k]) / self.step


def planes_of(positions: np.ndarray, axes: np.ndarray) -> Planes:
    """Two or more slices at different places, ascending along the normal."""
    planes = Planes(positions, axes, 0.0)
    return replace(planes, step=statistics.median_low(np.diff(planes.along).tolist()))


def irregularity(planes: Planes) -> str | None:
    """What keeps slices from being a regular grid (PS3.3, C.7.6.2.1.1); None if nothing does."""
    steps = np.diff(planes.along)
    if np.abs(steps - planes.step).max() > SPACING_TOLERANCE * planes.step:
        return f"slices are {steps.min():g} to {steps.max():g} mm apart, so slices are missing"
    if np.abs(planes.sideways).max() > SIDEWAYS_TOLERANCE:
        return f"slices shift sideways by {planes.tilt:.3g} degrees (tilted gantry)"
    return None


def resample(
    volume: np.ndarray, planes: Planes, method: Literal["linear", "nearest"], fill: float
) -> tuple[np.ndarray, np.ndarray]:
    """Slices at uneven places, or shifted sideways, on a regular grid along their normal.

    First and last slice keep their place. Between them the step is the commonest one of the
    series, or the nearest that divides the way. The grid within a slice stays, and grows where
    slices are shifted sideways.

    Args:
        volume: (C, X, Y, Z), its slices as `planes` has them.
        planes: ascending.
        method: "linear" for images, "nearest" for masks.
        fill: value where the grid reaches beyond the slices.

    Returns:
        (C, X', Y', Z'), real numbers; affine (RAS).

    Raises:
        InputError: gaps so large that most of the grid would be a guess.
    """
    along, shift = planes.along, planes.sideways
    steps = max(1, round(along[-1] / planes.step))
    if steps >= MOST_PLANES * len(along):
        raise InputError(
            f"{len(along)} slices on {along[-1]:g} mm, commonly {planes.step:g} mm apart, are too "
            "few to resample"
        )
    low = np.floor(shift.min(axis=0) + ONE_PLACE)
    high = np.ceil(shift.max(axis=0) - ONE_PLACE) + np.array(volume.shape[1:3]) - 1
    x, y = np.meshgrid(
        *(np.arange(a, b + 1) for a, b in zip(low, high, strict=True)), indexing="ij"
    )
    values = RegularGridInterpolator(
        (*(np.arange(n) for n in volume.shape[1:3]), along), np.moveaxis(volume, 0, -1), method
    )
    heights = np.linspace(0, along[-1], steps + 1)
    slices = []
    for height in heights:
        moved = [p - np.interp(height, along, s) for p, s in zip((x, y), shift.T, strict=True)]
        slices.append(_slice(values, moved, height, fill))
    lps = np.eye(4)
    lps[:3, :3] = np.c_[planes.axes.T, planes.normal * heights[-1] / steps]
    lps[:3, 3] = planes.positions[0] + low @ planes.axes
    return np.moveaxis(np.stack(slices, axis=2), -1, 0), LPS @ lps


def _slice(
    values: RegularGridInterpolator, pixels: list[np.ndarray], height: float, fill: float
) -> np.ndarray:
    """(X', Y', C) at pixel coordinates of the slices, half a pixel beyond their edge at most."""
    ends = [axis[-1] for axis in values.grid[:2]]
    inside = [p.clip(0, end) for p, end in zip(pixels, ends, strict=True)]
    found = values(np.stack([*inside, np.full_like(pixels[0], height)], axis=-1))
    for wanted, known in zip(pixels, inside, strict=True):
        found[np.abs(wanted - known) > 0.5] = fill
    return found
