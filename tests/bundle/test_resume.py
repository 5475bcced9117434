"""A training that was killed and started again ends with the weights of one that was not."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.integration
SEVERAL_EPOCHS = {
    "image_epochs": 6,
    "mask_epochs": 3,
    "segmenter_epochs": 3,
    "steps_per_epoch": 4,
    "flip_x": 0.5,
}
WEIGHTS = ("model.pt", "mask_model.pt", "segmenter.pt")


@pytest.fixture(scope="module")
def uninterrupted(three_class_dataset, train, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted")
    train(three_class_dataset, output, **SEVERAL_EPOCHS)
    return output


def assert_same_weights(output, expected):
    for name in WEIGHTS:
        ours, theirs = (torch.load(f / name, weights_only=True) for f in (output, expected))
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    # the record holds the hashes of the weights it belongs to, so it ends equal as well
    ours, theirs = (json.loads((f / "stage1.json").read_text()) for f in (output, expected))
    assert ours == theirs


def test_killed_in_each_part(uninterrupted, three_class_dataset, train, command, kill_at, tmp_path):
    call = command(
        "train",
        "training",
        dataset_dir=three_class_dataset,
        output_dir=tmp_path,
        **SEVERAL_EPOCHS,
    )
    # in the middle of the image flow, of the mask flow, then of the segmenter
    kill_at(tmp_path / "checkpoints/image_checkpoint_2.pt", call)
    assert not (tmp_path / "model.pt").exists()
    kill_at(tmp_path / "checkpoints/mask_checkpoint_1.pt", call)
    assert not (tmp_path / "mask_model.pt").exists()
    kill_at(tmp_path / "checkpoints/segmenter_checkpoint_1.pt", call)
    assert not (tmp_path / "segmenter.pt").exists()
    train(three_class_dataset, tmp_path, **SEVERAL_EPOCHS)
    assert_same_weights(tmp_path, uninterrupted)


def test_ctrl_c_ends_with_one_line_and_the_same_command_goes_on(
    uninterrupted, three_class_dataset, train, command, kill_at, tmp_path
):
    folders = {"dataset_dir": three_class_dataset, "output_dir": tmp_path}
    options = SEVERAL_EPOCHS | {"mlflow": True}
    call = command("train", "training", **folders, **options)
    said = kill_at(tmp_path / "checkpoints/image_checkpoint_2.pt", call, how=signal.SIGINT)
    assert "Traceback" not in said and "Error" not in said
    assert said.splitlines()[-1] == "interrupted; the same command resumes from here"
    assert not (tmp_path / "model.pt").exists() and not (tmp_path / ".lock").exists()
    train(three_class_dataset, tmp_path, **options)
    assert_same_weights(tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(3))
def test_killed_at_any_time(
    uninterrupted, three_class_dataset, train, command, kill_at, tmp_path, attempt
):
    call = command(
        "train",
        "training",
        dataset_dir=three_class_dataset,
        output_dir=tmp_path,
        **SEVERAL_EPOCHS,
    )
    delays = np.random.default_rng(attempt).uniform(0, 0.15, size=4)
    moments = ("checkpoints/image_checkpoint_1.pt", "checkpoints/image_checkpoint_5.pt")
    for moment, delay in zip((*moments, "model.pt", "samples/mask"), delays, strict=True):
        kill_at(tmp_path / moment, call, delay)
    assert not (tmp_path / "mask_model.pt").exists()
    train(three_class_dataset, tmp_path, **SEVERAL_EPOCHS)
    assert_same_weights(tmp_path, uninterrupted)


def test_stopped_between_the_flows(uninterrupted, three_class_dataset, train, tmp_path):
    train(three_class_dataset, tmp_path, run_id="train_images", **SEVERAL_EPOCHS)
    assert not (tmp_path / "mask_model.pt").exists()
    train(three_class_dataset, tmp_path, **SEVERAL_EPOCHS)
    assert_same_weights(tmp_path, uninterrupted)


def test_the_parts_one_by_one(uninterrupted, three_class_dataset, train, tmp_path):
    for part in ("segmenter", "masks", "images"):
        train(three_class_dataset, tmp_path, run_id=f"train_{part}", **SEVERAL_EPOCHS)
    assert_same_weights(tmp_path, uninterrupted)


def test_a_finished_training_run_again_changes_nothing(
    uninterrupted, three_class_dataset, train, tmp_path
):
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    before = {name: (tmp_path / name).read_bytes() for name in (*WEIGHTS, "stage1.json")}
    train(three_class_dataset, tmp_path, **SEVERAL_EPOCHS)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_half_written_checkpoints_are_left_aside(
    uninterrupted, three_class_dataset, train, tmp_path
):
    shutil.copytree(uninterrupted / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "checkpoints/mask_checkpoint_3.pt").unlink()
    # what a kill during a save leaves: a file under a temporary name
    (tmp_path / "checkpoints/tmpabc123").write_bytes(b"PK")
    train(three_class_dataset, tmp_path, **SEVERAL_EPOCHS)
    assert_same_weights(tmp_path, uninterrupted)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"batch_size": 5}, "batch_size"),
        ({"learning_rate": 0.001}, "learning_rate"),
        ({"ema_decay": 0.9}, "ema_decay"),
        ({"flip_y": 0.5}, "flips"),
        ({"precision": "fp32"}, "precision"),
        ({"network_def::num_res_blocks": 2}, "network"),
        ({"window": [0, 600]}, "data"),
        ({"image_size": [24, 24]}, "data"),
    ],
)
def test_checkpoints_of_another_run_are_refused(
    uninterrupted, three_class_dataset, train, refused, tmp_path, overrides, named
):
    shutil.copytree(uninterrupted / "checkpoints", tmp_path / "checkpoints")
    line = refused(train, three_class_dataset, tmp_path, **SEVERAL_EPOCHS | overrides)
    assert named in line and "output_dir" in line and str(tmp_path) in line
    assert not (tmp_path / "model.pt").exists()
