"""Numbers as text read back as the numbers they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignflow.report.text import interval, number, percent, points, signed_points


@given(st.floats(-1e9, 1e9, allow_nan=False))
def test_number_reads_back_to_three_digits(value):
    text = number(value).replace("\u2212", "-").replace("\u202f", "")
    assert float(text) == pytest.approx(value, rel=6e-3, abs=1e-300)


def test_forms():
    assert number(0.62) == "0.620" and number(550.3) == "550" and number(50) == "50"
    assert number(12345.6) == "12\u202f346" and number(-0.5) == "\u22120.500"
    assert number(0.00067) == "0.000670" and number(None) == "not defined"
    assert interval({"low": 0.1, "high": 0.2}) == "0.100 to 0.200"
    assert interval({"low": None, "high": 1.0}) == interval(None) == interval({}) == ""
    assert points(69.8) == "69.8" and signed_points(0.4) == "+0.4"
    assert signed_points(-1.2) == "\u22121.2" and percent(-0.06) == "\u22126%"
