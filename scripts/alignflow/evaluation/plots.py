"""Charts of an evaluation, for its PNG files and for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import matplotlib
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from alignflow.evaluation.sets import SYNTHETIC
from alignflow.files import replacing
from alignflow.pictures import evenly

INK = "#010203"  # replaced by the page's text colour, which depends on light or dark mode
COLOURS = {
    "source": "#0072B2",
    "reference": INK,
    "unaligned": "#E69F00",
    "aligned": "#D55E00",
    "target": "#009E73",
}
"""Colours of the sets, from the colour-blind safe palette of Okabe and Ito (2008). Black would be
invisible on a dark page."""
WIDTH = 4.9  # inches; text stays readable on a phone
MOST_POINTS = 300  # per set; more would hide each other
MARKERS = {"source": "o", "reference": "X", "unaligned": "^", "aligned": "s", "target": "D"}
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    **{key: INK for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color")},
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def principal_plane(features: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[float]]:
    """Project sets of features (N, D), D >= 2, onto the first two principal axes of all sets.

    The largest entry of each axis is positive.

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


def embedding(features: dict[str, Tensor]) -> Figure:
    """Scatter plot of sets of features on the first two principal axes of all sets."""
    in_plane, shares = principal_plane(features)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
        plot = figure.subplots()
        for name, points in in_plane.items():
            few = name == "reference"
            x, y = points[evenly(len(points), MOST_POINTS)].T.numpy()
            plot.scatter(
                x,
                y,
                s=44 if few else 13 if name in SYNTHETIC else 8,
                marker=MARKERS[name],
                alpha=1 if few else 0.9 if name in SYNTHETIC else 0.45,
                linewidths=0,
                color=COLOURS[name],
                label=f"{name} ({len(points)})",
                zorder=4 if few else 3 if name in SYNTHETIC else 2,
            )
        axes: tuple[Literal["x", "y"], ...] = ("x", "y")
        for axis, share, number in zip(axes, shares, (1, 2), strict=True):
            plot.set(**{f"{axis}label": f"principal axis {number} ({share:.0%} of variance)"})
            plot.tick_params(axis=axis, labelbottom=False, labelleft=False, length=0)
        legend = figure.legend(
            loc="outside upper center", ncols=3, handletextpad=0.2, columnspacing=1
        )
        for handle in legend.legend_handles:
            cast("Artist", handle).set(sizes=[36], alpha=1)
    return figure


def metric_panels(metrics: dict[str, tuple[str, dict[str, Any]]]) -> Figure:
    """One panel per metric: a dot with its interval per set, and a band for real images.

    Args:
        metrics: {metric: (title of the panel, {set: `Sampled.record`})}.
    """
    columns, height = 2, -(-len(metrics) // 2)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.45 * height + 0.2), layout="constrained")
        panels = list(figure.subplots(height, columns, squeeze=False).flat)
        for panel, (heading, records) in zip(panels, metrics.values(), strict=False):
            panel.set_title(heading, loc="left")
            _intervals(panel, {n: r for n, r in records.items() if r["value"] is not None})
        for panel in panels[len(metrics) :]:
            panel.set_axis_off()
    return figure


def _intervals(panel: Axes, records: dict[str, dict[str, Any]]) -> None:
    for place, (name, record) in enumerate(reversed(records.items())):
        floor = record["floor"]
        if floor["value"] is not None:
            ends = [place - 0.45, place + 0.45]
            band: Any = {"color": "#999999", "alpha": 0.35, "linewidth": 0}
            panel.fill_betweenx(ends, floor["low"], floor["high"], **band)
            panel.vlines(floor["value"], ends[0], ends[1], color="#777777", linewidth=1)
        panel.hlines(place, record["low"], record["high"], color=COLOURS[name], linewidth=1.6)
        panel.plot(record["value"], place, MARKERS[name], color=COLOURS[name], markersize=4.5)
    panel.set_yticks(range(len(records)), list(reversed(records)))
    panel.set_ylim(-0.6, max(len(records), 1) - 0.4)
    panel.tick_params(axis="y", length=0)
    panel.locator_params(axis="x", nbins=4)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    with matplotlib.rc_context(STYLE), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
