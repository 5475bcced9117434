"""Shapes against closed forms, and topology against flood fills of scipy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from alignflow.masks.shape import Shape, components, measure, regions

EIGHT = np.ones((3, 3))


def ellipse(a: float, b: float, angle: float = 0.0, size: int = 101) -> np.ndarray:
    x, y = np.meshgrid(np.arange(size) - size // 2, np.arange(size) - size // 2, indexing="ij")
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (u / a) ** 2 + (v / b) ** 2 <= 1


def test_disc():
    shape = measure(ellipse(30, 30))
    assert abs(shape.area - np.pi * 30**2 / 101**2) < 0.002
    assert shape.eccentricity < 1e-6
    assert shape.solidity > 0.97
    assert (shape.components, shape.holes) == (1, 0)


def test_ellipse_has_its_eccentricity_at_any_angle():
    for angle in (0.0, 0.4, 1.2):
        shape = measure(ellipse(40, 20, angle))
        assert abs(shape.eccentricity - np.sqrt(1 - 0.5**2)) < 0.005
        assert shape.solidity > 0.96


def test_ring_has_a_hole_and_the_solidity_of_its_areas():
    shape = measure(ellipse(40, 40) & ~ellipse(20, 20))
    assert (shape.components, shape.holes) == (1, 1)
    assert abs(shape.solidity - 0.75) < 0.02


def test_form_is_that_of_the_largest_component():
    region = ellipse(20, 20)
    region[0, :30] = True
    assert measure(region).components == 2
    assert measure(region).eccentricity < 1e-6


def test_smallest_regions():
    assert measure(np.zeros((5, 5), bool)) is None
    one = np.zeros((5, 5), bool)
    one[2, 2] = True
    assert measure(one) == Shape(0.04, 0.0, 1.0, 1, 0)
    assert measure(np.ones((5, 5), bool)).area == 1.0
    line = np.zeros((5, 5), bool)
    line[2] = True
    assert measure(line).eccentricity == 1.0


@settings(max_examples=80, deadline=None)
@given(npst.arrays(bool, st.tuples(st.integers(1, 10), st.integers(1, 10))))
def test_betti_numbers_are_those_of_scipy(region):
    shape = measure(region)
    if shape is None:
        return
    outside = ndimage.label(np.pad(~region, 1, constant_values=True))[1]
    assert shape.components == ndimage.label(region, EIGHT)[1] == components(region)[1]
    assert shape.holes == outside - 1
    assert 0 < shape.area <= 1 and 0 <= shape.eccentricity <= 1 and 0 < shape.solidity <= 1


def test_regions_of_the_schemes():
    mask = np.array([[0, 1, 2]])
    assert [r.tolist() for r in regions(mask, 3, "disjoint")] == [
        [[False, True, False]],
        [[False, False, True]],
    ]
    assert regions(mask, 3, "nested")[0].tolist() == [[False, True, True]]
