"""The transforms of train.json: against plain MONAI, in a record, and with a user's changes."""

import copy
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from datasets import READING, TRAIN, reading_of, slice_dataset
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    Resized,
    ScaleIntensityRangePercentilesd,
    Spacingd,
)
from PIL import Image

from alignflow.data.classes import find_classes
from alignflow.data.datalist import build_datalist
from alignflow.data.preprocessing import build, read, recorded
from alignflow.data.references import load_references
from alignflow.data.transforms import N4BiasFieldCorrectiond
from alignflow.errors import InputError
from alignflow.inference.requests import PairRequests
from alignflow.label.segment import segment_file
from alignflow.stage1 import Stage1

CLASSES = {
    "labels": {"background": 0.0, "ring": 1.0, "core": 2.0},
    "structures": {},
    "scheme": "disjoint",
}
SPATIAL = [
    {
        "_target_": "Orientationd",
        "keys": ["image", "label"],
        "axcodes": "LPS",
        "labels": None,
        "allow_missing_keys": True,
    },
    {
        "_target_": "Spacingd",
        "keys": ["image", "label"],
        "pixdim": [3, 3, 3],
        "mode": ["bilinear", "nearest"],
        "allow_missing_keys": True,
    },
]


def with_transforms(*added, at=3):
    """READING with further transforms behind those that load."""
    reading = copy.deepcopy(READING)
    reading["preprocessing"]["transforms"][at:at] = added
    return reading


def pipeline(reading=READING, size=(16, 16), **settings):
    return build(reading, "test", classes=CLASSES, image_size=list(size), **settings)


def volumes(preprocessing, item):
    """What the transforms before the slices make of a pair."""
    transforms = preprocessing.transforms
    last = next(i for i, t in enumerate(transforms) if type(t).__name__ == "Slicesd")
    return Compose(transforms[:last])(dict(item))


@pytest.fixture
def cases(nifti_dataset):
    return build_datalist(nifti_dataset)


def test_volumes_are_those_of_plain_monai(cases):
    """The same voxels and affine as MONAI's loader and transforms give, and labels resampled."""
    keys = ["image", "label"]
    plain = Compose(
        [
            LoadImaged(keys, reader="NibabelReader"),
            EnsureChannelFirstd(keys),
            Orientationd(keys, "LPS", labels=None),
            Spacingd(keys, [3, 3, 3], mode=["bilinear", "nearest"]),
        ]
    )
    for case in cases:
        ours, theirs = volumes(pipeline(with_transforms(*SPATIAL)), case), plain(dict(case))
        for key in keys:
            np.testing.assert_allclose(ours[key].affine, theirs[key].affine, atol=1e-6)
            np.testing.assert_allclose(ours[key], theirs[key], atol=1e-4)


def test_slices_are_those_of_plain_monai(cases):
    """Percentiles of the volume without clipping are MONAI's, slice by slice at one size."""
    reading = reading_of(percentiles=[0, 100], foreground_only=False)
    plain = Compose(
        [
            LoadImaged("image", reader="NibabelReader", ensure_channel_first=True),
            ScaleIntensityRangePercentilesd("image", 0, 100, -1, 1),
        ]
    )
    small = Resized("image", [24, 20], mode="bilinear", anti_aliasing=True)
    ours = read(pipeline(reading, (24, 20)), cases[0])
    volume = plain(dict(cases[0]))["image"]
    assert len(ours) == volume.shape[-1] == 6
    for k, part in enumerate(ours):
        assert (part["image"].meta["slice"], part["label"].dtype) == (k, torch.uint8)
        theirs = small({"image": volume[..., k]})["image"]
        np.testing.assert_allclose(part["image"], theirs, atol=1e-5)


def test_a_change_in_the_config_reaches_every_reader(cases, nifti_dataset):
    """References and masks for pairs are read as training reads."""
    reading = with_transforms(*SPATIAL)
    dataset = slice_dataset(cases, (16, 16), labels=CLASSES["labels"])
    stage1 = Stage1(dataset.spec, [16, 16], {}, {}, 5.0, "disjoint", {}, [], {}, reading, [])
    first = read(stage1.preprocessing(foreground_only=False), cases[0])
    expected = torch.stack([part["image"].as_tensor() for part in first])
    site = load_references(nifti_dataset, stage1)
    torch.testing.assert_close(site.images[: len(first)], expected)
    masks = PairRequests(None, stage1, str(nifti_dataset)).data
    labels = [part["label"].as_tensor() for part in first if part["label"].any()]
    torch.testing.assert_close(
        torch.stack([m["label"] for m in masks[: len(labels)]]), torch.stack(labels)
    )
    assert masks[0]["geometry"] == first[0]["label"].meta["geometry"]
    spacing = np.linalg.norm(np.array(masks[0]["geometry"]["affine"])[:3, :3], axis=0)
    np.testing.assert_allclose(spacing, 3)


class Bright(torch.nn.Module):
    """Logits of class 1 where an image is bright."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return torch.cat([-images, images, torch.full_like(images, -9)], dim=1)


def test_a_mask_comes_back_to_the_grid_of_its_image(cases, tmp_path):
    """A box that no flip maps on itself, read on another grid, is found where it lies."""
    dataset = slice_dataset(cases, (16, 16), labels=CLASSES["labels"])
    values = np.zeros((48, 40, 12), np.float32)
    values[6:30, 8:20, 2:8] = 100
    affine = nib.load(cases[0]["image"]).affine
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "box.nii.gz")
    reading = with_transforms(*SPATIAL) | {"window": [0, 100]}
    for one in (reading, reading_of(window=[0, 100])):
        stage1 = Stage1(dataset.spec, [48, 40], {}, {}, 5.0, "disjoint", {}, [], {}, one, [])
        mask = nib.load(segment_file(tmp_path / "box.nii.gz", Bright(), stage1, tmp_path / "mask"))
        np.testing.assert_allclose(mask.affine, affine, atol=1e-4)
        found, box = mask.get_fdata() > 0, values > 0
        assert found.shape == box.shape
        assert 2 * (found & box).sum() / (found.sum() + box.sum()) > 0.9


def test_windows_and_masks_are_undone(cases):
    """What a transform did to values its `inverse` takes back, within the window."""
    preprocessing = pipeline(reading_of(percentiles=[0, 100]))
    scaled = preprocessing.transforms[-1]
    loaded = volumes(preprocessing, cases[0])
    native, mask = loaded["image"].clone(), nib.load(cases[0]["label"]).get_fdata()
    back = scaled.inverse(scaled(loaded))
    np.testing.assert_allclose(back["image"], native, rtol=1e-4, atol=1e-3)
    labels = preprocessing.transforms[2].inverse({"label": loaded["label"]})["label"]
    np.testing.assert_array_equal(labels[0], mask)


def test_a_field_of_brightness_is_taken_out():
    """N4 on a piecewise constant phantom under a smooth field: the parts are even again."""
    x, y = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64), indexing="ij")
    parts = np.where(x**2 + y**2 < 0.8, np.where(np.abs(x) < 0.4, 200.0, 100.0), 0.0)
    values = parts * np.exp(0.5 * x + 0.3 * y**2)
    shaded = MetaTensor(torch.tensor(values[None, ..., None], dtype=torch.float32))
    found = N4BiasFieldCorrectiond("image")({"image": shaded})["image"][0, ..., 0].numpy()
    inside = parts == 200
    before, after = (v[inside].std() / v[inside].mean() for v in (shaded[0, ..., 0].numpy(), found))
    assert after < before / 3


def test_a_record_is_the_text_and_its_settings():
    parser = ConfigParser(copy.deepcopy(TRAIN) | {"window": [-100, 200], "slice_axis": 1})
    found = recorded(parser)
    assert found["preprocessing"] == TRAIN["preprocessing"]
    assert (found["window"], found["slice_axis"]) == ([-100, 200], 1)
    assert "image_size" not in found and "classes" not in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_target_": "os.mkdir", "path": "x"}, "'os.mkdir' is not in an allowed package"),
        ({"_target_": "Lambdad", "keys": "image", "func": "$print"}, "'Lambdad' is not in"),
        ({"_target_": "SaveImaged", "keys": "image"}, "SaveImaged; load images by LoadImaged"),
        ({"_target_": "LoadImaged", "keys": "image", "reader": "os.system"}, "with alignflow.data"),
        ({"_target_": "Rotate90d", "keys": "$__import__('os').mkdir('x')"}, r"holds '\$__import"),
        ({"_target_": "Rotate90d", "keys": "@nothing"}, "holds '@nothing'"),
        ({"_target_": "Rotate90d", "keys": "image", "turns": 1}, "makes no transforms"),
    ],
)
def test_a_record_does_nothing_but_read(change, message):
    with pytest.raises(InputError, match=message) as caught:
        pipeline(with_transforms(change))
    assert "\n" not in str(caught.value)


def test_other_stages_need_their_settings():
    text = copy.deepcopy(TRAIN)
    text["preprocessing"]["transforms"][4]["axis"] = 0
    with pytest.raises(InputError, match="takes no '@slice_axis'.*set \"slice_axis\" at the top"):
        recorded(ConfigParser(text))


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        ("LoadMaskd", "takes no '@mask_threshold'"),
        ("FindWindowd", "takes no '@window'"),
        ("Slicesd", "takes no '@foreground_only'|takes no '@slice_axis'"),
        ("ScaleWindowd", "no ScaleWindowd; write it as train.json"),
    ],
)
def test_what_readers_cannot_do_without(taken, message):
    reading = copy.deepcopy(READING)
    parts = reading["preprocessing"]["transforms"]
    reading["preprocessing"]["transforms"] = [p for p in parts if taken not in p["_target_"]]
    with pytest.raises(InputError, match=message):
        pipeline(reading)


def test_a_step_that_is_off_is_missing():
    reading = copy.deepcopy(READING)
    reading["preprocessing"]["transforms"][-1]["_disabled_"] = True
    with pytest.raises(InputError, match="no ScaleWindowd; write it as train.json"):
        pipeline(reading)


@pytest.mark.parametrize("text", [None, 3, "Compose", {"_target_": 3}, [{"_target_": ["x"]}]])
def test_a_record_that_holds_no_transforms(text):
    with pytest.raises(InputError) as caught:
        pipeline(READING | {"preprocessing": text})
    assert "\n" not in str(caught.value)


def test_a_transform_that_fails_is_one_line(cases):
    wrong = {"_target_": "Rotate90d", "keys": "image", "spatial_axes": [0, 7]}
    with pytest.raises(
        InputError, match="case0.nii.gz': preprocessing fails .*; correct it"
    ) as caught:
        read(pipeline(with_transforms(wrong)), cases[0])
    assert "\n" not in str(caught.value)


def test_labels_between_the_classes_are_refused(cases):
    reading = copy.deepcopy(READING)
    reading["preprocessing"]["transforms"][5]["mode"] = "bilinear"
    with pytest.raises(InputError, match="invents classes in .*set mode 'nearest'"):
        read(pipeline(reading), cases[0])


def test_off_is_left_out(cases):
    n4 = {"_target_": "alignflow.data.transforms.N4BiasFieldCorrectiond", "keys": "image"}
    off = pipeline(with_transforms(n4 | {"_disabled_": True}))
    assert (
        len(off.transforms)
        == len(pipeline().transforms)
        == len(pipeline(with_transforms(n4)).transforms) - 1
    )


def test_classes_from_one_look(cases, png_dataset):
    assert find_classes(cases, progress=False)["labels"] == {
        "background": 0,
        "class1": 1,
        "class2": 2,
    }
    pictures = build_datalist(png_dataset)
    assert find_classes(pictures, threshold=100, progress=False)["labels"] == {
        "background": 0,
        "class1": 255,
    }
    stated = find_classes(cases, {"core": 2, "ring": 1}, progress=False)["labels"]
    assert stated == {"background": 0, "core": 2, "ring": 1}


def test_the_model_card_prints_what_train_json_has():
    card = (Path(__file__).parents[2] / "bundle/docs/README.md").read_text()
    printed = card.split("```json\n")[1].split("```")[0]
    assert json.loads(printed) == TRAIN["preprocessing"]


def test_blurred_outlines_are_no_classes(tmp_path):
    """Masks resized softly have values between 0 and 255 on their outlines alone."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    for k in range(3):
        mask = np.zeros((32, 32), np.uint8)
        mask[8 : 20 + k, 9:22] = 255
        mask[8, 9:22] = mask[8 : 20 + k, 9] = 128
        mask[19 + k, 10:22] = 64
        Image.fromarray(mask).save(tmp_path / f"masks/{k}.png")
        pixels = rng.integers(0, 255, (32, 32), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{k}.png")
    cases = build_datalist(tmp_path)
    with pytest.raises(InputError, match="64, 128 lie only on outlines .*set mask_threshold"):
        find_classes(cases, progress=False)
    stated = {"soft": 64, "softer": 128, "cell": 255}
    assert len(find_classes(cases, stated, progress=False)["labels"]) == 4
    assert len(find_classes(cases, threshold=100, progress=False)["labels"]) == 2
    mask[12:15, 12:15] = 128  # a part of its own
    mask[25:28, 25:28] = 64
    Image.fromarray(mask).save(tmp_path / "masks/2.png")
    assert len(find_classes(cases, progress=False)["labels"]) == 4


@pytest.mark.parametrize(("channels", "expected"), [(None, 3), (3, 3), (1, 1)])
def test_gray_and_colour_together(tmp_path, channels, expected):
    """A gray source and a site in colour are read alike, and back as they were."""
    rng = np.random.default_rng(0)
    gray, colour = rng.integers(0, 255, (8, 8), np.uint8), rng.integers(0, 255, (8, 8, 3), np.uint8)
    for name, pixels in (("gray", gray), ("colour", colour)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    settings = pipeline(reading_of(channels=channels), (8, 8))
    one, other = (
        read(settings, {"image": str(tmp_path / f"{name}.png")})[0]["image"]
        for name in ("gray", "colour")
    )
    assert len(other) == expected and len(one) == (expected if channels else 1)
    np.testing.assert_allclose((one[0] + 1) * 127.5, gray.T, atol=1e-3)
    native = colour.transpose(2, 1, 0).astype(float)
    native = native.mean(0, keepdims=True) if channels == 1 else native
    np.testing.assert_allclose((other + 1) * 127.5, native, atol=1e-3)
