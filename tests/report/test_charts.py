"""Charts: well-formed, without links, the same each time, and safe from their labels."""

from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from alignflow.evaluation.plots import embedding, metric_panels
from alignflow.report.arms import Arm
from alignflow.report.charts import arm_differences, as_svg

HOSTILE = "<script>alert(1)</script> & $\\frac{x$ \x01"


def record(value, half=0.1):
    ends = {"value": value, "low": value - half, "high": value + half}
    return ends | {"n": 5, "floor": {"value": 0.0, "low": -0.1, "high": 0.1}}


@pytest.fixture
def arms():
    values = np.linspace(20, 90, 12)[None]
    made = [Arm(n, "aligned", "", values + 2 * k, values) for k, n in enumerate((HOSTILE, "b"))]
    return [Arm("base", "without", "", values, values), *made]


def charts(arms):
    torch.manual_seed(0)
    names = ("source", "reference", "unaligned", "aligned", "target")
    features = {n: torch.randn(6 + k, 5).double() for k, n in enumerate(names)}
    panels = {"kid": ("KID: lower is better", {"aligned": record(0.4), "source": record(0.2)})}
    return {
        "embedding": as_svg(embedding(features), "plane of <all>", "embedding"),
        "metrics": as_svg(metric_panels(panels), 'of "all"', "metrics"),
        "arms": arm_differences(arms, arms[0], "arms"),
    }


def test_charts_are_safe_and_stand_alone(arms):
    ids = []
    for name, chart in charts(arms).items():
        root = ElementTree.fromstring(chart)  # well-formed, whatever its labels are
        assert root.get("role") == "img" and root.get("aria-label")
        tags = {element.tag.split("}")[1] for element in root.iter()}
        assert not tags & {"script", "style", "metadata", "image"}
        ids += [element.get("id") for element in root.iter() if element.get("id")]
        for element in root.iter():
            for key, value in element.attrib.items():
                assert "http" not in value
                if key.endswith("href"):
                    assert value[1:] in ids, f"{name}: {value} leads nowhere"
        assert "currentColor" in chart and "#010203" not in chart
    assert len(ids) == len(set(ids)), "ids of two charts on one page clash"


def test_labels_are_shown_as_they_are(arms):
    text = " ".join(ElementTree.fromstring(charts(arms)["arms"]).itertext())
    assert "<script>alert(1)</script> & $\\frac{x$" in text


def test_same_inputs_same_bytes(arms):
    assert charts(arms) == charts(arms)
