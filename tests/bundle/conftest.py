"""The bundle as a user runs it, on data and networks small enough for a few seconds."""

import copy
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

from alignflow.errors import InputError, find_input_error
from alignflow.lock import release_all

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundle"
# a few steps of a network that predicts images draw flat ones, and no masks
UNET = {
    "channels": [32, 32],
    "attention_levels": [False, True],
    "patch": 2,
    "prediction": "velocity",
}
# the bundle's own halves its images four times: too often for 16 pixels
SEGMENTER = {
    "_target_": "monai.networks.nets.UNet",
    "spatial_dims": 2,
    "channels": [4, 8],
    "strides": [2],
}
TINY_TRAINING = {
    "device": "cpu",
    "image_size": [16, 16],
    "batch_size": 4,
    "steps_per_epoch": 3,
    "image_epochs": 2,
    "mask_epochs": 2,
    "segmenter_epochs": 2,
    "segmenter_def": SEGMENTER
    | {
        "in_channels": "$@train::dataset.channels",
        "out_channels": "$@train::dataset.num_classes",
    },
    "val_interval": 1,
    "solver_steps": 2,
    "mlflow": False,
    "time_mean": 1.2,
    "mask_time_mean": 0.0,
    "time_std": 1.2,
    "time_uniform_share": 0.35,
    **{f"network_def::{key}": value for key, value in UNET.items()},
    **{f"mask_network_def::{key}": value for key, value in UNET.items()},
}
TINY_INFERENCE = {
    "device": "cpu",
    "num_pairs": 4,
    "batch_size": 4,
    "image_steps": 2,
    "mask_steps": 2,
    "masks::max_attempts": 2,
}
TINY_SEGMENTATION = {
    "device": "cpu",
    "mlflow": False,
    "batch_size": 4,
    "steps_per_epoch": 3,
    "epochs": 3,
    "network_def": SEGMENTER
    | {"in_channels": "$@stage1.source.channels", "out_channels": "$@stage1.num_classes"},
}
TINY_ALIGNMENT = {
    "device": "cpu",
    "mlflow": False,
    "epochs": 3,
    "steps_per_epoch": 2,
    "batch_size": 4,
    "micro_batch": 2,
    "num_masks": 8,
    "num_samples": 8,
    "views": 2,
    "left_out_share": 0.2,
    "matching_batch": 4,
    "reward_weight": 0.1,
    "reward_interval": 1,
    "anchor": 0.1,
    "detail_anchor": 10.0,
    "faithfulness": 0.1,
    "solver_steps": 3,
    "mask_steps": 2,
    "masks::max_attempts": 2,
    "lowest_spread": 0.0,
    "largest_dice_loss": 1.0,
    "patience": 0,
}


@pytest.fixture(scope="session")
def bundle():
    return BUNDLE


@pytest.fixture(autouse=True)
def restored_process(monkeypatch):
    """What a workflow changes in its process: excepthook, import path, determinism."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "path", sys.path[:])
    logging.getLogger("monai.bundle").setLevel(logging.ERROR)
    yield
    set_determinism(None)


def workflow(config, kind, run_id, overrides):
    """A workflow of `configs/CONFIG.json` as `monai.bundle run` makes it, not yet run."""
    overrides = copy.deepcopy(overrides)  # overrides such as "network_def::x" write into others
    return ConfigWorkflow(
        config_file=str(BUNDLE / f"configs/{config}.json"),
        logging_file=False,
        workflow_type=kind,
        run_id=run_id,
        bundle_root=str(BUNDLE),
        **overrides,
    )


def run(made):
    try:
        made.initialize()
        made.run()
        made.finalize()
    finally:
        release_all()  # as at the end of its process
    return made


def run_training(dataset_dir, output_dir, run_id="training", **overrides):
    overrides = {"dataset_dir": str(dataset_dir), "output_dir": str(output_dir)} | overrides
    return run(workflow("train", "train", run_id, TINY_TRAINING | overrides))


def run_inference(model_dir, output_dir, **overrides):
    overrides = {"model_dir": str(model_dir), "output_dir": str(output_dir)} | overrides
    return run(workflow("inference", "infer", "infer", TINY_INFERENCE | overrides))


def run_segmentation(model_dir, dataset_dir, output_dir, run_id="segment", **overrides):
    folders = {"model_dir": model_dir, "dataset_dir": dataset_dir, "output_dir": output_dir}
    overrides = {key: str(value) for key, value in folders.items()} | overrides
    return run(workflow("segment", "train", run_id, TINY_SEGMENTATION | overrides))


@pytest.fixture(scope="session")
def train():
    """`train(dataset_dir, output_dir, run_id="training", **overrides)`: a tiny training."""
    return run_training


@pytest.fixture(scope="session")
def infer():
    """`infer(model_dir, output_dir, **overrides)`: a few pairs."""
    return run_inference


@pytest.fixture(scope="session")
def run_config():
    """`run_config(config, "train" or "infer", run_id, overrides)`: a workflow, run."""
    return lambda config, kind, run_id, overrides: run(workflow(config, kind, run_id, overrides))


@pytest.fixture(scope="session")
def segment():
    """`segment(model_dir, dataset_dir, output_dir, run_id="segment", **overrides)`: a tiny one."""
    return run_segmentation


@pytest.fixture(scope="session")
def align():
    """`align(model_dir, reference_dir, output_dir, **overrides)`: a tiny alignment."""

    def call(model_dir, reference_dir, output_dir, **overrides):
        folders = {
            "model_dir": str(model_dir),
            "reference_dir": str(reference_dir),
            "output_dir": str(output_dir),
        }
        return run(workflow("align", "train", "align", TINY_ALIGNMENT | folders | overrides))

    return call


@pytest.fixture(scope="session")
def align_command():
    """`align_command(**overrides)`: the command line of a tiny alignment."""

    def build(**overrides):
        line = [sys.executable, "-m", "monai.bundle", "run", "align"]
        for key, value in (
            {"config_file": "configs/align.json"} | TINY_ALIGNMENT | overrides
        ).items():
            line += [f"--{key.replace('::', '#')}", str(value)]
        return line

    return build


@pytest.fixture(scope="session")
def prepared():
    """`prepared("train" or "inference", **overrides)`: an initialised workflow."""

    def prepare(config, **overrides):
        kind = {"train": "train", "inference": "infer"}[config]
        tiny = TINY_TRAINING if config == "train" else TINY_INFERENCE
        made = workflow(config, kind, "run", tiny | overrides)
        made.initialize()
        return made

    return prepare


@pytest.fixture(scope="session")
def command():
    """`command("train" or "inference", run_id, **overrides)`: the command line of that run."""

    def build(config, run_id, **overrides):
        tiny = TINY_TRAINING if config == "train" else TINY_INFERENCE
        call = [sys.executable, "-m", "monai.bundle", "run", run_id]
        if "config_file" not in overrides:
            overrides["config_file"] = f"configs/{config}.json"
        for key, value in (tiny | overrides).items():
            call += [f"--{key.replace('::', '#')}", str(value)]
        return call

    return build


@pytest.fixture(scope="session")
def environment():
    """Of subprocesses: one thread, and this checkout's package wherever they start."""
    path = os.pathsep.join([str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path.rstrip(os.pathsep)}


@pytest.fixture(scope="session")
def shell(environment):
    """`shell(command, cwd)`: run to the end; `returncode`, `stdout` and `stderr` as text."""

    def call(arguments, cwd=BUNDLE):
        return subprocess.run(
            arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
        )

    return call


@pytest.fixture(scope="session")
def kill_at(environment, tmp_path_factory):
    """`kill_at(path, command, delay=0, how=SIGKILL)`: start it, kill it `delay` s after `path`.

    Returns what it wrote on standard error.
    """

    def call(awaited, arguments, delay=0, how=signal.SIGKILL):
        said = tmp_path_factory.mktemp("killed") / "stderr"
        with said.open("w") as file:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": file}
            process = subprocess.Popen(arguments, cwd=BUNDLE, env=environment, **quiet)
        deadline = time.monotonic() + 300
        while not awaited.exists():
            assert process.poll() is None, f"ended before it wrote {awaited.name}"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(how)
        assert process.wait() == -how
        return said.read_text()

    return call


@pytest.fixture
def refused():
    """`refused(function, *arguments, **options)`: the one line that it is refused with."""

    def call(function, *arguments, **options):
        with pytest.raises(Exception) as caught:
            function(*arguments, **options)
        found = find_input_error(caught.value)
        assert isinstance(found, InputError), repr(caught.value)
        assert "\n" not in str(found)
        return str(found)

    return call


@pytest.fixture(scope="session")
def three_class_dataset(tmp_path_factory):
    """`images/` and `labels/` of 4 NIfTI volumes, 24 x 20 x 4, native labels 0, 3 and 7."""
    root = tmp_path_factory.mktemp("three_class")
    rng = np.random.default_rng(0)
    x, y = np.mgrid[:24, :20]
    for number in range(4):
        distance = np.hypot(x - 10 - number, y - 9)
        flat = 3 * (distance < 8) + 4 * (distance < 4)
        label = np.repeat(flat[..., None], 4, axis=2).astype(np.uint8)
        image = (200 + 40 * label + rng.normal(0, 9, label.shape)).astype(np.int16)
        for folder, volume in (("images", image), ("labels", label)):
            (root / folder).mkdir(exist_ok=True)
            path = root / folder / f"case{number}.nii.gz"
            nib.save(nib.Nifti1Image(volume, np.diag([1.25, 1.25, 4, 1])), path)
    return root


@pytest.fixture(scope="session")
def three_class_models(three_class_dataset, tmp_path_factory):
    """`models/` of a training on `three_class_dataset`."""
    output = tmp_path_factory.mktemp("three_class_bundle") / "models"
    run_training(three_class_dataset, output)
    return output


@pytest.fixture(scope="session")
def write_site():
    """`write_site(root, volumes)`: `images/` and `labels/`, 24 x 20 x 4, darker than trained on."""

    def write(root, volumes):
        rng = np.random.default_rng(7)
        x, y = np.mgrid[:24, :20]
        for number in range(volumes):
            radius = np.hypot(x - 11 - number, y - 10)
            label = np.stack([3 * (radius < 5 + k) + 4 * (radius < 3) for k in range(4)], axis=-1)
            image = (100 + 10 * label + rng.normal(0, 9, label.shape)).astype(np.int16)
            for folder, volume in (("images", image), ("labels", label.astype(np.uint8))):
                (root / folder).mkdir(exist_ok=True)
                path = root / folder / f"site{number}.nii.gz"
                nib.save(nib.Nifti1Image(volume, np.diag([1.25, 1.25, 4, 1])), path)
        return root

    return write
