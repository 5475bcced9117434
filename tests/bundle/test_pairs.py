"""The same command gives the same pairs, whatever the batch; masks may come from a folder."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
from PIL import Image


def contents(folder):
    """Relative path -> bytes of every file; without the commit, which may change meanwhile."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    if "provenance.json" in found:
        found["provenance.json"] = re.sub(rb'"commit": ".*"', b"", found["provenance.json"])
    return found


def volumes(folder):
    return [np.asarray(nib.load(path).dataobj) for path in sorted(folder.iterdir())]


def test_the_same_command_writes_the_same_bytes(
    three_class_models, infer, bundle, command, shell, tmp_path, monkeypatch
):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    infer(three_class_models, "pairs")
    call = command(
        "inference",
        "infer",
        config_file=bundle / "configs/inference.json",
        bundle_root=bundle,
        model_dir=three_class_models,
        output_dir="pairs",
    )
    done = shell(call, there)
    assert done.returncode == 0, done.stderr
    first, second = contents(here / "pairs"), contents(there / "pairs")
    assert len(first) == 4 + 4 + 3
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_a_batch_of_one_gives_the_same_pairs_up_to_rounding(three_class_models, infer, tmp_path):
    infer(three_class_models, tmp_path / "four", batch_size=4)
    infer(three_class_models, tmp_path / "one", batch_size=1)
    for one, four in zip(
        volumes(tmp_path / "one/labels"), volumes(tmp_path / "four/labels"), strict=True
    ):
        # a distance within rounding of a tie may fall to the other class
        assert (one != four).mean() <= 0.002
    for one, four in zip(
        volumes(tmp_path / "one/images"), volumes(tmp_path / "four/images"), strict=True
    ):
        assert np.abs(one.astype(int) - four).max() <= 1  # one step of the integer file


def test_fewer_pairs_are_the_first_of_more(three_class_models, infer, tmp_path):
    infer(three_class_models, tmp_path / "four", batch_size=2)
    infer(three_class_models, tmp_path / "two", batch_size=2, num_pairs=2)
    four, two = contents(tmp_path / "four"), contents(tmp_path / "two")
    pairs = [name for name in two if name.startswith(("images", "labels"))]
    assert len(pairs) == 4
    assert all(two[name] == four[name] for name in pairs)


def test_another_seed_gives_other_pairs(three_class_models, infer, tmp_path):
    infer(three_class_models, tmp_path / "zero")
    infer(three_class_models, tmp_path / "one", seed=1)
    zero, one = volumes(tmp_path / "zero/images"), volumes(tmp_path / "one/images")
    assert all((a != b).mean() > 0.5 for a, b in zip(zero, one, strict=True))


def test_masks_of_a_folder_keep_values_and_geometry(train, infer, three_class_dataset, tmp_path):
    train(three_class_dataset, tmp_path / "models", image_size=[24, 20])
    masks = tmp_path / "masks"
    masks.mkdir()
    flat = np.zeros((24, 20, 3), np.uint8)
    flat[5:15, 4:9, 1] = 3
    flat[8:12, 4:7, 1] = 7
    flat[3:9, 10:18, 2] = 7
    affine = np.array([[0, -2, 0, 30], [1.5, 0, 0, -8], [0, 0, 5, 100], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(flat, affine), masks / "drawn.nii.gz")

    infer(tmp_path / "models", tmp_path / "pairs", dataset_dir=str(masks), num_pairs=None)

    assert len(list((tmp_path / "pairs/images").iterdir())) == 2  # slice 0 has no foreground
    for pair, k in (("pair_00000", 1), ("pair_00001", 2)):
        label = nib.load(tmp_path / f"pairs/labels/{pair}.nii.gz")
        image = nib.load(tmp_path / f"pairs/images/{pair}.nii.gz")
        np.testing.assert_array_equal(np.asarray(label.dataobj)[..., 0], flat[..., k])
        expected = affine.copy()
        expected[2, 3] += 5 * k
        for written in (label, image):
            np.testing.assert_allclose(written.affine, expected, atol=1e-5)
    provenance = json.loads((tmp_path / "pairs/provenance.json").read_text())
    assert provenance["masks"]["drawn"] == 0


def test_masks_of_another_size_are_resampled_there_and_back(train, infer, png_dataset, tmp_path):
    train(png_dataset, tmp_path / "models", validation_fraction=0.2)
    (tmp_path / "data/masks").mkdir(parents=True)
    y, x = np.mgrid[:60, :80]
    drawn = np.where(np.hypot(x - 30, y - 35) < 20, 255, 0).astype(np.uint8)
    Image.fromarray(drawn).save(tmp_path / "data/masks/drawn.png")
    infer(tmp_path / "models", tmp_path / "pairs", dataset_dir=str(tmp_path / "data"))
    assert len(list((tmp_path / "pairs/images").iterdir())) == 4  # the one mask, four times
    images = [np.asarray(Image.open(p)) for p in sorted((tmp_path / "pairs/images").iterdir())]
    assert images[0].shape == (60, 80, 3)
    assert (images[0] != images[1]).any()
    written = np.asarray(Image.open(tmp_path / "pairs/labels/pair_00000.png")) > 0
    overlap = 2 * (written & (drawn > 0)).sum() / (written.sum() + (drawn > 0).sum())
    assert overlap > 0.9


def test_masks_that_the_bundle_cannot_use(three_class_models, infer, refused, tmp_path):
    def attempt(dataset_dir, **overrides):
        return refused(
            infer, three_class_models, tmp_path / "pairs", dataset_dir=str(dataset_dir), **overrides
        )

    assert "no such folder of masks" in attempt(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "no masks" in attempt(tmp_path / "empty")
    (tmp_path / "foreign").mkdir()
    nib.save(
        nib.Nifti1Image(np.full((24, 20, 1), 4, np.uint8), np.eye(4)),
        tmp_path / "foreign/drawn.nii.gz",
    )
    line = attempt(tmp_path / "foreign")
    assert "drawn.nii.gz" in line and "value 4 is not in labels" in line
    assert not (tmp_path / "pairs").exists()


def test_models_that_are_not_there_or_of_another_run(three_class_models, infer, refused, tmp_path):
    assert "run training first" in refused(infer, tmp_path, tmp_path / "pairs")
    copy = tmp_path / "models"
    copy.mkdir()
    for path in three_class_models.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    with open(copy / "model.pt", "ab") as file:
        file.write(b"\0")
    assert "model.pt" in refused(infer, copy, tmp_path / "pairs")
    (copy / "mask_model.pt").unlink()
    (copy / "model.pt").write_bytes((three_class_models / "model.pt").read_bytes())
    assert "mask_model.pt" in refused(infer, copy, tmp_path / "pairs")


@pytest.mark.parametrize("count", [0, -3])
def test_no_pairs_at_all(three_class_models, infer, refused, tmp_path, count):
    assert "num_pairs" in refused(infer, three_class_models, tmp_path, num_pairs=count)


def test_one_pair(three_class_models, infer, tmp_path):
    infer(three_class_models, tmp_path, num_pairs=1)
    assert len(list((tmp_path / "images").iterdir())) == 1


def test_pairs_of_an_earlier_run_are_replaced(three_class_models, infer, tmp_path):
    infer(three_class_models, tmp_path, num_pairs=4)
    infer(three_class_models, tmp_path, num_pairs=2, seed=1)
    assert len(list((tmp_path / "images").iterdir())) == 2
    assert len(list((tmp_path / "labels").iterdir())) == 2
    assert len(json.loads((tmp_path / "provenance.json").read_text())["pairs"]) == 2


def test_a_folder_with_other_data_is_left_alone(
    three_class_models, infer, refused, three_class_dataset, nifti_dataset
):
    for folder, name in ((three_class_dataset, "case0.nii.gz"), (nifti_dataset, "case0.nii.gz")):
        before = contents(folder)
        line = refused(infer, three_class_models, folder)
        assert str(folder) in line and name in line and "another folder" in line
        assert contents(folder) == before


def test_a_description_of_other_data_is_left_alone(three_class_models, infer, refused, tmp_path):
    (tmp_path / "dataset.json").write_text('{"training": []}')
    assert "dataset.json" in refused(infer, three_class_models, tmp_path)
    assert (tmp_path / "dataset.json").read_text() == '{"training": []}'
