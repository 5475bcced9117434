"""Native label values and class indices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignflow.data.labels import (
    check_values,
    complete_labels,
    find_labels,
    to_index,
    to_native,
    values_in,
)
from alignflow.errors import InputError


@settings(deadline=None)
@given(st.lists(st.integers(0, 60000), min_size=2, max_size=16, unique=True), st.data())
def test_round_trip(values, data):
    labels = find_labels({"a": values}, {f"class{value}": value for value in values})
    picked = data.draw(st.lists(st.sampled_from(values), min_size=1))
    native = torch.tensor(picked, dtype=torch.float32)
    index = to_index(native, labels)
    assert index.max() < len(labels)
    np.testing.assert_array_equal(to_native(index.numpy(), labels, "uint16"), picked)


def test_automatic_names_ascend():
    labels = find_labels({"a": [0, 255], "b": [0, 128]})
    assert list(labels.items()) == [("background", 0), ("class1", 128), ("class2", 255)]


def test_smallest_is_background_without_zero():
    labels = find_labels({"a": [3, 1], "b": [2]})
    assert list(labels.items()) == [("background", 1), ("class1", 2), ("class2", 3)]


def test_negative_values_are_foreground_beside_zero():
    assert find_labels({"a": [-1, 0]}) == {"background": 0, "class1": -1}


def test_stated_labels_keep_their_order():
    labels = find_labels({"a": [0, 7]}, {"tumour": 7, "organ": 2})
    assert list(labels.items()) == [("background", 0), ("tumour", 7), ("organ", 2)]


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"disc": 1, "none": 0}, [("none", 0), ("disc", 1)]),
        ({"disc": 2, "background": 1}, [("background", 1), ("disc", 2)]),
        ({"disc": 255}, [("background", 0), ("disc", 255)]),
    ],
)
def test_background_of_stated_labels(stated, expected):
    assert list(complete_labels(stated).items()) == expected


def test_found_labels_may_be_stated_again():
    labels = find_labels({"a": [1, 2]})
    assert list(find_labels({"b": [2]}, labels).items()) == list(labels.items())


def test_unknown_values_name_file_and_value():
    values = {"good.png": [0, 1], "bad.png": [0, 4], "worse.png": [9]}
    with pytest.raises(InputError) as caught:
        find_labels(values, {"disc": 1})
    lines = str(caught.value).split("\n")
    assert lines[0].startswith("mask 'bad.png': value 4 is not in labels (background=0, disc=1)")
    assert lines[1].startswith("mask 'worse.png': value 9")
    with pytest.raises(InputError, match="mask 'x': value 3"):
        check_values("x", [3], {"background": 0})


@pytest.mark.parametrize(
    ("values", "stated", "match"),
    [
        ({"a.png": range(17)}, None, "17 different values .most in 'a.png'.*mask_threshold"),
        ({"a.jpg": [0, 1, 254, 255]}, None, "mask 'a.jpg': 4 values in a JPEG-compressed mask"),
        ({"a.png": [0], "b.png": [0]}, None, "none of 2 has foreground, all pixels are 0"),
        ({"a.png": [0]}, {"disc": 1}, "none of 1 has foreground"),
        ({"a.png": [0, 1]}, {"disc": 1, "cup": 1}, "gives one value two names"),
        ({"a.png": [0, 1]}, {"disc": [1, 2]}, '"disc" is \\[1, 2\\]; set one number'),
    ],
)
def test_bad_labels(values, stated, match):
    with pytest.raises(InputError, match=match):
        find_labels(values, stated)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"a.png": [0, 1, 254, 255]}, "after JPEG compression; set mask_threshold to 127"),
        ({"a.png": [0, 255], "b.png": [0, 3, 251]}, "after JPEG compression"),
        ({"a.png": [0, 1], "b.png": [0, 255]}, "1 in 'a.png' and 255 in 'b.png', never in one"),
    ],
)
def test_one_class_written_in_two_ways_is_refused(values, match):
    with pytest.raises(InputError, match=match):
        find_labels(values)
    stated = {f"class{v}": float(v) for found in values.values() for v in found if v}
    assert set(find_labels(values, stated).values()) == {0.0, *stated.values()}


def test_255_beside_small_classes_in_one_mask_is_a_class():
    assert list(find_labels({"a.png": [0, 1, 255], "b.png": [0, 1]}).values()) == [0, 1, 255]
    assert list(find_labels({"a.png": [0, 255], "b.png": [0, 255]}).values()) == [0, 255]


def test_a_value_that_one_mask_has_alone_is_told(caplog):
    values = {f"{k}.png": [0, 1] for k in range(5)} | {"odd.png": [0, 1, 7]}
    assert len(find_labels(values)) == 3
    assert "value 7 is in 'odd.png' alone, of 6 masks; if it is not a class" in caplog.text
    caplog.clear()
    find_labels(values, {"disc": 1, "cup": 7})
    assert not caplog.text


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(-3, 300), st.floats(-5, 1e5, width=32)), min_size=1))
def test_values_in_a_mask_are_those_of_numpy(values):
    mask = torch.tensor(values, dtype=torch.float32).reshape(1, -1)
    assert values_in(mask) == np.unique(mask.numpy()).tolist()


@pytest.mark.parametrize(("values", "is_told"), [([-1, 0, 1], 1), ([0, 1, 255], 1), ([-1, 1], 0)])
def test_values_for_pixels_to_ignore_are_told(values, is_told, caplog):
    find_labels({"a.png": values})
    assert (
        "in 'a.png' is taken for a class; if it marks pixels to ignore" in caplog.text
    ) == is_told
