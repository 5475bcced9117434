"""nnU-Net's folders are read as nnU-Net reads them."""

import json

import nibabel as nib
import numpy as np
import pytest
from datasets import slice_dataset
from PIL import Image

from alignflow.data.datalist import build_datalist, dataset_json, stated_labels
from alignflow.data.formats import load
from alignflow.data.nnunet import description, labels_of
from alignflow.data.references import listed_files
from alignflow.errors import InputError

SIZE = (6, 5)  # rows, columns
V1 = {"modality": {"0": "US"}, "labels": {"0": "background", "1": "lesion"}}
V2 = {"channel_names": {"0": "US"}, "labels": {"background": 0, "lesion": 1}}


def pixels(number, channel=0):
    return np.random.default_rng([number, channel]).integers(1, 255, SIZE).astype(np.uint8)


@pytest.fixture
def write(tmp_path):
    """`write(content, channels, count, part)`: PNG files and `dataset.json`; returns the folder."""

    def call(content=None, channels=1, count=4, part="Tr", labels=True):
        images, masks = tmp_path / f"images{part}", tmp_path / f"labels{part}"
        images.mkdir()
        for number in range(count):
            for channel in range(channels):
                path = images / f"case_{number:03d}_{channel:04d}.png"
                Image.fromarray(pixels(number, channel)).save(path)
            if labels:
                masks.mkdir(exist_ok=True)
                mask = (pixels(number) > 128).astype(np.uint8)
                Image.fromarray(mask).save(masks / f"case_{number:03d}.png")
        if content is not None:
            describe(tmp_path, content)
        return tmp_path

    return call


def describe(root, content):
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def refused(read, root):
    with pytest.raises(InputError) as caught:
        read(root)
    return str(caught.value)


def listed(count=4):
    return [
        {"image": f"./imagesTr/case_{k:03d}.png", "label": f"./labelsTr/case_{k:03d}.png"}
        for k in range(count)
    ]


@pytest.mark.parametrize("content", [None, V2, V1 | {"training": listed(), "test": []}])
def test_versions(write, content):
    root = write(content)
    cases = build_datalist(root)
    assert [case["group"] for case in cases] == [f"case_{k:03d}" for k in range(4)]
    assert [case["label"] for case in cases] == [
        f"{root}/labelsTr/case_{k:03d}.png" for k in range(4)
    ]
    for number, case in enumerate(cases):
        np.testing.assert_array_equal(load(case["image"])[0], pixels(number).T)
        assert case.get("modality") == ("US" if content else None)
    assert stated_labels(root) == ({"background": 0, "lesion": 1} if content else None)


@pytest.mark.parametrize("version", [1, 2])
def test_channels_of_several_files(write, version):
    names = {"0": "T1", "1": "T2"}
    content = (
        {"channel_names": names} if version == 2 else {"modality": names, "training": listed()}
    )
    root = write(content, channels=2)
    cases = build_datalist(root, r"_(\d+)$")
    assert [case["group"] for case in cases] == ["000", "001", "002", "003"]
    image = load(cases[2]["image"])
    np.testing.assert_array_equal(image, np.stack([pixels(2).T, pixels(2, 1).T]))
    assert image.meta["filename_or_obj"] == f"{root}/imagesTr/case_002.png"
    dataset = slice_dataset(cases)
    assert dataset.channels == 2 and len(dataset) == 4
    assert dataset.spec.image_suffix == ".mha"  # no picture holds two channels
    assert listed_files(root) == [(case["image"], case["label"]) for case in cases]


def test_a_colour_picture_is_one_file(write):
    root = write({"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0}})
    for number in range(4):
        colour = np.stack([pixels(number, channel) for channel in range(3)], axis=-1)
        Image.fromarray(colour).save(root / f"imagesTr/case_{number:03d}_0000.png")
    cases = build_datalist(root)
    assert load(cases[0]["image"]).shape == (3, *SIZE[::-1])
    assert "modality" not in dataset_json(root) and "modality" not in cases[0]


def test_volumes_of_two_channels_lie_on_one_grid(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    volumes = np.random.default_rng(0).random((2, 6, 5, 4)).astype(np.float32)
    for channel, volume in enumerate(volumes):
        path = tmp_path / f"imagesTr/a_{channel:04d}.nii.gz"
        nib.save(nib.Nifti1Image(volume, affine), path)
    nib.save(
        nib.Nifti1Image((volumes[0] > 0.5).astype(np.uint8), affine), tmp_path / "labelsTr/a.nii.gz"
    )
    image = load(build_datalist(tmp_path)[0]["image"])
    np.testing.assert_array_equal(image, volumes)
    np.testing.assert_array_equal(image.affine, affine)
    affine[0, 3] += 0.2
    nib.save(nib.Nifti1Image(volumes[1], affine), path)
    assert "a_0001.nii.gz': another grid than that of" in refused(
        load, tmp_path / "imagesTr/a.nii.gz"
    )
    nib.save(nib.Nifti1Image(volumes[1][:3], affine), path)
    assert "give channels of one image on one grid" in refused(load, tmp_path / "imagesTr/a.nii.gz")


@pytest.mark.parametrize("content", [None, {"channel_names": {"0": "T1", "1": "T2"}}])
def test_a_channel_that_is_missing(write, content):
    root = write(content, channels=2)
    (root / "imagesTr/case_001_0001.png").unlink()
    for read in (build_datalist, listed_files):
        line = refused(read, root)
        assert f"image '{root}/imagesTr/case_001_0001.png': no such file, but images have 2" in line
        assert "\n" not in line


def test_all_files_of_a_channel_are_missing(write):
    line = refused(build_datalist, write({"channel_names": {"0": "T1", "1": "T2"}}))
    assert "case_000_0001.png': no such file, but images have 2 channels" in line


def test_a_channel_that_is_not_named(write):
    line = refused(build_datalist, write(V2, channels=2))
    assert "case_000_0001.png': a channel that dataset.json does not name" in line


def test_a_mask_that_is_missing(write):
    root = write(V2)
    (root / "labelsTr/case_002.png").rename(root / "labelsTr/case_002x.png")
    line = refused(build_datalist, root)
    assert f"case_002.png': no mask '{root}/labelsTr/case_002.*'; add it (there: 'case_002x" in line


def test_labels_without_folder_need_it(write):
    assert "or imagesTr/ and labelsTr/" in refused(build_datalist, write(V2, labels=False))


def test_names_that_end_in_a_number_of_their_own(write):
    """As in AMOS, a Decathlon folder."""
    root = write(V2)
    for number in range(4):
        (root / f"imagesTr/case_{number:03d}_0000.png").rename(
            root / f"imagesTr/a_{number:04d}.png"
        )
        (root / f"labelsTr/case_{number:03d}.png").rename(root / f"labelsTr/a_{number:04d}.png")
    assert [case["group"] for case in build_datalist(root)] == [f"a_{k:04d}" for k in range(4)]
    (root / "imagesTr/a_0000.png").unlink()  # numbers of patients, unlike channels, may begin at 1
    assert len(listed_files(root / "imagesTr")) == 3


@pytest.mark.parametrize("name", ["case_001.png", "case_001_0000.tif"])
def test_two_files_of_one_case(write, name):
    root = write(V2, channels=2)
    (root / "imagesTr/case_001_0000.png").rename(root / f"imagesTr/{name}")
    assert "is the same case; keep one format" in refused(build_datalist, root)


@pytest.mark.parametrize("content", [V2, V1 | {"training": listed()}, V1 | {"training": []}])
def test_references_without_masks(write, content):
    root = write(content, labels=False)
    expected = [(f"{root}/imagesTr/case_{k:03d}.png", None) for k in range(4)]
    assert listed_files(root) == listed_files(root / "imagesTr") == expected


def test_test_images_as_references(write):
    root = write(V2 | {"channel_names": {"0": "A", "1": "B"}}, channels=2, part="Ts", labels=False)
    expected = [(f"{root}/imagesTs/case_{k:03d}.png", None) for k in range(4)]
    assert listed_files(root) == listed_files(root / "imagesTs") == expected
    assert load(expected[0][0]).shape[0] == 2


def test_test_images_with_masks(write):
    root = write(V2, part="Ts")
    assert listed_files(root)[3] == (
        f"{root}/imagesTs/case_003.png",
        f"{root}/labelsTs/case_003.png",
    )


def test_regions_and_the_ignore_label_are_refused(write):
    root = write(V2 | {"labels": {"background": 0, "whole": [1, 2], "core": 2}})
    line = refused(stated_labels, root)
    assert "labels has 'whole': [1, 2], a region of several values; give each value a name" in line
    assert len(build_datalist(root)) == 4  # labels may be stated in the config instead
    describe(root, V2 | {"labels": {"background": 0, "lesion": 1, "ignore": 2}})
    assert "labels has 'ignore': 2, pixels that nnU-Net leaves out" in refused(stated_labels, root)
    describe(root, V2 | {"labels": ["background", "lesion"]})
    assert 'labels is ["background", "lesion"]; give' in refused(stated_labels, root)


def test_files_listed_anywhere(write):
    root = write()
    cases = {
        f"c{k}": {
            "images": [f"imagesTr/case_{k:03d}_0000.png"],
            "label": f"labelsTr/case_{k:03d}.png",
        }
        for k in (0, 2)
    }
    describe(root, V2 | {"dataset": cases})
    assert [case["image"][-17:] for case in build_datalist(root)] == [
        "case_000_0000.png",
        "case_002_0000.png",
    ]
    cases["c0"]["images"] *= 2
    describe(root, V2 | {"dataset": cases})
    assert "dataset has 'c0' with images" in refused(build_datalist, root)


@pytest.mark.parametrize(
    ("native", "expected"),
    [
        ({"background": 0, "a": 1, "b": 2}, [0, 1, 2]),
        ({"background": 0, "a": 2, "b": 1}, [0, 2, 1]),
        ({"background": 0, "a": 255}, [0, 1]),
        ({"background": 0, "a": 1, "b": 3}, [0, 1, 2]),
        ({"background": 7, "a": 1}, [0, 1]),
    ],
)
def test_written_values_have_no_gap(native, expected):
    assert labels_of({k: float(v) for k, v in native.items()}) == dict(
        zip(native, expected, strict=True)
    )


def test_written_names_and_description(png_source):
    assert labels_of({"other": 0.0, "background": 1.0, "ignore": 2.0}) == {
        "background": 0.0,
        "background_": 1.0,
        "ignore_": 2.0,
    }
    assert description(png_source(channels=3, image_suffix=".jpg"), 9) == {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "disc": 1},
        "numTraining": 9,
        "file_ending": ".png",
    }
    made = description(png_source(channels=2, modality="MR", image_suffix=".nii"), 9)
    assert made["channel_names"] == {"0": "MR", "1": "MR"} and made["file_ending"] == ".nii.gz"
