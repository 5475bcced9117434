"""Fixtures that several test files share: tiny data sets made on the spot."""

import importlib.util
import json
import os
import pickle
import resource
import subprocess
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from alignflow.data.spec import SourceSpec

SERVER = Path(__file__).with_name("dicomweb_server.py")

# tiny tensors: a pool of threads costs more than it gives
torch.set_num_threads(1)


def disc(shape, radius, centre=None):
    """A filled disc (bool) of `radius` pixels in `shape`, at its middle by default."""
    middle = [(size - 1) / 2 for size in shape] if centre is None else centre
    grid = np.indices(shape)
    distance = sum((axis - point) ** 2 for axis, point in zip(grid, middle, strict=True))
    return distance <= radius**2


def nested_discs(shape, radius):
    """Labels 0, 1 (ring) and 2 (core)."""
    return disc(shape, radius).astype(np.uint8) + disc(shape, radius / 2)


@pytest.fixture(scope="session")
def png_source():
    """`png_source(**changes)`: what a bundle knows of gray PNG images with one class."""
    known = {
        "channels": 1,
        "labels": {"background": 0.0, "disc": 255.0},
        "modality": "RGB8",
        "window": (0.0, 255.0),
        "image_suffix": ".png",
        "label_suffix": ".png",
        "image_dtype": "uint8",
        "label_dtype": "uint8",
        "geometries": [{"shape": [16, 16], "affine": None}],
    }
    return lambda **changes: SourceSpec(**known | changes)


@pytest.fixture
def nifti_dataset(tmp_path):
    """MSD-style folder of 3 MR-like volumes, 24 x 20 x 6 at 1.5 x 1.5 x 3 mm, labels 0..2."""
    root = tmp_path / "nifti"
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    affine[:3, 3] = [-10.0, 5.0, 20.0]
    rng = np.random.default_rng(0)
    training = []
    for number in range(3):
        radii = 3 + number + np.arange(6) / 2
        label = np.stack([nested_discs((24, 20), radius) for radius in radii], axis=-1)
        image = (100 * (1 + label) + rng.normal(0, 5, label.shape)).astype(np.float32)
        case = {"group": f"patient{number}"}
        for key, volume in (("image", image), ("label", label)):
            path = root / f"{key}s" / f"case{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(volume, affine), path)
            case[key] = f"./{path.relative_to(root).as_posix()}"
        training.append(case)
    description = {
        "name": "discs",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "ring", "2": "core"},
        "numTraining": 3,
        "training": training,
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return root


@pytest.fixture
def png_dataset(tmp_path):
    """`images/` (RGB, 32 wide and 24 high) with `masks/` (grey 0 or 255), 6 pairs."""
    root = tmp_path / "png"
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(6):
        mask = disc((24, 32), 4 + number)
        image = rng.integers(60, 90, (24, 32, 3)) + 100 * mask[..., None]
        Image.fromarray(image.astype(np.uint8)).save(root / f"images/{number:03d}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / f"masks/{number:03d}.png")
    return root


@pytest.fixture
def in_child():
    """`in_child(function, limit=(kind, value))`: what it returns, or raises, in a forked process.

    The limit is one of `resource`, set in that process alone.
    """

    def call(function, limit=None):
        reading, writing = os.pipe()
        number = os.fork()
        if number == 0:
            try:
                if limit is not None:
                    resource.setrlimit(limit[0], (limit[1], limit[1]))
                result = function()
            except BaseException as error:
                result = error
            try:
                os.write(writing, pickle.dumps(result))
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            content = file.read()
        os.waitpid(number, 0)
        result = pickle.loads(content)
        if isinstance(result, BaseException):
            raise result
        return result

    return call


def mounted(folder, *arguments):
    """Mount something on a folder; skips where that is not permitted."""
    call = ["mount", *map(str, arguments), str(folder)]
    try:
        done = subprocess.run(call, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no mount here: {error}")
    if done.returncode:
        pytest.skip(f"not permitted to mount: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mounted(folder, "-t", "tmpfs", "-o", "size=256k", "none")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def read_only():
    """`read_only(folder)`: until the test ends nobody can write to it, root included."""
    folders = []

    def call(folder):
        mounted(folder, "--bind", folder)
        folders.append(folder)
        mounted(folder, "-o", "remount,bind,ro")
        return folder

    yield call
    for folder in folders:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def dicomweb_server():
    """See `dicomweb_server.Server`."""
    spec = importlib.util.spec_from_file_location("dicomweb_server", SERVER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = module.Server()
    yield server
    server.shutdown()
    server.server_close()
