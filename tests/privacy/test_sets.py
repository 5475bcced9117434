"""What an audit reads: pairs by the window that they were written with, splits as in training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import READING
from PIL import Image

from alignflow.data.spec import SourceSpec
from alignflow.data.writer import pair_name, write_image, write_label
from alignflow.errors import InputError
from alignflow.masks.conditions import describe
from alignflow.privacy.quarantine import find_pairs
from alignflow.privacy.sets import Images, read_pairs, require_trained_on, source_cases
from alignflow.stage1 import Stage1

GRID = {"shape": [16, 12], "affine": np.diag([0.5, 0.5, 2.0, 1.0]).tolist()}


@pytest.fixture
def stage1():
    """Of CT, which the files of its pairs do not state."""
    source = SourceSpec(
        channels=1,
        labels={"background": 0.0, "lesion": 1.0},
        modality="CT",
        window=(-1000.0, 400.0),
        image_suffix=".nii.gz",
        label_suffix=".nii.gz",
        image_dtype="int16",
        label_dtype="uint8",
        geometries=[GRID],
    )
    return Stage1(source, [16, 12], {}, {}, 5.0, "disjoint", {}, [], {}, READING, [])


def test_pairs_come_back_as_they_were_written(stage1, tmp_path):
    images = torch.rand(3, 1, 16, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    labels = torch.zeros(3, 1, 16, 12, dtype=torch.uint8)
    labels[:2, :, 4:9, 3:8] = 1  # the last pair has no foreground, and stays
    for k in range(3):
        native = (images[k] + 1) * 700 - 1000
        write_image(native, tmp_path / "images" / pair_name(k), stage1.source, GRID)
        write_label(labels[k], tmp_path / "labels" / pair_name(k), stage1.source, GRID)
    found = read_pairs(find_pairs(tmp_path, tmp_path / "quarantine"), stage1)
    assert found.names == ["pair_00000", "pair_00001", "pair_00002"]
    torch.testing.assert_close(found.images, images, atol=1e-3, rtol=0)
    assert torch.equal(found.labels, labels)


@pytest.fixture
def dataset(tmp_path):
    for number in range(8):
        for kind in ("images", "masks"):
            path = tmp_path / f"data/{kind}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.eye(4, dtype=np.uint8)).save(path)
    return str(tmp_path / "data")


def test_the_parts_share_no_image(dataset):
    training, held_out = source_cases(dataset, None, None, 0.5, 0)
    assert len(training) == len(held_out) == 4
    assert not {c["image"] for c in training} & {c["image"] for c in held_out}
    assert source_cases(None, None, None, 0.5, 0) is None


def test_nothing_held_out_is_refused(dataset):
    with pytest.raises(InputError, match="holds no image out"), pytest.warns(UserWarning):
        source_cases(dataset, None, None, 0, 0)


def test_the_bundle_must_have_been_trained_on_the_source(stage1):
    labels = torch.zeros(6, 1, 16, 12, dtype=torch.uint8)
    for k in range(6):
        labels[k, :, 2 : 5 + k, 3:9] = 1
    names = [str(k) for k in range(6)]
    source = Images(torch.zeros(6, 1, 16, 12), labels, names, names)
    # An aligned bundle remembers some of the masks, in another order.
    require_trained_on(source, replace(stage1, descriptions=describe(labels[[4, 1]], 2).tolist()))
    labels = labels.clone()
    labels[4, :, 5:7] = 0
    with pytest.raises(InputError, match="1 of 2 masks that the bundle remembers"):
        other = replace(stage1, descriptions=describe(labels[[4, 1]], 2).tolist())
        require_trained_on(source, other)
