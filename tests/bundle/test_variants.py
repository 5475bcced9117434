"""Other precisions, devices, kinds of classes and slices with the same configs."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from alignflow.data.datalist import build_datalist, split_by_group
from alignflow.stage1 import Stage1


def assert_finite(folder):
    for name in ("model.pt", "mask_model.pt", "segmenter.pt"):
        for key, value in torch.load(folder / name, weights_only=True).items():
            assert value.dtype in (torch.float32, torch.int64), key
            assert torch.isfinite(value).all(), key


def distance(folder, other, name):
    """Relative L2 distance of two weight files."""
    ours, theirs = (torch.load(f / name, weights_only=True) for f in (folder, other))
    difference = sum((ours[key] - theirs[key]).float().square().sum() for key in ours)
    return float((difference / sum(v.float().square().sum() for v in theirs.values())).sqrt())


def test_bf16_on_the_cpu_stays_close_to_fp32(train, infer, three_class_dataset, tmp_path):
    for precision in ("fp32", "bf16"):
        train(three_class_dataset, tmp_path / precision, precision=precision, learning_rate=0.01)
        assert_finite(tmp_path / precision)
    for name in ("model.pt", "mask_model.pt"):
        assert 1e-6 < distance(tmp_path / "bf16", tmp_path / "fp32", name) < 0.05
    infer(tmp_path / "bf16", tmp_path / "pairs", precision="bf16")
    assert len(list((tmp_path / "pairs/images").iterdir())) == 4


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(train, three_class_dataset, tmp_path):
    for compile in (False, True):
        options = {"precision": "fp32", "learning_rate": 0.01, "compile": compile}
        train(three_class_dataset, tmp_path / str(compile), "train_masks", **options)
    found = distance(tmp_path / "True", tmp_path / "False", "mask_model.pt")
    assert 0 <= found < 1e-3


def test_nested_classes(train, infer, nifti_dataset, tmp_path):
    train(nifti_dataset, tmp_path / "models", mask_scheme="nested")
    stage1 = Stage1.load(str(tmp_path / "models"))
    assert (stage1.scheme, stage1.num_classes) == ("nested", 3)
    infer(tmp_path / "models", tmp_path / "pairs")
    values = [np.unique(nib.load(path).dataobj) for path in (tmp_path / "pairs/labels").iterdir()]
    assert set(np.concatenate(values)) <= {0, 1, 2}


def test_masks_above_a_threshold(train, infer, nifti_dataset, tmp_path):
    train(nifti_dataset, tmp_path / "models", mask_threshold=0.5, labels=None)
    infer(tmp_path / "models", tmp_path / "pairs")
    values = [np.unique(nib.load(path).dataobj) for path in (tmp_path / "pairs/labels").iterdir()]
    # the written foreground is the highest native value: above the threshold when read again
    assert set(np.concatenate(values)) == {0, 2}


def test_a_validation_image_without_foreground(train, png_dataset, tmp_path):
    training, validation = split_by_group(build_datalist(png_dataset), 0.2)
    assert len(validation) == 1
    Image.new("L", (32, 24)).save(validation[0]["label"])
    train(png_dataset, tmp_path / "models", validation_fraction=0.2)
    assert_finite(tmp_path / "models")


@pytest.mark.parametrize(("axis", "size"), [(0, [20, 8]), (1, [24, 8])])
def test_slices_along_another_axis(train, infer, nifti_dataset, tmp_path, axis, size):
    train(nifti_dataset, tmp_path / "models", slice_axis=axis, image_size=size)
    infer(tmp_path / "models", tmp_path / "pairs")
    source = nib.load(nifti_dataset / "images/case0.nii.gz")
    in_plane = [a for a in range(3) if a != axis]
    written = nib.load(tmp_path / "pairs/images/pair_00000.nii.gz")
    assert written.shape == (*(source.shape[a] for a in in_plane), 1)
    expected = source.affine[:3, [*in_plane, axis]]
    np.testing.assert_allclose(written.affine[:3, :3], expected, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu(train, infer, three_class_dataset, tmp_path, precision):
    train(three_class_dataset, tmp_path / "models", device="cuda", precision=precision)
    assert_finite(tmp_path / "models")
    train(three_class_dataset, tmp_path / "cpu", precision="fp32")
    for name in ("model.pt", "mask_model.pt"):
        assert distance(tmp_path / "models", tmp_path / "cpu", name) < 0.05
    infer(tmp_path / "models", tmp_path / "pairs", device="cuda", precision=precision)
    provenance = json.loads((tmp_path / "pairs/provenance.json").read_text())
    assert provenance["config"]["device"] == "cuda"
    assert len(list((tmp_path / "pairs/images").iterdir())) == 4
