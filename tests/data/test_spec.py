"""The record of the source survives JSON."""

import json

import pytest

from alignflow.data.spec import SourceSpec, output_suffixes, writable_dtype
from alignflow.errors import InputError

SPEC = SourceSpec(
    channels=1,
    labels={"background": 0.0, "core": 2.0, "ring": 1.0},
    modality="MR",
    window=(1.5, 900.0),
    image_suffix=".nii.gz",
    label_suffix=".nii.gz",
    image_dtype="int16",
    label_dtype="uint8",
    geometries=[{"shape": [3, 4], "affine": None}],
)


def test_json_round_trip_keeps_the_order_of_labels():
    restored = SourceSpec.from_dict(json.loads(json.dumps(SPEC.to_dict())))
    assert restored == SPEC
    assert list(restored.labels) == list(SPEC.labels)


def test_missing_and_unknown_fields():
    content = SPEC.to_dict()
    with pytest.raises(InputError, match="'colour' is missing or unknown"):
        SourceSpec.from_dict(content | {"colour": 1})
    content.pop("window")
    with pytest.raises(InputError, match="'window' is missing or unknown"):
        SourceSpec.from_dict(content)


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        (".png", (".png", ".png")),
        (".jpeg", (".jpg", ".png")),
        (".dcm", (".nii.gz", ".nii.gz")),
        (".nrrd", (".nrrd", ".nrrd")),
        (".nii", (".nii", ".nii")),
        (".mhd", (".mha", ".mha")),
    ],
)
def test_output_suffixes(suffix, expected):
    assert output_suffixes(suffix) == expected


def test_channels_that_no_picture_holds():
    assert output_suffixes(".png", 3, "uint8") == (".png", ".png")
    assert output_suffixes(".png", 1, "uint16") == (".png", ".png")
    for channels, dtype in ((2, "uint8"), (3, "uint16"), (4, "uint8")):
        assert output_suffixes(".png", channels, dtype) == (".mha", ".mha")
    assert output_suffixes(".nii", 4, "int16") == (".nii", ".nii")


@pytest.mark.parametrize(
    ("dtype", "suffix", "channels", "values", "expected"),
    [
        ("int16", ".nii.gz", 1, None, "int16"),
        ("int64", ".nii.gz", 1, [0, 1], "int32"),
        ("int8", ".nrrd", 1, None, "int16"),
        ("int32", ".mha", 3, None, "float32"),
        ("int32", ".png", 1, None, "uint16"),
        ("float32", ".tif", 1, None, "float32"),
        ("float64", ".png", 1, [0, 255], "uint8"),
        ("int32", ".png", 1, [0, 1000], "uint16"),
    ],
)
def test_writable_dtype(dtype, suffix, channels, values, expected):
    assert writable_dtype(dtype, suffix, channels, values) == expected


@pytest.mark.parametrize("value", [-1, 0.5, 70000])
def test_label_values_that_no_picture_holds(value):
    with pytest.raises(InputError, match="do not fit a picture file"):
        writable_dtype("float32", ".png", 1, [0, value])
