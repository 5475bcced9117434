"""Charts as SVG that lies in the page and takes its text colour from it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from alignflow.evaluation.plots import COLOURS, INK, STYLE, WIDTH
from alignflow.report.arms import Arm, difference

SVG = "http://www.w3.org/2000/svg"
LINK = "http://www.w3.org/1999/xlink"


def arm_differences(arms: Sequence[Arm], base: Arm, title: str) -> Markup:
    """Dice of each arm less that of the base, in points, with its paired interval."""
    others = [arm for arm in arms if arm is not base]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.34 * len(others) + 0.75), layout="constrained")
        plot = figure.subplots()
        plot.axvline(0, color=INK, linewidth=0.8)
        for place, arm in enumerate(reversed(others)):
            gain = difference(arm, base)
            shade = COLOURS.get(arm.kind, "#56B4E9")
            if gain["low"] is not None:
                plot.hlines(place, gain["low"], gain["high"], color=shade, linewidth=2)
            plot.plot(gain["value"], place, "o", color=shade, markersize=5)
        plot.set_yticks(range(len(others)), [plain(arm.name) for arm in reversed(others)])
        plot.set_ylim(-0.6, len(others) - 0.4)
        plot.tick_params(axis="y", length=0)
        plot.set_xlabel(f"points of Dice against {plain(base.name)}; right of 0 is better")
        return as_svg(figure, title, "arms")


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
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
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
