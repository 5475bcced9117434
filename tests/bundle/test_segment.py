"""A segmenter trained on the source and on synthetic pairs, scored on the images of a site."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from datasets import READING
from PIL import Image

from alignflow.data.datalist import build_datalist
from alignflow.segmentation.data import read_labelled, read_pairs
from alignflow.segmentation.network import load_segmenter
from alignflow.segmentation.record import SegmenterRecord
from alignflow.stage1 import Stage1


@pytest.fixture(scope="module")
def pairs(three_class_models, infer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    infer(three_class_models, folder)
    return folder


@pytest.fixture(scope="module")
def segmented(three_class_models, three_class_dataset, pairs, segment, tmp_path_factory):
    """`segment` with pairs and a site (the source itself)."""
    folder = tmp_path_factory.mktemp("segmented")
    site = {"pairs_dir": str(pairs), "test_dir": str(three_class_dataset)}
    segment(three_class_models, three_class_dataset, folder, **site)
    return folder


def scores(folder):
    return json.loads((folder / "scores.json").read_text())


def weights(folder):
    return torch.load(folder / "segmenter.pt", weights_only=True)


def equal(one, two):
    return all(torch.equal(weights(one)[key], weights(two)[key]) for key in weights(one))


def test_the_bundle_ships_the_source_segmenter(three_class_models):
    stage1 = Stage1.load(str(three_class_models))
    assert stage1.segmenter["channels"] == [4, 8] and stage1.segmenter["in_channels"] == 1
    assert stage1.reading == READING
    segmenter = load_segmenter(stage1, three_class_models, "cpu")
    assert segmenter(torch.zeros(2, 1, 16, 16)).shape == (2, 3, 16, 16)


def test_what_is_written(segmented):
    assert sorted(path.name for path in segmented.iterdir()) == [
        "scores.json",
        "segmenter.json",
        "segmenter.pt",
        "test.png",
    ]
    record = SegmenterRecord.load(segmented)
    assert record.labels == {"background": 0, "class1": 3, "class2": 7}
    assert record.image_size == [16, 16] and record.network["out_channels"] == 3
    made = record.provenance
    assert (made["real"], made["synthetic"], made["site"]) == (12, 4, 0)
    assert made["seed"] == made["config"]["seed"] == 0
    assert made["bundle_sha256"].keys() == {"model.pt", "mask_model.pt", "segmenter.pt"}
    assert len(record.validation["dice"]["classes"]) == 2
    assert record.validation["epoch"] == 3
    found = scores(segmented)
    assert found["classes"] == ["class1", "class2"] and found["counted"] == 16
    assert "case0.nii.gz[0]" in found["images"]
    mean = np.mean([np.mean(list(one["dice"].values())) for one in found["images"].values()])
    assert found["dice"]["mean"] == pytest.approx(mean)
    assert found["dice"]["low"] <= found["dice"]["mean"] <= found["dice"]["high"]
    assert found["iou"]["mean"] <= found["dice"]["mean"]
    assert Image.open(segmented / "test.png").size[0] > 100


def test_the_same_command_gives_the_same_weights_and_another_seed_others(
    three_class_models, three_class_dataset, pairs, segmented, segment, tmp_path
):
    options = {"pairs_dir": str(pairs)}
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        segment(three_class_models, three_class_dataset, folder, seed=seed, **options)
        assert equal(folder, segmented) == (seed == 0)
        assert not (folder / "scores.json").exists()


def test_a_trained_one_is_scored_again(
    three_class_models, three_class_dataset, segmented, segment, tmp_path
):
    site = {"segmenter_dir": str(segmented), "test_dir": str(three_class_dataset)}
    segment(three_class_models, "", tmp_path, run_id="test", **site)
    assert scores(tmp_path) == scores(segmented)
    assert not (tmp_path / "segmenter.pt").exists()


def test_augmentation_and_start(three_class_models, three_class_dataset, pairs, segment, tmp_path):
    segment(
        three_class_models,
        three_class_dataset,
        tmp_path,
        pairs_dir=str(pairs),
        augmentation="strong",
        init="source",
        keep="best",
        val_interval=1,
        learning_rate=0.0,
    )
    # without a learning rate nothing but the statistics of the batches moves
    before = torch.load(three_class_models / "segmenter.pt", weights_only=True)
    moved = [k for k, v in weights(tmp_path).items() if not torch.equal(v, before[k])]
    assert all("running" in key or "num_batches" in key for key in moved)


def test_references_join_with_given_and_predicted_masks(
    three_class_models, three_class_dataset, pairs, segmented, segment, tmp_path
):
    bare = tmp_path / "bare"
    (bare / "images").mkdir(parents=True)
    for path in sorted((three_class_dataset / "images").iterdir())[:3]:
        shutil.copy(path, bare / "images")
    numbers = {}
    for name, options in {
        "given": {"reference_dir": str(three_class_dataset)},
        "none": {"reference_dir": str(bare)},
        "predicted": {"reference_dir": str(bare), "labeller_dir": str(segmented)},
    }.items():
        options |= {"pairs_dir": str(pairs), "epochs": 1, "batch_size": 8}
        segment(three_class_models, three_class_dataset, tmp_path / name, **options)
        found = SegmenterRecord.load(tmp_path / name).provenance
        numbers[name] = [found["synthetic"], found["site"] > 0]
    assert numbers == {"given": [4, True], "none": [4, False], "predicted": [4, True]}


def test_pairs_in_the_place_of_the_source_are_read_as_pairs(three_class_models, pairs):
    stage1 = Stage1.load(str(three_class_models))
    source = read_labelled(build_datalist(pairs), stage1, stage1.image_size)
    synthetic = read_pairs(str(pairs), stage1, stage1.image_size)
    for one, other in zip(source, synthetic, strict=True):
        assert torch.equal(one["image"], other["image"])


def test_windows_over_larger_images(three_class_models, three_class_dataset, segment, tmp_path):
    options = {"inferer_mode": "sliding", "grid_size": [24, 20]}
    site = {"test_dir": str(three_class_dataset)}
    segment(three_class_models, three_class_dataset, tmp_path, **options, **site)
    assert SegmenterRecord.load(tmp_path).image_size == [24, 20]
    assert scores(tmp_path)["counted"] == 16


def test_another_network_of_monai(three_class_models, three_class_dataset, segment, tmp_path):
    network = {
        "_target_": "SegResNet",
        "spatial_dims": 2,
        "init_filters": 8,
        "in_channels": 1,
        "out_channels": 3,
    }
    options = {"network_def": network, "epochs": 1, "steps_per_epoch": 1}
    segment(three_class_models, three_class_dataset, tmp_path, **options)
    assert SegmenterRecord.load(tmp_path).build(tmp_path, "cpu").init_filters == 8


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"synthetic_share": 1.5}, ["synthetic_share", "from 0 to 1"]),
        ({"augmentation": "weak"}, ["augmentation", "strong"]),
        ({"keep": "all"}, ["keep", "best"]),
        ({"init": "imagenet"}, ["init", "source"]),
        ({"inferer_mode": "window"}, ["inferer_mode", "sliding"]),
        ({"share": 0.5}, ["'share' has no effect"]),
        ({"synthetic_share": 0.8, "site_share": 0.5, "reference_dir": "ANNOTATED"}, ["shares"]),
        ({"labeller_dir": "absent", "reference_dir": "ANNOTATED"}, ["absent", "no such file"]),
        ({"styles": ["cubism"], "reference_dir": "ANNOTATED"}, ["styles", "histogram"]),
        ({"pairs_dir": "absent"}, ["pairs_dir 'absent'", "no such folder"]),
        ({"test_dir": "absent"}, ["absent", "no such folder"]),
        ({"model_dir": "absent"}, ["absent", "stage1.json", "training"]),
        ({"dataset_dir": ""}, ["dataset_dir"]),
        ({"network_def::out_channels": 2}, ["segmenter", "(2, 3, 16, 16) is needed"]),
        ({"network_def::channels": [4, 16], "init": "source"}, ["segmenter.pt", "network"]),
    ],
)
def test_what_is_refused(
    three_class_models, three_class_dataset, pairs, segment, refused, tmp_path, overrides, words
):
    folders = {"model_dir": three_class_models, "dataset_dir": three_class_dataset}
    if "reference_dir" in overrides:
        folders["pairs_dir"] = str(pairs)
        overrides = overrides | {"reference_dir": str(three_class_dataset)}
    line = refused(segment, output_dir=tmp_path / "out", **folders | overrides)
    assert not [word for word in words if word not in line], line
    assert not (tmp_path / "out").exists()


def test_pairs_of_other_labels(
    three_class_models, three_class_dataset, pairs, segment, refused, tmp_path
):
    def attempt():
        made = three_class_models, three_class_dataset, tmp_path / "out"
        return refused(segment, *made, pairs_dir=str(tmp_path / "pairs"))

    shutil.copytree(pairs, tmp_path / "pairs")
    stated = json.loads((pairs / "dataset.json").read_text())
    stated["labels"] = {"background": 0, "liver": 3}
    (tmp_path / "pairs/dataset.json").write_text(json.dumps(stated))
    line = attempt()
    assert "liver" in line and "pairs of this bundle" in line
    (tmp_path / "pairs/dataset.json").unlink()
    path = tmp_path / "pairs/labels/pair_00001.nii.gz"
    volume = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(volume.shape, 5, np.uint8), volume.affine), path)
    line = attempt()
    assert "pair_00001.nii.gz" in line and "value 5 is not in labels" in line
    (tmp_path / "empty").mkdir()
    line = refused(
        segment,
        three_class_models,
        three_class_dataset,
        tmp_path / "out",
        pairs_dir=str(tmp_path / "empty"),
    )
    assert "pairs_dir" in line and "empty" in line


def test_a_site_without_masks(three_class_models, three_class_dataset, segment, refused, tmp_path):
    shutil.copytree(three_class_dataset, tmp_path / "site")
    made = three_class_models, three_class_dataset, tmp_path / "out"
    (tmp_path / "site/labels/case2.nii.gz").unlink()
    line = refused(segment, *made, test_dir=str(tmp_path / "site"))
    assert "case2.nii.gz" in line and "no mask" in line
    shutil.rmtree(tmp_path / "site/labels")
    line = refused(segment, *made, test_dir=str(tmp_path / "site"))
    assert "case0.nii.gz" in line and "no mask" in line


def test_a_segmenter_of_another_bundle(
    three_class_models, three_class_dataset, segmented, segment, refused, tmp_path
):
    site = {"test_dir": str(three_class_dataset), "segmenter_dir": str(segmented)}
    line = refused(
        segment, three_class_models, "", tmp_path, run_id="test", grid_size=[24, 16], **site
    )
    assert "image_size" in line and "[24, 16]" in line
