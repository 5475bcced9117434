"""Charts as SVG that lies in the page and takes its text colour from it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal, cast
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from alignflow.evaluation.plots import COLOURS, principal_plane
from alignflow.evaluation.sets import SYNTHETIC
from alignflow.report.arms import Arm, difference
from alignflow.report.tiles import plotted

INK = "#010203"  # stands for the page's text colour, which changes with light and dark
WIDTH = 4.9  # inches; a phone shows it at about its own size, so letters stay readable
MOST_POINTS = 300  # of a set in the plane; more only hide each other
SVG = "http://www.w3.org/2000/svg"
LINK = "http://www.w3.org/1999/xlink"
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


def embedding(features: dict[str, Tensor], title: str) -> Markup:
    """Sets of features in the plane of the principal axes of all of them."""
    in_plane, shares = principal_plane(features)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
        plot = figure.subplots()
        for name, points in in_plane.items():
            few = name == "reference"
            x, y = points[plotted(len(points), MOST_POINTS)].T.numpy()
            plot.scatter(
                x,
                y,
                s=44 if few else 13 if name in SYNTHETIC else 8,
                marker=MARKERS[name],
                alpha=1 if few else 0.9 if name in SYNTHETIC else 0.45,
                linewidths=0,
                color=colour(name),
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
        return as_svg(figure, title, "embedding")


def metric_panels(metrics: dict[str, tuple[str, dict[str, Any]]], title: str) -> Markup:
    """One panel per metric: a dot with its interval per set, a band where real images lie.

    Args:
        metrics: {metric: (title of the panel, {set: `Sampled.record`})}.
        title: read out for the chart.
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
        return as_svg(figure, title, "metrics")


def _intervals(panel: Axes, records: dict[str, dict[str, Any]]) -> None:
    for place, (name, record) in enumerate(reversed(records.items())):
        floor = record["floor"]
        if floor["value"] is not None:
            ends = [place - 0.45, place + 0.45]
            band: Any = {"color": "#999999", "alpha": 0.35, "linewidth": 0}
            panel.fill_betweenx(ends, floor["low"], floor["high"], **band)
            panel.vlines(floor["value"], ends[0], ends[1], color="#777777", linewidth=1)
        panel.hlines(place, record["low"], record["high"], color=colour(name), linewidth=1.6)
        panel.plot(record["value"], place, MARKERS[name], color=colour(name), markersize=4.5)
    panel.set_yticks(range(len(records)), list(reversed(records)))
    panel.set_ylim(-0.6, max(len(records), 1) - 0.4)
    panel.tick_params(axis="y", length=0)
    panel.locator_params(axis="x", nbins=4)


def arm_differences(arms: Sequence[Arm], base: Arm, title: str) -> Markup:
    """Dice of each arm less that of the base, in points, with its paired interval."""
    others = [arm for arm in arms if arm is not base]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.34 * len(others) + 0.75), layout="constrained")
        plot = figure.subplots()
        plot.axvline(0, color=INK, linewidth=0.8)
        for place, arm in enumerate(reversed(others)):
            gain = difference(arm, base)
            shade = colour(arm.kind) if arm.kind in COLOURS else "#56B4E9"
            if gain["low"] is not None:
                plot.hlines(place, gain["low"], gain["high"], color=shade, linewidth=2)
            plot.plot(gain["value"], place, "o", color=shade, markersize=5)
        plot.set_yticks(range(len(others)), [plain(arm.name) for arm in reversed(others)])
        plot.set_ylim(-0.6, len(others) - 0.4)
        plot.tick_params(axis="y", length=0)
        plot.set_xlabel(f"points of Dice against {plain(base.name)}; right of 0 is better")
        return as_svg(figure, title, "arms")


def colour(name: str) -> str:
    """Of a set or arm; black would vanish on a dark page."""
    return INK if name == "reference" else COLOURS[name]


def plain(text: str) -> str:
    """Text that matplotlib and XML take as it is: no formulae, no control characters."""
    return "".join(c for c in text if c.isprintable()).replace("$", r"\$")


def as_svg(figure: Figure, title: str, name: str) -> Markup:
    """The figure as an `<svg>` element with a title, without size or links, in the page's colour.

    Args:
        figure: drawn with `INK`.
        title: what a screen reader says.
        name: of the chart; keeps its ids apart from those of the page's other charts.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            parent.remove(child)  # a style would hold for the whole page
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-label": title, "class": "chart"}
    root.attrib |= {"id": f"chart-{name}", "stroke-linejoin": "round"}
    _keep_ids_apart(root, name)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK)
    text = ElementTree.tostring(root, encoding="unicode")
    return Markup(text.replace(INK, "currentColor"))  # of matplotlib's own making


def _keep_ids_apart(root: ElementTree.Element, name: str) -> None:
    """Prefix ids, and what refers to them, with the name of the chart."""
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id" and element is not root:
                element.set(key, f"{name}-{value}")
            elif key == f"{{{LINK}}}href" and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))
