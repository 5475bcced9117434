"""Benchmarks are scripts, not a package: they are loaded by path."""

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import READING
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism
from PIL import Image

from alignflow.flow.sampler import FlowSampler
from alignflow.masks.conditions import describe
from alignflow.masks.postprocess import MaskPostprocess
from alignflow.networks.velocity import VelocityUNet
from alignflow.segmentation.network import build_network
from alignflow.stage1 import WEIGHTS, Stage1

FOLDER = Path(__file__).parents[2] / "benchmarks"
BUNDLE = FOLDER.parent / "bundle"
SEGMENTER = {
    "_target_": "monai.networks.nets.UNet",
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
}
DISTILL = {
    "device": "cpu",
    "mlflow": False,
    "num_pairs": 4,
    "held_out": 2,
    "image_steps": 2,
    "mask_steps": 2,
    "masks::max_attempts": 2,
    "student_steps": [1],
    "student_epochs": [1],
    "mask_student_steps": [1],
    "mask_student_epochs": [1],
    "steps_per_epoch": 1,
    "batch_size": 4,
}
EXPORT = {"num_pairs": 2, "mask_steps": 2, "masks::max_attempts": 2}


@pytest.fixture
def load_benchmark(monkeypatch):
    """load_benchmark("train_step") is benchmarks/train_step.py as a module."""
    monkeypatch.syspath_prepend(FOLDER)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def load_adaptation(monkeypatch):
    """load_adaptation("splits") is benchmarks/adaptation/splits.py; it imports its neighbours."""
    monkeypatch.syspath_prepend(FOLDER / "adaptation")
    return importlib.import_module


def random_flow(path, **options):
    """Weights of a network whose last layer is not zero; its arguments."""
    torch.manual_seed(0)
    # smooth in t: at time_scale 1000 random weights ripple faster than a few steps follow
    network = VelocityUNet(channels=[32], attention_levels=[False], time_scale=10.0, **options)
    for weight in network.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    torch.save(FlowSampler(network, steps=1).state_dict(), path)
    return network.arguments


def write_bundle(folder, source):
    """A bundle of random weights for RGB PNG images of 16 px with one class."""
    masks = torch.zeros(5, 1, 16, 16, dtype=torch.uint8)
    for k, mask in enumerate(masks):
        mask[0, 4 : 8 + k, 5:12] = 1
    torch.manual_seed(0)
    torch.save(build_network(SEGMENTER, "test").state_dict(), folder / WEIGHTS["segmenter"])
    Stage1(
        source,
        [16, 16],
        random_flow(folder / WEIGHTS["image"], data_channels=3, condition_channels=3),
        random_flow(folder / WEIGHTS["mask"], data_channels=1, vector_size=5),
        5.0,
        "disjoint",
        MaskPostprocess.fit(masks, 2).to_dict(),
        describe(masks, 2).tolist(),
        SEGMENTER,
        READING,
        [],
    ).save(str(folder))


def run_config(config, kind, run_id, overrides):
    """A workflow of `configs/CONFIG.json`, run; what it changes in the process is put back."""
    hook, path = sys.excepthook, sys.path[:]
    try:
        made = ConfigWorkflow(
            config_file=str(BUNDLE / f"configs/{config}.json"),
            logging_file=False,
            workflow_type=kind,
            run_id=run_id,
            bundle_root=str(BUNDLE),
            **overrides,
        )
        made.initialize()
        made.run()
        made.finalize()
    finally:
        sys.excepthook, sys.path[:] = hook, path
        set_determinism(None)


@pytest.fixture(scope="session")
def rgb_source(png_source):
    return png_source(channels=3, labels={"background": 0.0, "square": 1.0})


@pytest.fixture(scope="session")
def distilled(rgb_source, tmp_path_factory):
    """A bundle with students of one step, all near random weights, with their exports."""
    teacher, output = (tmp_path_factory.mktemp(name) for name in ("teacher", "distilled"))
    write_bundle(teacher, rgb_source)
    folders = {"model_dir": str(teacher), "output_dir": str(output)}
    run_config("distill", "train", "distill", DISTILL | folders)
    run_config("export", "infer", "export", EXPORT | {"model_dir": str(output), "device": "cpu"})
    return output


@pytest.fixture
def random_bundle(rgb_source, tmp_path):
    """A bundle of random weights for RGB PNG images of 16 px with one class."""
    folder = tmp_path / "models"
    folder.mkdir()
    write_bundle(folder, rgb_source)
    return folder


@pytest.fixture
def site(tmp_path):
    """A folder of 9 random RGB images."""
    folder = tmp_path / "site"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(9):
        pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder
