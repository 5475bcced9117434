"""What an audit reads: pairs by the window that they were written with, splits as in training."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from alignflow.data.spec import SourceSpec
from alignflow.data.writer import pair_name, write_image, write_label
from alignflow.errors import InputError
from alignflow.privacy.quarantine import find_pairs
from alignflow.privacy.sets import read_pairs, source_cases
from alignflow.stage1 import Stage1

GRID = {"shape": [16, 12], "affine": np.diag([0.5, 0.5, 2.0, 1.0]).tolist()}
SPLIT = {
    "group_pattern": None,
    "group_column": None,
    "validation_fraction": 0.5,
    "split_seed": 0,
}


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
    reading = {"modality": "auto", "mask_threshold": None, "slice_axis": 2, "foreground_only": True}
    return Stage1(source, [16, 12], {}, {}, 5.0, "disjoint", {}, [], {}, reading, [])


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


def test_the_split_is_that_of_training(dataset, tmp_path):
    training, held_out = source_cases(dataset, str(tmp_path), **SPLIT)
    assert len(training) == len(held_out) == 4
    assert not {c["image"] for c in training} & {c["image"] for c in held_out}
    trained = {"seed": 0, "validation_fraction": 0.25, "group_pattern": None}
    (tmp_path / "train_config.json").write_text(json.dumps(trained))
    with pytest.raises(InputError, match='"validation_fraction": 0.5, but training had 0.25'):
        source_cases(dataset, str(tmp_path), **SPLIT)
    training, _ = source_cases(dataset, str(tmp_path), **SPLIT | {"validation_fraction": 0.25})
    assert len(training) == 6


def test_without_a_source_there_is_no_split(tmp_path):
    assert source_cases(None, str(tmp_path), **SPLIT) is None


def test_nothing_held_out_is_refused(dataset, tmp_path):
    with pytest.raises(InputError, match="holds no image out"), pytest.warns(UserWarning):
        source_cases(dataset, str(tmp_path), **SPLIT | {"validation_fraction": 0})
