import shutil
import warnings
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from datasets import reading_of
from PIL import Image

from alignflow.errors import InputError
from alignflow.inference.requests import PairRequests, collate


@pytest.fixture
def folder(tmp_path):
    """Masks a, b (empty) and c of 32 x 32, in `labels/` beside other files."""
    root = tmp_path / "given"
    (root / "labels").mkdir(parents=True)
    for number, name in enumerate("abc"):
        mask = np.zeros((32, 32), np.uint8)
        if name != "b":
            mask[5 + number : 9, 10:30] = 255  # rows, columns
        Image.fromarray(mask).save(root / f"labels/{name}.png")
    (root / "labels/notes.txt").write_text("no mask")
    (root / "dataset.json").write_text("{}")
    return root


@pytest.fixture
def volume(tmp_path):
    """A NIfTI mask of 24 x 20 x 6 voxels whose slices 2 and 3 have foreground, and its affine."""
    affine = np.array([[-1.5, 0, 0.2, 10], [0, 1.25, 0, -20], [0.1, 0, 3, 7], [0, 0, 0, 1.0]])
    mask = np.zeros((24, 20, 6), np.uint8)
    mask[3:9, 4:16, 2:4] = 255
    (tmp_path / "volumes").mkdir()
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "volumes/case.nii.gz")
    return tmp_path / "volumes", affine


def test_pairs_without_masks(record):
    requests = PairRequests(5, record)
    assert [requests[k] for k in range(len(requests))] == [{"index": k} for k in range(5)]


def test_masks_are_used_in_order_from_the_first_again(record, folder):
    requests = PairRequests(5, record, str(folder))
    labels = [requests[k]["label"] for k in range(5)]
    assert [requests[k]["index"] for k in range(5)] == list(range(5))
    assert torch.equal(labels[0], labels[3]) and torch.equal(labels[1], labels[4])
    expected = torch.zeros(1, 32, 32, dtype=torch.uint8)
    expected[0, 10:30, 5:9] = 1  # x is the column
    assert torch.equal(labels[0], expected)
    assert labels[0].dtype == torch.uint8
    assert requests[0]["geometry"] == {"shape": [32, 32], "affine": None}


def test_one_pair_for_each_mask_and_empty_pictures_stay(record, folder):
    requests = PairRequests(None, record, str(folder))
    assert [bool(requests[k]["label"].any()) for k in range(len(requests))] == [True, False, True]


def test_masks_of_an_nnunet_data_set(record, folder):
    (folder / "labels").rename(folder / "labelsTr")
    (folder / "imagesTr").mkdir()
    for name in "abc":
        shutil.copy(folder / "labelsTr/a.png", folder / f"imagesTr/{name}_0000.png")
    (folder / "labelsTr/@eaDir").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="NvImgCodec")  # of MONAI, without a GPU
        assert len(PairRequests(None, record, str(folder))) == 3


def test_masks_in_folders_of_patients(record, folder):
    (folder / "labels/p0").mkdir()
    (folder / "labels/b.png").rename(folder / "labels/p0/b.png")
    shutil.copy(folder / "labels/a.png", folder / "labels/p0/._a.png")
    assert len(PairRequests(None, record, str(folder))) == 3


def test_other_sizes_come_to_the_size_of_the_generator(record, tmp_path):
    mask = np.zeros((24, 40), np.uint8)
    mask[6:18, 10:30] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    request = PairRequests(None, record, str(tmp_path))[0]
    assert request["label"].shape == (1, 32, 32) and request["label"].unique().tolist() == [0, 1]
    assert request["label"].float().mean() == pytest.approx((mask > 0).mean(), abs=0.02)
    assert request["geometry"]["shape"] == [40, 24]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_volumes_give_their_slices_where_they_lie(record, volume, axis):
    folder, affine = volume
    requests = PairRequests(None, replace(record, reading=reading_of(slice_axis=axis)), str(folder))
    first, count = {0: (3, 6), 1: (4, 12), 2: (2, 2)}[axis]
    assert len(requests) == count
    shape = [n for a, n in enumerate((24, 20, 6)) if a != axis]
    for k in range(count):
        geometry = requests[k]["geometry"]
        assert geometry["shape"] == shape
        corner = np.array([shape[0] - 1, 0, 0])
        there = nib.affines.apply_affine(np.array(geometry["affine"]), corner)
        voxel = np.insert(corner[:2], axis, first + k)
        np.testing.assert_allclose(there, nib.affines.apply_affine(affine, voxel), atol=1e-5)


def test_whole_volumes_keep_their_empty_slices_and_one_number(record, volume, caplog):
    folder, affine = volume
    empty = np.zeros((8, 8, 3), np.uint8)
    nib.save(nib.Nifti1Image(empty, affine), folder / "other.nii.gz")
    seen = replace(record, reading=reading_of(foreground_only=True))
    with caplog.at_level("WARNING"):
        requests = PairRequests(3, seen, str(folder), whole_volumes=True)
    items = [requests[k] for k in range(len(requests))]
    assert requests.volumes == [item["index"] for item in items] == [0] * 6 + [1] * 3 + [2] * 6
    assert [item["slices"] for item in items] == [6] * 6 + [3] * 3 + [6] * 6
    assert [bool(item["label"].any()) for item in items[:6]] == [False] * 2 + [True] * 2 + [
        False
    ] * 2
    for k, item in enumerate(items[:6]):
        there = np.array(item["geometry"]["affine"])[:3, 3]
        np.testing.assert_allclose(there, nib.affines.apply_affine(affine, [0, 0, k]), atol=1e-5)
    assert "7 slices have no foreground" in caplog.text
    assert PairRequests(3, record, str(folder)).volumes is None


def test_whole_volumes_need_masks(record):
    with pytest.raises(InputError, match='"whole_volumes": needs masks in "dataset_dir"'):
        PairRequests(1, record, whole_volumes=True)


def test_collate(record, folder):
    requests = PairRequests(3, record, str(folder))
    batch = collate([requests[k] for k in range(3)])
    assert batch["index"] == [0, 1, 2]
    assert batch["label"].shape == (3, 1, 32, 32)
    assert [geometry["shape"] for geometry in batch["geometry"]] == [[32, 32]] * 3
    assert collate([{"index": 4}, {"index": 5}]) == {"index": [4, 5]}


def test_missing_and_empty_folders(record, tmp_path):
    with pytest.raises(InputError, match="none': no such folder of masks; fix the path"):
        PairRequests(1, record, str(tmp_path / "none"))
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match="masks': no masks; give a folder of mask files"):
        PairRequests(1, record, str(tmp_path))


@pytest.mark.parametrize("count", [0, -3, 2.5, "8"])
def test_impossible_counts(record, count):
    with pytest.raises(InputError, match='"num_pairs": .*; set a whole number, at least 1'):
        PairRequests(count, record)


def test_no_count_needs_masks(record):
    with pytest.raises(InputError, match='"num_pairs": null needs masks'):
        PairRequests(None, record)


def test_values_that_are_no_class(record, folder):
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(folder / "labels/d.png")
    with pytest.raises(InputError, match="labels/d.png': value 7 is not in labels"):
        PairRequests(1, record, str(folder))


def test_unreadable_mask(record, folder):
    (folder / "labels/d.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="d.png': cannot be read"):
        PairRequests(1, record, str(folder))
