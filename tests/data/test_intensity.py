"""Windows, and native values to [-1, 1] and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from alignflow.data.intensity import scale, to_dtype, unscale
from alignflow.data.transforms import FindWindowd
from alignflow.errors import InputError

INTEGERS = ["uint8", "int16", "uint16"]


def image(values, modality="", suffix=".nii.gz", dtype="int16"):
    meta = {
        "filename_or_obj": "a",
        "modality": modality,
        "suffix": suffix,
        "native_dtype": dtype,
        "affine": np.eye(4),
    }
    return MetaTensor(torch.as_tensor(values, dtype=torch.float32), meta=meta)


def read_as(picture, stated=None, **options):
    """Modality and window of an image."""
    meta = FindWindowd("image", **options)({"image": picture.clone(), "modality": stated})[
        "image"
    ].meta
    return meta["modality"], meta["window"]


VOLUME = torch.linspace(0, 1000, 1001).reshape(1, 7, 11, 13)


@settings(deadline=None)
@given(
    dtype=st.sampled_from(INTEGERS),
    bounds=st.lists(st.integers(0, 60000), min_size=2, max_size=2, unique=True),
    fractions=st.lists(st.floats(0, 1), min_size=1, max_size=9),
)
def test_round_trip_is_exact_for_integers(dtype, bounds, fractions):
    limits = np.iinfo(dtype)
    low, high = sorted(max(limits.min, min(limits.max, b + limits.min)) for b in bounds)
    if low == high:
        high = low + 1 if low < limits.max else low
        low = high - 1
    native = np.array([round(low + f * (high - low)) for f in fractions], dtype=dtype)
    scaled = scale(native.astype(np.float32), low, high)
    assert np.abs(scaled).max() <= 1
    np.testing.assert_array_equal(to_dtype(unscale(scaled, low, high), dtype), native)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(-1, 1))
def test_scale_undoes_unscale(low, width, x):
    high = low + width
    restored = scale(unscale(np.array([x]), low, high), low, high)
    assert restored[0] == pytest.approx(x, abs=1e-5)


def test_ends_and_clipping():
    x = torch.tensor([-300.0, -200.0, 50.0, 300.0, 1000.0])
    torch.testing.assert_close(scale(x, -200.0, 300.0), torch.tensor([-1.0, -1, 0, 1, 1]))
    torch.testing.assert_close(
        unscale(torch.tensor([-2.0, -1, 0, 1, 2]), -200.0, 300.0),
        torch.tensor([-200.0, -200, 50, 300, 300]),
    )


def test_to_dtype_rounds_and_clips():
    values = np.array([-3.0, 0.49, 0.51, 254.7, 300])
    np.testing.assert_array_equal(to_dtype(values, "uint8"), [0, 0, 1, 255, 255])
    np.testing.assert_array_equal(to_dtype(values, "float32"), values.astype(np.float32))


@pytest.mark.parametrize(
    ("picture", "stated", "expected"),
    [
        (image(VOLUME, suffix=".png", dtype="uint8"), None, "RGB8"),
        (image(VOLUME, suffix=".png", dtype="uint16"), None, "MR"),
        (image(torch.rand(3, 4, 4, 1), "US", ".dcm", "uint8"), None, "RGB8"),
        (image(VOLUME, "CT", ".dcm"), None, "CT"),
        (image(VOLUME, "MR", ".dcm"), "CT", "MR"),
        (image(VOLUME), "MRI", "MR"),
        (image(VOLUME, dtype="uint8"), "CT", "CT"),
        (image(VOLUME, dtype="uint8"), None, "MR"),
        (image(VOLUME, "PT", ".dcm"), None, "PT"),
    ],
)
def test_auto_modality(picture, stated, expected):
    assert read_as(picture, stated)[0] == expected
    assert read_as(picture, stated, modality="CT")[0] == "CT"


def test_what_looks_like_ct_must_be_stated():
    air = image(VOLUME - 1000)
    with pytest.raises(InputError, match="image 'a': values down to -1000 .* set \"modality\""):
        read_as(air)
    assert read_as(air, window=(0, 1)) == ("MR", (0, 1))
    assert read_as(air, "CT")[0] == "CT"


def test_ct_that_is_not_in_hu_is_told(caplog):
    read_as(image(VOLUME - 1), modality="CT")
    read_as(image(VOLUME), modality="CT", window=(0, 1))
    assert not caplog.text
    read_as(image(VOLUME), modality="CT")
    assert "image 'a': CT without a value below 0" in caplog.text


def test_windows():
    volume = image(VOLUME)
    assert read_as(volume, modality="RGB8")[1] == (0, 255)
    assert read_as(volume, modality="CT")[1] == (-200, 300)
    assert read_as(volume, percentiles=(10, 90))[1] == pytest.approx((100, 900))
    assert read_as(volume, modality="CT", window=[-1000, 400])[1] == (-1000, 400)


def test_equal_percentiles():
    sparse = torch.zeros(1, 10, 10, 10)
    sparse[0, 0, 0, 0] = 1
    with pytest.raises(InputError, match='percentiles .* are both 0; set "window"'):
        read_as(image(sparse))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"modality": "MRI"}, "modality: 'MRI'; set one of auto, CT"),
        ({"window": (300, -200)}, "window: .* the lower one first"),
        ({"window": (1, 2, 3)}, "window: .* set two numbers"),
        ({"percentiles": (50, 50)}, "percentiles: "),
    ],
)
def test_bad_settings(options, match):
    with pytest.raises(InputError, match=match):
        FindWindowd("image", **options)
