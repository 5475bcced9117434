"""The packed zip with weights, unpacked and run: by this Python, and by one that has nothing else.

`slow` makes a virtual environment and installs the listed requirements alone; with
ALIGNFLOW_PACKED_PYTHON it takes a Python of such an environment instead.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from monai.apps.utils import extractall

from alignflow.errors import InputError
from alignflow.hashes import verify
from alignflow.packing import pack

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
INFER = ["-m", "monai.bundle", "run", "infer", "--config_file", "configs/inference.json"]
COUNTS = {"num_pairs": 2, "batch_size": 2, "image_steps": 2, "mask_steps": 2}
TINY = [f"--{key}={count}" for key, count in (COUNTS | {"masks#max_attempts": 2}).items()]
WHERE = "import alignflow; print(alignflow.__file__)"


@pytest.fixture(scope="module")
def unpacked(three_class_models, tmp_path_factory):
    """The folder `alignflow/` of a zip with the tiny weights."""
    folder = tmp_path_factory.mktemp("unpacked")
    archive = folder / "alignflow.zip"
    pack(
        archive,
        bundle=ROOT / "bundle",
        project=ROOT / "pyproject.toml",
        model_dir=three_class_models,
        data_source="tiny volumes of a test",
    )
    extractall(archive, folder / "empty")
    return folder / "empty/alignflow"


@pytest.fixture
def copied(unpacked, tmp_path):
    return shutil.copytree(unpacked, tmp_path / "alignflow")


def isolation(python, beside):
    """What cuts a command off from the network and from this checkout, where one may do that.

    A Python of the checkout's own environment is put back where it was, without the checkout.
    """
    hide = f"mount -t tmpfs none {ROOT}"
    environment = Path(python).parents[1]
    if ROOT in environment.parents:
        kept = beside / "kept"
        kept.mkdir(exist_ok=True)
        hide = (
            f"mount --bind {environment} {kept} && {hide} && mkdir -p {environment} && "
            f"mount --bind {kept} {environment}"
        )
    call = ["unshare", "--map-root-user", "-mn", "sh", "-c", f'{hide} && exec env -i "$@"', "sh"]
    for prefix in (call, [*call[:1], *call[2:]]):
        try:
            if subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
                return prefix
        except OSError:
            pass
    return ["env", "-i"]


def call(python, *arguments, cwd, **variables):
    """Run Python with nothing of this environment but what is given."""
    home = cwd.parent / "home"
    home.mkdir(exist_ok=True)
    path = f"{Path(python).parent}:/usr/bin:/bin"
    given = {"PATH": path, "HOME": str(home), "OMP_NUM_THREADS": "1"} | variables
    setting = [f"{k}={v}" for k, v in given.items()]
    line = [*isolation(python, home), *setting, str(python), *arguments]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=900)


def assert_runs(python, folder, **variables):
    """`run infer` writes pairs with the package of the folder."""
    where = call(python, "-c", WHERE, cwd=folder, **variables)
    assert where.stdout.strip() == str(folder / "alignflow/__init__.py"), where.stderr
    done = call(python, *INFER, *TINY, cwd=folder, **variables)
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "output/images").iterdir())) == 2
    provenance = json.loads((folder / "output/provenance.json").read_text())
    assert provenance["versions"]["commit"] == ""  # that of the checkout would tell of it


def test_it_runs_from_its_folder(copied):
    assert_runs(sys.executable, copied)


def test_weights_and_metadata(unpacked, three_class_models):
    assert verify(unpacked) > 100
    packed = sorted(p.name for p in (unpacked / "models").iterdir())
    assert packed == [".gitkeep", "mask_model.pt", "model.pt", "segmenter.pt", "stage1.json"]
    # the config of the training has paths of the machine, sample grids what it drew
    assert (three_class_models / "train_config.json").exists()
    metadata = json.loads((unpacked / "configs/metadata.json").read_text())
    inputs = metadata["network_data_format"]["inputs"]["image"]
    assert (inputs["num_channels"], inputs["spatial_shape"]) == (6, [16, 16])
    assert len(inputs["channel_def"]) == 6
    assert metadata["data_source"] == "tiny volumes of a test"


def test_verify_finds_code_and_runs_none_of_it(copied, tmp_path):
    """Nothing stops a run from executing it."""
    path, harm = copied / "configs/inference.json", f"$__import__('os').mkdir('{tmp_path}/ran')"
    original = path.read_text()
    path.write_text(original.replace('"seed": 0', f'"seed": "{harm}"'))
    with pytest.raises(InputError, match="'configs/inference.json' is changed"):
        verify(copied)
    path.write_text(original)
    (copied / "torch.py").write_text(harm[1:])
    with pytest.raises(InputError, match="'torch.py' is not listed"):
        verify(copied)
    assert not (tmp_path / "ran").exists()
    subprocess.run([sys.executable, "-c", "import torch"], cwd=copied, capture_output=True)
    assert (tmp_path / "ran").exists()  # it would have been the first to be found


@pytest.mark.slow
def test_in_an_empty_environment(copied, three_class_dataset, tmp_path):
    """No access to the checkout, no network where the system lets a test cut it, `env -i`."""
    python = os.environ.get("ALIGNFLOW_PACKED_PYTHON")
    if python is None:
        subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
        python = tmp_path / "venv/bin/python"
        call_pip = [python, "-m", "pip", "install", "-q", "-r", copied / "requirements.txt"]
        subprocess.run(call_pip, check=True)
    (tmp_path / "elsewhere").mkdir()
    absent = call(python, "-c", WHERE, cwd=tmp_path / "elsewhere")
    assert "No module named 'alignflow'" in absent.stderr
    assert_runs(python, copied)
    tiny = (
        "--batch_size 4 --steps_per_epoch 2 --image_epochs 1 --mask_epochs 1 --segmenter_epochs 1"
    )
    size = ["--image_size", "[32,32]", "--device", "cpu"]
    line = ["-m", "monai.bundle", "run", "training", "--config_file", "configs/train.json"]
    data = ["--dataset_dir", str(three_class_dataset), "--output_dir", str(tmp_path / "models")]
    done = call(python, *line, *data, *tiny.split(), *size, cwd=copied)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models/stage1.json").exists()


@pytest.mark.slow
def test_the_wheel_alone_checks_a_data_set(three_class_dataset, tmp_path):
    """The configs travel inside: `alignflow` needs no checkout."""
    root = Path(__file__).parents[2]
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path)
    for name in ("bundle/configs", "scripts/alignflow"):
        shutil.copytree(root / name, tmp_path / name)
    options = ["--no-deps", "--no-build-isolation", "-q", "-w", tmp_path / "wheel"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, tmp_path], check=True)
    shutil.unpack_archive(next((tmp_path / "wheel").iterdir()), tmp_path / "installed", "zip")
    (tmp_path / "empty").mkdir()
    python = [sys.executable, "-m", "alignflow", "check", str(three_class_dataset), "--quick"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    where = [sys.executable, "-c", "import alignflow; print(alignflow.__file__)"]
    options = {"cwd": tmp_path / "empty", "env": environment, "capture_output": True, "text": True}
    assert str(tmp_path / "installed") in subprocess.run(where, check=True, **options).stdout
    done = subprocess.run(python, check=False, **options)
    assert done.returncode == 0, done.stderr
    assert "training can start" in done.stdout
