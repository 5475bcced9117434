"""Bad input ends a training before its first step, with one line: the file and the fix."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def assert_refused(train, refused, tmp_path):
    """`assert_refused(words, dataset_dir, **overrides)`: the line has all of the words."""

    def check(words, dataset_dir, run_id="training", **overrides):
        line = refused(train, dataset_dir, tmp_path / "models", run_id=run_id, **overrides)
        missing = [word for word in words if word not in line]
        assert not missing, line
        assert re.search(r"[;:] .*\w", line)  # what is wrong, then what to do
        for written in ("checkpoints", "samples"):
            assert not list((tmp_path / "models").glob(f"{written}/*"))
        assert not list((tmp_path / "models").glob("*model*"))

    return check


def spoil(path, change):
    """Rewrite a picture with `change` made to its pixels."""
    pixels = np.asarray(Image.open(path)).copy()
    Image.fromarray(change(pixels)).save(path)


def respoil(path, change):
    """Rewrite a volume with `change` made to its voxels."""
    volume = nib.load(path)
    changed = change(np.asarray(volume.dataobj).copy())
    nib.save(nib.Nifti1Image(changed, volume.affine), path)


def test_a_missing_mask(assert_refused, png_dataset):
    (png_dataset / "masks/003.png").unlink()
    assert_refused(["003.png", "no mask", "add"], png_dataset)


def test_a_listed_file_that_is_not_there(assert_refused, nifti_dataset):
    (nifti_dataset / "labels/case1.nii.gz").unlink()
    assert_refused(["case1.nii.gz", "dataset.json", "no such file"], nifti_dataset)


def test_sizes_that_differ(assert_refused, png_dataset):
    spoil(png_dataset / "masks/002.png", lambda pixels: pixels[:-1])
    assert_refused(["002.png", "32x23", "32x24", "grid of its image"], png_dataset)


def test_geometries_that_differ(assert_refused, nifti_dataset):
    path = nifti_dataset / "labels/case0.nii.gz"
    volume = nib.load(path)
    shifted = volume.affine.copy()
    shifted[0, 3] += 7
    nib.save(nib.Nifti1Image(np.asarray(volume.dataobj), shifted), path)
    assert_refused(["case0.nii.gz", "affine", "7 mm", "resample"], nifti_dataset)


def test_an_empty_folder(assert_refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_refused(["empty", "images/"], tmp_path / "empty")


def test_empty_subfolders(assert_refused, tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    assert_refused(["images", "no image"], tmp_path / "data")


def test_a_folder_that_is_not_there(assert_refused, tmp_path):
    assert_refused(["absent", "no such folder", "correct"], tmp_path / "absent")


def test_no_folder_given(assert_refused):
    assert_refused(["dataset_dir is not set", "--dataset_dir"], "")


@pytest.mark.parametrize("name", ["images/001.png", "masks/001.png"])
@pytest.mark.parametrize("content", [b"", b"not a picture", None])
def test_unreadable_or_truncated_pictures(assert_refused, png_dataset, name, content):
    path = png_dataset / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert_refused([name, "replace or remove it"], png_dataset)


@pytest.mark.parametrize("name", ["images/case1.nii.gz", "labels/case1.nii.gz"])
def test_truncated_volumes(assert_refused, nifti_dataset, name):
    path = nifti_dataset / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert_refused([name, "replace or remove it"], nifti_dataset)


def test_nan(assert_refused, nifti_dataset):
    def change(voxels):
        voxels[3, 4, 2] = np.nan
        return voxels

    respoil(nifti_dataset / "images/case2.nii.gz", change)
    assert_refused(["case2.nii.gz", "NaN", "repair or remove"], nifti_dataset)


def test_a_constant_image(assert_refused, png_dataset):
    spoil(png_dataset / "images/004.png", lambda pixels: np.full_like(pixels, 90))
    assert_refused(["004.png", "every pixel is 90", "remove it"], png_dataset)


def test_a_label_that_the_config_does_not_know(assert_refused, nifti_dataset):
    respoil(nifti_dataset / "labels/case1.nii.gz", lambda voxels: np.where(voxels == 2, 9, voxels))
    assert_refused(["case1.nii.gz", "value 9", "ring=1", "correct the mask"], nifti_dataset)


def test_masks_without_foreground(assert_refused, png_dataset):
    for path in (png_dataset / "masks").iterdir():
        spoil(path, np.zeros_like)
    assert_refused(["masks", "none of", "foreground"], png_dataset)


def test_soft_masks(assert_refused, png_dataset):
    rng = np.random.default_rng(0)
    for path in (png_dataset / "masks").iterdir():
        spoil(path, lambda pixels: rng.integers(0, 256, pixels.shape).astype(np.uint8))
    assert_refused(["different values", "set mask_threshold"], png_dataset)


def test_mixed_channels(assert_refused, png_dataset):
    spoil(png_dataset / "images/005.png", lambda pixels: pixels[..., 0])
    assert_refused(
        ["005.png", "1 channels", "has 3", "equal channels"], png_dataset, validation_fraction=0.2
    )


def test_fewer_images_than_the_batch(assert_refused, png_dataset):
    for run_id in ("training", "train_images", "train_masks", "train_segmenter"):
        assert_refused(
            ["batch_size: 8", "only 5 training images"], png_dataset, run_id=run_id, batch_size=8
        )


def test_one_group_cannot_be_split(assert_refused, nifti_dataset):
    path = nifti_dataset / "dataset.json"
    description = json.loads(path.read_text())
    for case in description["training"]:
        case["group"] = "the same"
    path.write_text(json.dumps(description))
    assert_refused(["1 group", "group_pattern"], nifti_dataset)


def test_broken_dataset_json(assert_refused, nifti_dataset):
    (nifti_dataset / "dataset.json").write_text('{"training": [')
    assert_refused(["dataset.json", "not valid JSON"], nifti_dataset)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"epochs": 5}, ["'epochs' has no effect", "mask_epochs"]),
        ({"train::trainer::max_epoch": 5}, ["train::trainer::max_epoch", "max_epochs"]),
        ({"validate::evaluator::handlers::0::nam": 5}, ["handlers::0::nam", "SampleGrid takes"]),
        ({"train::dataset::cache": True}, ["train::dataset::cache", "SliceDataset takes"]),
        ({"validate::metrics": {}}, ["validate::metrics", "no effect"]),
        ({"precision": "fp8"}, ["precision", "fp8", "bf16"]),
        ({"precision": "fp16"}, ["precision", "needs a GPU"]),
        ({"device": "gpu"}, ["device", "gpu", "cpu"]),
        ({"image_size": [18, 16]}, ["image_size", "[18, 16]", "divisible by 4", "[16, 16]"]),
        ({"image_size": 16}, ["image_size", "two whole numbers"]),
        ({"batch_size": 0}, ["batch_size", "at least 1"]),
        ({"foreground_only": "false"}, ["foreground_only", "True or False"]),
        ({"image_solver": "rk4"}, ["image_solver", "rk4", "heun"]),
        ({"mask_scheme": "nest"}, ["scheme", "nest", "nested"]),
        ({"modality": "XRAY"}, ["modality", "XRAY", "CT"]),
        ({"window": [300, -200]}, ["window", "lower one first"]),
        ({"labels": ["ring"]}, ["labels", "ring", "value"]),
        ({"slice_axis": 3}, ["slice_axis", "0, 1 or 2"]),
        ({"group_pattern": "("}, ["group_pattern", "correct"]),
        ({"group_column": "patient"}, ["group_column", "index.csv"]),
        ({"validation_fraction": 1.5}, ["validation_fraction", "between 0 and 1"]),
        ({"network_def::channels": [32, 40]}, ["network", "multiple of norm_num_groups"]),
        ({"network_def::attention_levels": [True]}, ["network", "attention_levels"]),
    ],
)
def test_keys_and_values(assert_refused, nifti_dataset, overrides, words):
    assert_refused(words, nifti_dataset, **overrides)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"pairs": 5}, ["'pairs' has no effect", "num_pairs"]),
        ({"masks::jitter": 0.1}, ["masks::jitter", "jitter_scale"]),
        ({"native_size": "no"}, ["native_size", "True or False"]),
        ({"image_steps": 0}, ["image_steps", "at least 1"]),
        ({"precision": "half"}, ["precision", "half", "bf16"]),
        ({"num_pairs": None}, ["num_pairs", "dataset_dir"]),
    ],
)
def test_keys_and_values_of_inference(
    three_class_models, infer, refused, tmp_path, overrides, words
):
    line = refused(infer, three_class_models, tmp_path / "pairs", **overrides)
    assert not [word for word in words if word not in line], line
    assert not (tmp_path / "pairs").exists()


def assert_one_line(done, words):
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert not [word for word in words if word not in last], last


def test_on_the_command_line_data(command, shell, png_dataset, tmp_path):
    path = png_dataset / "images/001.png"
    path.write_bytes(path.read_bytes()[:200])
    done = shell(command("train", "training", dataset_dir=png_dataset, output_dir=tmp_path / "m"))
    assert_one_line(done, ["001.png", "cannot be read", "replace or remove it"])
    assert not (tmp_path / "m/checkpoints").exists()


def test_on_the_command_line_a_key(command, shell, png_dataset, tmp_path):
    overrides = {"dataset_dir": png_dataset, "output_dir": tmp_path / "m"}
    key = {"train::trainer::max_epoch": 3}
    done = shell(command("train", "training", **overrides, **key))
    assert_one_line(done, ["train::trainer::max_epoch", "has no effect", "max_epochs"])
    assert not (tmp_path / "m").exists()


def test_a_folder_that_the_command_line_cuts_off_is_not_that_of_another_patient(
    shell, command, bundle, png_dataset, tmp_path
):
    (tmp_path / "patient").symlink_to(png_dataset)
    (tmp_path / "patient#2").mkdir()
    config = bundle / "configs/train.json"
    folders = {"dataset_dir": "patient#2", "output_dir": "models"}
    done = shell(command("train", "training", config_file=str(config), **folders), cwd=tmp_path)
    assert_one_line(done, ["config \"dataset_dir\" 'patient#2'", "rename the file or folder"])
    assert not (tmp_path / "models").exists()
