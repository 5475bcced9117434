"""The same run on one process and on two: losses, gradients, pairs, and resuming on other numbers.

Real processes, started by torchrun with multi_gpu.json over each of four configs, gloo on the CPU.
"""

import json
import shutil
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import psutil
import pytest
import torch
from mlflow import MlflowClient

from alignflow.training.checkpoint import checkpoints

pytestmark = pytest.mark.integration
# With momentum alone the optimiser's state is the (clipped) gradients of the steps, added up, and
# a weight without a gradient stays: Adam would enlarge the rounding of such a weight to a step.
MOMENTUM = {"optimizer::_target_": "torch.optim.SGD", "optimizer::momentum": 0.9}
TRAINING = MOMENTUM | {
    "mask_optimizer::_target_": "torch.optim.SGD",
    "mask_optimizer::momentum": 0.9,
    "precision": "fp32",
    "image_epochs": 6,
    "mask_epochs": 6,
    "segmenter_epochs": 1,
    "steps_per_epoch": 1,
    "warmup_steps": 0,
    "learning_rate": 0.1,
    "val_interval": 3,
    "time_mean": 1.2,
    "time_std": 1.2,
    "time_uniform_share": 0.35,
}
ALIGNMENT = {
    "device": "cpu",
    "precision": "fp32",
    "mlflow": False,
    "epochs": 2,
    "steps_per_epoch": 2,
    "batch_size": 4,
    "micro_batch": 1,
    "num_masks": 8,
    "num_samples": 8,
    "views": 2,
    "solver_steps": 3,
    "mask_steps": 2,
    "masks::max_attempts": 2,
    "lowest_spread": 0.0,
    "largest_dice_loss": 1.0,
    "learning_rate": 0.1,
    "anchor": 3.0,
    "detail_anchor": 300.0,
    "faithfulness": 0.5,
    "matching": 0.5,
    "reward_weight": 1.0,
    "reward_interval": 1,
    "parameters": "modulation",
    **MOMENTUM,
}
DISTILLATION = {
    "device": "cpu",
    "precision": "fp32",
    "mlflow": False,
    "num_pairs": 30,
    "held_out": 4,
    "image_steps": 3,
    "mask_steps": 3,
    "masks::max_attempts": 2,
    "student_steps": [2],
    "student_epochs": [2],
    "mask_student_steps": [1],
    "mask_student_epochs": [1],
    "steps_per_epoch": 3,
    "batch_size": 4,
    "learning_rate": 0.1,
    **MOMENTUM,
    **{f"mask_{key}": value for key, value in MOMENTUM.items()},
}
INFERENCE = {"num_pairs": 10, "batch_size": 3}


def on_two(line):
    """The command line `python -m ...` of one process, for two."""
    python, *rest = line
    return [python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *rest]


def overlaid(config):
    return f"['configs/{config}.json','configs/multi_gpu.json']"


def written(config, run_id, overrides):
    """The command line of a run with its override for several processes."""
    line = [sys.executable, "-m", "monai.bundle", "run", run_id]
    for key, value in ({"config_file": overlaid(config)} | overrides).items():
        line += [f"--{key.replace('::', '#')}", str(value)]
    return line


@pytest.fixture(scope="module")
def finished(shell):
    """`finished(line)`: run on two processes to the end; what they say."""

    def call(line):
        done = shell(on_two(line))
        assert done.returncode == 0, done.stderr[-4000:]
        return done

    return call


@pytest.fixture(scope="module")
def training_line(command, three_class_dataset):
    """`training_line(output_dir, **overrides)`: with the override for several processes."""

    def build(output, **overrides):
        folders = {"dataset_dir": three_class_dataset, "output_dir": output}
        given = {"config_file": overlaid("train"), **TRAINING, **folders, **overrides}
        return command("train", "training", **given)

    return build


@pytest.fixture(scope="module")
def trained(train, training_line, finished, three_class_dataset, tmp_path_factory):
    """Folders of the training of one process and of two, and what the two said."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    train(three_class_dataset, one, mlflow=True, **TRAINING)
    return one, two, finished(training_line(two, mlflow=True))


def tracked(folder):
    """{(run, metric): values by step} of an MLflow store, without the system's metrics."""
    client, found = MlflowClient(f"sqlite:///{folder}/mlflow.db"), {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            for name in run.data.metrics:
                if not name.startswith("system"):
                    history = client.get_metric_history(run.info.run_id, name)
                    ordered = sorted(history, key=lambda metric: metric.step)
                    found[run.info.run_name, name] = [metric.value for metric in ordered]
    return found


def last_state(folder, prefix):
    """The newest checkpoint of a run."""
    return torch.load(checkpoints(folder / "checkpoints", prefix)[-1], weights_only=True)


def gradients(state):
    return torch.cat([s["momentum_buffer"].flatten() for s in state["optimizer"]["state"].values()])


def assert_same_training(one, two):
    for prefix in ("image", "mask"):
        ours, theirs = last_state(one, prefix), last_state(two, prefix)
        g = gradients(ours)
        assert (g - gradients(theirs)).abs().max() < 1e-5 * g.abs().max()
        assert distance(ours["network"], theirs["network"]) < 1e-5
        assert distance(ours["ema"], theirs["ema"]) < 1e-5
        assert torch.equal(ours["update"]["generator"], theirs["update"]["generator"])
    assert distance(weights(one, "segmenter.pt"), weights(two, "segmenter.pt")) == 0


def names(folder):
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith("mlruns"))


def distance(first, second):
    """Largest difference of the tensors of two state dicts of the same names."""
    assert first.keys() == second.keys()
    return max(float((first[key] - second[key]).abs().max()) for key in first)


def weights(folder, name):
    return torch.load(folder / name, weights_only=True)


def test_training_losses_of_two_processes_are_those_of_one(trained):
    one, two = map(tracked, trained[:2])
    assert one.keys() == two.keys()
    for flow in ("image_flow", "mask_flow"):
        for name in ("loss", "held_out_loss"):
            ours, theirs = one[flow, name], two[flow, name]
            assert len(set(ours)) >= 2  # it moves
            assert ours == pytest.approx(theirs, abs=1e-5, rel=0)
    assert one["segmenter", "loss"] == pytest.approx(two["segmenter", "loss"], abs=1e-6)


def test_gradients_and_weights_of_two_processes_are_those_of_one(trained):
    assert_same_training(*trained[:2])


def as_stopped(folder, copy, names):
    """A copy of a run's checkpoints without some of them: as if it had been killed before."""
    shutil.copytree(folder / "checkpoints", copy / "checkpoints")
    for name in names:
        (copy / "checkpoints" / name).unlink()


def test_one_process_goes_on_where_two_stopped(trained, train, three_class_dataset, tmp_path):
    as_stopped(trained[1], tmp_path, ["image_checkpoint_6.pt", "mask_checkpoint_6.pt"])
    train(three_class_dataset, tmp_path, **TRAINING)
    assert_same_training(trained[0], tmp_path)


def test_two_processes_go_on_where_one_stopped(trained, training_line, finished, tmp_path):
    as_stopped(trained[0], tmp_path, ["image_checkpoint_6.pt", "mask_checkpoint_6.pt"])
    finished(training_line(tmp_path))
    assert_same_training(trained[0], tmp_path)


def test_the_first_process_alone_writes_and_speaks(trained):
    one, two, done = trained
    assert names(two) == names(one)
    assert done.stdout.count("wrote model.pt") == 1
    assert "reading: 100%" in done.stderr and "Traceback" not in done.stderr
    with_runs = {name for name, _ in tracked(two)}
    assert with_runs == {"image_flow", "mask_flow", "segmenter"}


def stop_at(path, line, cwd, environment):
    """Start two processes, kill both when `path` exists."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    launcher = subprocess.Popen(on_two(line), cwd=cwd, env=environment, **quiet)
    deadline = time.monotonic() + 300
    while not path.exists():
        assert launcher.poll() is None, f"ended before it wrote {path.name}"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for process in psutil.Process(launcher.pid).children():
        process.kill()
    assert launcher.wait() != 0


@pytest.mark.slow
def test_killed_on_two_processes_then_on_one(
    trained, training_line, command, kill_at, finished, bundle, environment, tmp_path
):
    line = training_line(tmp_path)
    stop_at(tmp_path / "checkpoints/image_checkpoint_2.pt", line, bundle, environment)
    assert not (tmp_path / "model.pt").exists()
    alone = [part.replace(overlaid("train"), "configs/train.json") for part in line]
    kill_at(tmp_path / "checkpoints/mask_checkpoint_2.pt", alone)
    assert (tmp_path / "model.pt").exists() and not (tmp_path / "mask_model.pt").exists()
    finished(line)
    assert_same_training(trained[0], tmp_path)


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """Six NIfTI slices, darker than the source."""
    root = tmp_path_factory.mktemp("references")
    rng = np.random.default_rng(5)
    x, y = np.mgrid[:24, :20]
    for number in range(6):
        r = np.hypot(x - 10 - number / 2, y - 9)
        ramp = 90 + 30 * (r < 8) + 200 * (r < 2) + rng.normal(0, 30, r.shape)
        image = nib.Nifti1Image(ramp[..., None].astype(np.int16), np.diag([1.25, 1.25, 4, 1]))
        nib.save(image, root / f"case{number}.nii.gz")
    return root


@pytest.mark.parametrize("parameters", ["modulation", pytest.param("lora", marks=pytest.mark.slow)])
def test_alignment_gradient_of_two_processes_is_that_of_one(
    three_class_models, references, run_config, finished, bundle, tmp_path, parameters
):
    """Four updates with every term: set distances with queues, masks, anchor, matching."""
    one, two = tmp_path / "one", tmp_path / "two"
    folders = {"model_dir": str(three_class_models), "reference_dir": str(references)}
    settings = ALIGNMENT | folders | {"parameters": parameters}
    run_config("align", "train", "align", settings | {"output_dir": str(one)})
    finished(written("align", "align", settings | {"output_dir": two, "bundle_root": bundle}))
    ours, theirs = last_state(one, "align"), last_state(two, "align")
    g = gradients(ours)
    assert g.abs().max() > 1e-2
    assert (g - gradients(theirs)).abs().max() < 1e-5 * g.abs().max()
    assert distance(ours["network"], theirs["network"]) < 1e-5
    assert distance(ours["update"]["queues"], theirs["update"]["queues"]) < 1e-4
    curves = [json.loads((folder / "align.json").read_text())["curve"] for folder in (one, two)]
    for before, after in zip(*curves, strict=True):
        assert before == pytest.approx(after, abs=1e-5)
    assert names(one) == names(two)
    # one process goes on where two stopped
    (two / "checkpoints/align_checkpoint_2.pt").unlink()
    run_config("align", "train", "align", settings | {"output_dir": str(two)})
    resumed = last_state(two, "align")
    assert (g - gradients(resumed)).abs().max() < 1e-5 * g.abs().max()
    assert distance(ours["network"], resumed["network"]) < 1e-5


def test_distillation_on_two_processes_is_that_on_one(
    three_class_models, run_config, finished, tmp_path
):
    one, two = tmp_path / "one", tmp_path / "two"
    settings = DISTILLATION | {"model_dir": str(three_class_models)}
    run_config("distill", "train", "distill", settings | {"output_dir": str(one)})
    finished(written("distill", "distill", settings | {"output_dir": two}))
    assert names(one) == names(two)
    for part in sorted((one / "coupling").rglob("*.pt")):
        assert distance(torch.load(part), torch.load(two / part.relative_to(one))) == 0
    for prefix in ("student", "mask_student"):
        ours, theirs = last_state(one, prefix), last_state(two, prefix)
        g = gradients(ours)
        assert g.abs().max() > 1e-4
        assert (g - gradients(theirs)).abs().max() < 1e-4 * g.abs().max()
        assert distance(ours["network"], theirs["network"]) < 1e-5


@pytest.mark.parametrize("whole_volumes", [False, True])
def test_pairs_of_two_processes_are_those_of_one(
    three_class_models, three_class_dataset, infer, command, finished, tmp_path, whole_volumes
):
    one, two = tmp_path / "one", tmp_path / "two"
    options = INFERENCE
    if whole_volumes:  # of four slices
        given = {"dataset_dir": str(three_class_dataset), "whole_volumes": True}
        options = {"num_pairs": 4, "batch_size": 4, **given}
    infer(three_class_models, one, **options)
    folders = {"model_dir": three_class_models, "output_dir": two}
    line = command("inference", "infer", config_file=overlaid("inference"), **options, **folders)
    finished(line)
    assert names(one) == names(two) and len(names(one)) == 2 * options["num_pairs"] + 3
    for name in names(one):
        if name != "provenance.json":
            assert (one / name).read_bytes() == (two / name).read_bytes(), name
    ours, theirs = (json.loads((folder / "provenance.json").read_text()) for folder in (one, two))
    assert ours.pop("config") != theirs.pop("config")
    assert ours == theirs
