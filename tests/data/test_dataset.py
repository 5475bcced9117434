"""From files to the tensors that training sees."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from datasets import slice_dataset
from monai.transforms import RandFlipd
from PIL import Image
from pydicom.data import get_testdata_file
from torch.utils.data import DataLoader

from alignflow.data.datalist import build_datalist, split_by_group, stated_labels
from alignflow.data.dataset import require_batch
from alignflow.data.formats import load
from alignflow.data.intensity import scale, unscale
from alignflow.data.writer import write_image, write_label
from alignflow.errors import InputError
from alignflow.masks.distance import to_distance


def build(data, size=(16, 16), **options):
    data = data if isinstance(data, list) else build_datalist(data)
    return slice_dataset(data, size, **options)


def save_png(root, stem, image, mask):
    for folder, pixels in (("images", image), ("masks", mask)):
        (root / folder).mkdir(exist_ok=True, parents=True)
        Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(root / folder / f"{stem}.png")


def refuse(match, *arguments, **options):
    with pytest.raises(InputError, match=match) as caught:
        build(*arguments, **options)
    return str(caught.value)


def test_pictures(png_dataset):
    dataset = build(png_dataset, size=None)
    assert (len(dataset), dataset.channels, dataset.num_classes) == (6, 3, 2)
    assert dataset.image_size == (32, 24)
    pixels = np.asarray(Image.open(png_dataset / "images/000.png")).transpose(2, 1, 0)
    mask = np.asarray(Image.open(png_dataset / "masks/000.png")).T
    item = dataset[0]
    np.testing.assert_allclose(item["image"], pixels / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(item["label"][0], mask == 255)
    torch.testing.assert_close(item["distance"], to_distance(item["label"], 2, 5.0, "disjoint"))
    assert [item[k].dtype for k in item] == [torch.float32, torch.uint8, torch.float32]
    assert {type(value) for value in item.values()} == {torch.Tensor}


def test_spec_of_pictures(png_dataset):
    spec = build(png_dataset).spec
    assert spec.labels == {"background": 0, "class1": 255}
    assert (spec.modality, spec.window) == ("RGB8", (0, 255))
    assert (spec.image_suffix, spec.label_suffix) == (".png", ".png")
    assert (spec.image_dtype, spec.label_dtype) == ("uint8", "uint8")
    assert spec.geometries == [{"shape": [32, 24], "affine": None}]


def test_what_is_written_is_read_again(tmp_path, png_dataset):
    dataset = build(png_dataset, size=None)
    for i, item in enumerate(dataset.data):
        native, grid = unscale(item["image"], *dataset.spec.window), dataset.spec.geometries[0]
        write_image(native, tmp_path / f"images/{i}", dataset.spec, grid)
        write_label(item["label"], tmp_path / f"labels/{i}", dataset.spec, grid)
    again = build(build_datalist(tmp_path), size=None)
    assert again.fingerprint == dataset.fingerprint
    assert again.spec == dataset.spec


def test_slices_of_volumes(nifti_dataset):
    labels = stated_labels(nifti_dataset)
    dataset = build(nifti_dataset, size=None, labels=labels)
    assert (len(dataset), dataset.image_size, dataset.num_classes) == (18, (24, 20), 3)
    assert list(dataset.spec.labels) == ["background", "ring", "core"]
    volume = nib.load(nifti_dataset / "images/case1.nii.gz").get_fdata()
    mask = nib.load(nifti_dataset / "labels/case1.nii.gz").get_fdata()
    window = np.percentile(volume.astype(np.float32), (0.5, 99.5))
    for k in range(6):
        item = dataset[6 + k]
        np.testing.assert_allclose(item["image"][0], scale(volume[..., k], *window), atol=1e-5)
        np.testing.assert_array_equal(item["label"][0], mask[..., k])
    affine = nib.load(nifti_dataset / "images/case1.nii.gz").affine
    assert len(dataset.spec.geometries) == 6  # the three volumes share one grid
    np.testing.assert_allclose(dataset.spec.geometries[2]["affine"], affine @ shift(2), atol=1e-6)


def shift(k):
    matrix = np.eye(4)
    matrix[2, 3] = k
    return matrix


def test_slice_axis_and_foreground(nifti_dataset):
    across = build(nifti_dataset, slice_axis=0, size=None)
    everything = build(nifti_dataset, slice_axis=0, size=None, foreground_only=False)
    assert across.image_size == (20, 6)
    assert len(everything) == 3 * 24 > len(across)
    assert all(item["label"].any() for item in across.data)


def test_each_volume_has_its_own_window(nifti_dataset):
    path = nifti_dataset / "images/case2.nii.gz"
    nifti = nib.load(path)
    nib.save(nib.Nifti1Image((50 * nifti.get_fdata()).astype(np.float32), nifti.affine), path)
    dataset = build(nifti_dataset)
    assert dataset[12]["image"].mean() < 0
    fixed = build(nifti_dataset, window=list(dataset.spec.window))
    assert fixed.spec.window == dataset.spec.window
    assert fixed[12]["image"].mean() == 1


def test_validation_set_is_like_the_training_set(nifti_dataset):
    training, validation = split_by_group(build_datalist(nifti_dataset), 0.3)
    first = build(training, labels={"core": 2, "ring": 1})
    second = build(validation, like=first)
    assert second.spec is first.spec
    assert second.num_classes == 3
    assert [int((second.label_stack == k).sum()) for k in range(3)] != [0, 0, 0]


def test_like_refuses_what_differs(nifti_dataset, png_dataset):
    first = build(png_dataset)
    gray = png_dataset / "images/000.png"
    datalist = build_datalist(png_dataset)
    Image.open(gray).convert("L").save(gray)
    refuse("image '000.png': 1 channels, but the training set has 3", datalist, like=first)
    refuse(
        r"gives \(8, 8\), but the training set has \(16, 16\)",
        datalist[1:],
        size=(8, 8),
        like=first,
    )
    mask = png_dataset / "masks/001.png"
    Image.fromarray(np.asarray(Image.open(mask)) // 2).save(mask)
    refuse("masks/001.png': value 127 is not in labels", datalist[1:], like=first)


@pytest.mark.parametrize("low", [0, 1])
def test_background_of_the_smallest_value(tmp_path, low):
    values = np.full((8, 8, 4), low, np.uint8)
    values[2:5, 2:5, 1:3] = low + 1
    image = np.random.default_rng(0).normal(size=values.shape).astype(np.float32)
    for folder, volume in (("images", image), ("labels", values)):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / folder / "a.nii")
    dataset = build(tmp_path, size=None)
    assert len(dataset) == 2
    assert dataset.spec.labels == {"background": low, "class1": low + 1}
    again = build(tmp_path, size=None, like=dataset)
    assert torch.equal(again.label_stack, dataset.label_stack)


def soft_masks(root, suffix=".png"):
    ramp = np.linspace(0, 250, 24 * 20).reshape(20, 24)
    for stem in "ab":
        save_png(root, stem, ramp[::-1], ramp)
        if suffix != ".png":
            (root / f"masks/{stem}.png").unlink()
            Image.fromarray(ramp.astype(np.uint8)).save(root / f"masks/{stem}{suffix}", quality=95)
    return root, ramp


def test_mask_threshold(tmp_path):
    root, ramp = soft_masks(tmp_path)
    refuse("looks like soft or JPEG-compressed masks; set mask_threshold", root)
    dataset = build(root, size=None, mask_threshold=127)
    np.testing.assert_array_equal(dataset[0]["label"][0], (ramp.astype(np.uint8) > 127).T)
    assert dataset.spec.labels == {"background": 0, "class1": 250}
    named = build(root, size=None, mask_threshold=127, labels={"polyp": 255}, like=None)
    assert named.spec.labels == {"background": 0, "polyp": 255}
    assert build(root, size=None, mask_threshold=127, like=named).fingerprint == named.fingerprint
    refuse("give one foreground class", root, mask_threshold=127, labels={"a": 1, "b": 2})
    refuse("none of 2 has foreground", root, mask_threshold=251)


def test_jpeg_masks(tmp_path):
    root, _ = soft_masks(tmp_path, ".jpg")
    refuse("values in a JPEG-compressed mask; set mask_threshold", root)
    assert build(root, mask_threshold=127).num_classes == 2


def test_soft_nifti_mask_is_thresholded(nifti_dataset):
    for path in (nifti_dataset / "labels").iterdir():
        nifti = nib.load(path)
        soft = (nifti.get_fdata() * 0.45).astype(np.float32)
        nib.save(nib.Nifti1Image(soft, nifti.affine), path)
    refuse("fractions, so it looks like a soft mask; set mask_threshold", nifti_dataset)
    assert build(nifti_dataset, mask_threshold=0.5).num_classes == 2


def test_dicom_series(tmp_path, write_series):
    volume = np.random.default_rng(0).integers(0, 900, (9, 8, 4)).astype(np.int16)
    write_series(tmp_path / "images" / "case1", volume)
    affine = load(tmp_path / "images" / "case1").affine.numpy()
    (tmp_path / "labels").mkdir()
    mask = (volume > 400).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "labels" / "case1.nii.gz")
    dataset = build(tmp_path, size=None)
    np.testing.assert_array_equal(dataset[2]["label"][0], mask[..., 2])
    assert (dataset.spec.modality, dataset.spec.image_suffix) == ("MR", ".nii.gz")
    assert dataset.spec.image_dtype == "int16"
    np.testing.assert_allclose(dataset.spec.geometries[2]["affine"], affine @ shift(2), atol=1e-6)


def test_single_dicom_files_with_png_masks(tmp_path):
    (tmp_path / "images").mkdir()
    shutil.copy(get_testdata_file("CT_small.dcm", download=False), tmp_path / "images" / "a.dcm")
    mask = np.zeros((128, 128), np.uint8)
    mask[20:60, 30:90] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    dataset = build(tmp_path, size=None)
    np.testing.assert_array_equal(dataset[0]["label"][0], mask.T == 255)
    assert (dataset.spec.modality, dataset.spec.window) == ("CT", (-200, 300))
    assert dataset.spec.label_suffix == ".nii.gz"
    assert dataset.spec.geometries[0]["shape"] == [128, 128]


def test_empty_masks_of_pictures_stay(png_dataset):
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(png_dataset / "masks/003.png")
    dataset = build(png_dataset)
    assert len(dataset) == 6
    assert not dataset[3]["label"].any()
    assert (dataset[3]["distance"] == -1).all()


def test_transform_gives_plain_tensors_and_leaves_the_data_alone(png_dataset):
    flip = RandFlipd(["image", "label", "distance"], prob=1.0, spatial_axis=0)
    plain, flipped = build(png_dataset), build(png_dataset, transform=flip)
    for _ in range(2):
        for key, value in flipped[1].items():
            assert type(value) is torch.Tensor
            assert torch.equal(value, plain[1][key].flip(1))
    batch = next(iter(DataLoader(flipped, batch_size=4)))
    assert batch["image"].shape == (4, 3, 16, 16)


def test_threads_do_not_change_the_result(nifti_dataset):
    assert (
        build(nifti_dataset, num_workers=1).fingerprint
        == build(nifti_dataset, num_workers=8).fingerprint
    )


def test_require_batch(png_dataset):
    dataset = build(png_dataset)
    require_batch(dataset, 6)
    with pytest.raises(InputError, match="only 6 training images; set batch_size to at most 6"):
        require_batch(dataset, 7)


def test_all_problems_in_one_error(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(14):
        save_png(tmp_path, f"{i:02d}", rng.integers(0, 255, (8, 8)), np.eye(8))
    for i in range(12):
        (tmp_path / f"images/{i:02d}.png").write_bytes(b"")
    save_png(tmp_path, "12", np.full((8, 8), 7), np.eye(8))
    lines = refuse("empty", tmp_path).split("\n")
    assert len(lines) == 11 and lines[-1] == "... and 3 more"
    assert all(f"{i:02d}.png'" in lines[i] for i in range(10))
    for i in range(12):
        save_png(tmp_path, f"{i:02d}", np.eye(8), np.eye(8))
    assert refuse("every pixel is 7", tmp_path).count("\n") == 0


def test_mixed_channels(png_dataset):
    path = png_dataset / "images/004.png"
    Image.open(path).convert("L").save(path)
    refuse("image '004.png': 1 channels, but '000.png' has 3; convert one of them", png_dataset)


def test_mixed_modalities(tmp_path, write_series):
    volume = np.arange(64, dtype=np.int16).reshape(4, 4, 4)
    cases = []
    for name, modality in (("a", "MR"), ("b", "MR"), ("c", "CT")):
        write_series(tmp_path / name, volume, modality=modality, direction=np.eye(3))
        affine = np.diag([-0.7, -0.9, 2.5, 1])
        affine[:3, 3] = [31.5, -12.25, 77]
        nib.save(nib.Nifti1Image((volume > 30).astype(np.uint8), affine), tmp_path / f"{name}.nii")
        cases.append({"image": str(tmp_path / name), "label": str(tmp_path / f"{name}.nii")})
    refuse("image 'c': CT, but 'a' is MR", cases)
    assert build(cases, modality="MR").spec.modality == "MR"


def test_unknown_label_names_file_and_value(nifti_dataset):
    refuse("label.*case0.nii.gz': value 2 is not in labels", nifti_dataset, labels={"ring": 1})


def test_no_foreground_anywhere(png_dataset):
    for path in (png_dataset / "masks").iterdir():
        Image.fromarray(np.zeros((24, 32), np.uint8)).save(path)
    refuse("none of 6 has foreground", png_dataset)


def test_slices_of_two_sizes(png_dataset):
    colours = np.random.default_rng(0).integers(0, 9, (9, 9, 3))
    save_png(png_dataset, "zzz", colours, np.eye(9) * 255)
    refuse("preprocessing: slices of 2 sizes", build_datalist(png_dataset), size=None)


def test_bad_arguments(png_dataset):
    refuse("datalist: empty", [])
    refuse("slice_axis: 3; set 0, 1 or 2", png_dataset, slice_axis=3)


def test_transform_may_change_its_dictionary(png_dataset):
    def without_distance(item):
        del item["distance"]
        return item

    dataset = build(png_dataset, transform=without_distance)
    assert [sorted(dataset[0]) for _ in range(2)] == [["image", "label"]] * 2
