"""Pictures of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from alignflow.files import replacing

COLOURS = {
    "source": "#0072B2",
    "reference": "#000000",
    "unaligned": "#E69F00",
    "aligned": "#D55E00",
    "target": "#009E73",
}
"""Of the sets; from the palette of Okabe and Ito (2008), which the colour-blind can tell apart."""


def principal_plane(features: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[float]]:
    """Sets of features (N, D), D >= 2, in the plane of the two principal axes of all of them.

    Of either direction of an axis the one is taken in which its largest entry is positive.

    Returns:
        The sets as points (N, 2), and the share of the variance along each axis.
    """
    every = torch.cat(list(features.values()))
    centre = every.mean(dim=0)
    scatter = (every - centre).T @ (every - centre)
    values, vectors = torch.linalg.eigh(scatter)
    axes = vectors[:, -2:].flip(1)
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    axes = axes * largest.sign()
    shares = values[-2:].flip(0).clamp(min=0) / scatter.trace().clamp(min=1e-300)
    return {name: (points - centre) @ axes for name, points in features.items()}, shares.tolist()


def feature_scatter(path: Path, features: dict[str, Tensor]) -> None:
    """Sets of features (N, D) in the plane of the two principal axes of all of them."""
    in_plane, _ = principal_plane(features)
    figure = Figure(figsize=(6, 5), layout="constrained")
    plot = figure.subplots()
    for name, points in in_plane.items():
        x, y = points.T
        marked = name == "reference"
        plot.scatter(
            x,
            y,
            s=40 if marked else 8,
            marker="x" if marked else "o",
            alpha=1 if marked else 0.5,
            color=COLOURS[name],
            label=f"{name} ({len(points)})",
            zorder=3 if marked else 2,
        )
    plot.set(xlabel="principal axis 1", ylabel="principal axis 2")
    plot.legend()
    _save(figure, path)


def metric_bars(path: Path, metrics: dict[str, dict[str, Any]]) -> None:
    """One panel per metric, one bar per set with its interval, a gray band for real images.

    Args:
        path: of the PNG.
        metrics: {metric: {set: `Sampled.record`}}; what is undefined is left out.
    """
    columns = 3
    figure = Figure(figsize=(9, 2.6 * -(-len(metrics) // columns)), layout="constrained")
    panels = figure.subplots(-(-len(metrics) // columns), columns, squeeze=False).flat
    for panel, (metric, records) in zip(panels, metrics.items(), strict=False):
        panel.set_title(metric)
        known = {name: r for name, r in records.items() if r["value"] is not None}
        for position, (name, record) in enumerate(known.items()):
            low, high = record["low"], record["high"]
            panel.bar(position, record["value"], color=COLOURS[name], alpha=0.8)
            panel.vlines(position, low, high, color="black")
            floor = record["floor"]
            if floor["value"] is not None:
                panel.hlines(floor["value"], position - 0.5, position + 0.5, color="gray")
                panel.fill_between(
                    [position - 0.5, position + 0.5],
                    floor["low"],
                    floor["high"],
                    color="gray",
                    alpha=0.3,
                )
        panel.set_xticks(range(len(known)), list(known), rotation=20)
    for panel in list(panels):
        panel.set_axis_off()
    _save(figure, path)


def tile_rows(path: Path, rows: dict[str, np.ndarray], y_up: bool) -> None:
    """A sheet with one named row of tiles, uint8 (N, X, Y, 3), per entry.

    Args:
        path: of the PNG.
        rows: tiles by name of the row.
        y_up: as in `pictures.save_sheet`.
    """
    columns = max(len(tiles) for tiles in rows.values())
    figure = Figure(figsize=(1.1 * columns + 0.4, 1.1 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (name, tiles) in zip(grid, rows.items(), strict=True):
        for place, tile in zip(axes, tiles, strict=False):
            place.imshow(tile.swapaxes(0, 1), origin="lower" if y_up else "upper")
        for place in axes:
            place.set(xticks=[], yticks=[])
            place.spines[:].set_visible(False)
        axes[0].set_ylabel(name)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
