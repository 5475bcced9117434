"""The two commands of the README, as typed, with a bundle folder of their own."""

import json
import re
import shutil

import pytest


@pytest.fixture(scope="module")
def home(bundle, tmp_path_factory):
    """A folder with `bundle/` in it, as after a clone."""
    root = tmp_path_factory.mktemp("clone")
    shutil.copytree(
        bundle, root / "bundle", ignore=shutil.ignore_patterns("nuclei", "*.pt", "output")
    )
    return root


@pytest.fixture(scope="module")
def trained(home, command, shell, three_class_dataset):
    """`run training` from `bundle/`, MLflow on as it comes: the finished process."""
    call = command("train", "training", dataset_dir=three_class_dataset, mlflow=True)
    return shell(call, home / "bundle")


@pytest.fixture(scope="module")
def inferred(home, trained, command, shell):
    """`run infer` from the folder above `bundle/`: the finished process."""
    call = command(
        "inference", "infer", config_file="bundle/configs/inference.json", bundle_root="bundle"
    )
    return shell(call, home)


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_training_from_the_bundle_folder(home, trained):
    assert trained.returncode == 0, trained.stderr
    found = [f for f in files(home / "bundle/models") if not f.startswith("mlruns/")]
    assert found == [
        ".gitkeep",
        "checkpoints/image_checkpoint_1.pt",
        "checkpoints/image_checkpoint_2.pt",
        "checkpoints/mask_checkpoint_1.pt",
        "checkpoints/mask_checkpoint_2.pt",
        "checkpoints/segmenter_checkpoint_1.pt",
        "checkpoints/segmenter_checkpoint_2.pt",
        "mask_model.pt",
        "mlflow.db",
        "model.pt",
        "samples/image/image_epoch_0001.png",
        "samples/image/image_epoch_0002.png",
        "samples/mask/mask_epoch_0001.png",
        "samples/mask/mask_epoch_0002.png",
        "segmenter.pt",
        "stage1.json",
        "train_config.json",
    ]
    config = json.loads((home / "bundle/models/train_config.json").read_text())
    assert config["image_size"] == [16, 16] and config["network_def"]["channels"] == [32, 32]


def test_inference_from_the_folder_above(home, inferred):
    assert inferred.returncode == 0, inferred.stderr
    pairs = [f"{kind}/pair_{k:05d}.nii.gz" for kind in ("images", "labels") for k in range(4)]
    found = files(home / "bundle/output")
    assert found == sorted([*pairs, "contact_sheet.png", "dataset.json", "provenance.json"])
    assert files(home) == sorted(f"bundle/{name}" for name in files(home / "bundle"))


def test_the_console_shows_where_a_training_stands(trained):
    assert "reading: 100%" in trained.stderr
    for name in ("image flow", "mask flow"):
        lines = [part for part in re.split(r"[\r\n]", trained.stderr) if part.startswith(name)]
        assert re.search(r"\| 6/6 \[\d\d:\d\d<00:00, .*loss=\d.*, held out=\d", lines[-1])


def test_the_console_says_where_things_are(trained, inferred):
    assert re.search(
        r"wrote model.pt, mask_model.pt, segmenter.pt and stage1.json to './models'", trained.stdout
    )
    assert re.search(r"wrote 4 pairs, contact_sheet.png .* to 'bundle/output'", inferred.stdout)


def test_the_console_holds_nothing_else(trained, inferred):
    for done in (trained, inferred):
        lines = [part.strip() for part in re.split(r"[\r\n]", done.stderr)]
        bars = re.compile(r"(masks|reading|image flow|mask flow|segmenter|pairs): ")
        other = [line for line in lines if line and not bars.match(line)]
        # MONAI says at every start that a config is code
        assert len(other) == 1 and other[0].startswith("parsing config_file")
        for word in ("Traceback", "Warning", "WARNING", "ERROR", "deprecated"):
            assert word not in done.stdout


@pytest.mark.slow
def test_the_other_way_round_with_overrides(home, command, shell, three_class_dataset):
    shutil.rmtree(home / "bundle/models")
    shutil.rmtree(home / "bundle/output", ignore_errors=True)
    (home / "window.json").write_text('{"window": [0, 255]}')
    overrides = {"bundle_root": "bundle", "dataset_dir": three_class_dataset}
    call = command(
        "train",
        "training",
        config_file="['bundle/configs/train.json','window.json']",
        **overrides | {"train::update::clip": 0.5},
    )
    done = shell(call, home)
    assert done.returncode == 0, done.stderr
    config = json.loads((home / "bundle/models/train_config.json").read_text())
    assert config["window"] == [0, 255]  # of the second file
    assert config["train"]["update"]["clip"] == 0.5  # of the command line
    done = shell(command("inference", "infer"), home / "bundle")
    assert done.returncode == 0, done.stderr
    assert len(list((home / "bundle/output/images").iterdir())) == 4
