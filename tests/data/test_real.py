"""Public data sets as their owners store them; skipped where ALIGNFLOW_DATA is not set."""

import os
from pathlib import Path

import numpy as np
import pytest
from datasets import slice_dataset

from alignflow.data.datalist import build_datalist
from alignflow.data.intensity import unscale
from alignflow.data.writer import write_image, write_label

DATA = os.environ.get("ALIGNFLOW_DATA", "")
pytestmark = pytest.mark.skipif(not DATA, reason="ALIGNFLOW_DATA is not set")


def build(root, count, **options):
    datalist = build_datalist(root)[:count]
    return slice_dataset(datalist, (64, 64), **options)


@pytest.mark.parametrize(
    ("name", "channels", "classes", "modality"),
    [
        ("MSD-Hippocampus", 1, 3, "MR"),
        ("ACDC", 1, 4, "RGB8"),
        ("Kvasir-SEG", 3, 2, "RGB8"),
        ("RIM-ONE_v2", 3, 2, "RGB8"),
        ("Drishti-GS1_ROI", 3, 3, "RGB8"),
        ("pyradiomics_nrrd", 1, 2, "MR"),
    ],
)
def test_data_set_and_back(tmp_path, name, channels, classes, modality):
    dataset = build(Path(DATA) / name, 10)
    assert (dataset.channels, dataset.num_classes) == (channels, classes)
    assert dataset.spec.modality == modality
    for item in dataset.data:
        assert item["image"].abs().max() <= 1
    spec, item = dataset.spec, dataset[0]
    grid = spec.geometries[0]
    write_image(unscale(item["image"], *spec.window), tmp_path / "images/a", spec, grid)
    write_label(item["label"], tmp_path / "labels/a", spec, grid)
    again = build(tmp_path, 1, like=dataset)
    assert (again[0]["label"] == item["label"]).float().mean() > 0.97
    np.testing.assert_allclose(again[0]["image"].mean(), item["image"].mean(), atol=0.2)


def test_dicom_slices_with_a_segmentation(tmp_path):
    source = Path(DATA) / "dicom_samples" / "dcmqi_ct_liver_SEG"
    (tmp_path / "images" / "case1").mkdir(parents=True)
    (tmp_path / "labels").mkdir()
    for path in source.glob("*.dcm"):  # its SEG objects too
        (tmp_path / "images" / "case1" / path.name).symlink_to(path)
    (tmp_path / "labels" / "case1.nrrd").symlink_to(source / "liver_seg.nrrd")
    dataset = build(tmp_path, 1)
    assert (len(dataset), dataset.spec.modality, dataset.spec.image_dtype) == (3, "CT", "int16")
