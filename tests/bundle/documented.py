"""The commands of the documents as test_documentation.py runs them; started by its shims."""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from warm_python import ask

UNET = {"channels": [32, 32], "attention_levels": [False, True]}
SEGMENTER = {
    "_target_": "monai.networks.nets.UNet",
    "spatial_dims": 2,
    "channels": [4, 8],
    "strides": [2],
}
FEW_STEPS = {"batch_size": 4, "steps_per_epoch": 1}
FEW_MASKS = {"mask_steps": 2, "masks::max_attempts": 2}
TRAINING = FEW_STEPS | {
    "image_size": [64, 64],
    "image_epochs": 1,
    "mask_epochs": 1,
    "segmenter_epochs": 1,
    "segmenter_def": SEGMENTER
    | {
        "in_channels": "$@train::dataset.channels",
        "out_channels": "$@train::dataset.num_classes",
    },
    "solver_steps": 2,
    **{f"network_def::{key}": value for key, value in UNET.items()},
    **{f"mask_network_def::{key}": value for key, value in UNET.items()},
    "mask_network_def::prediction": "velocity",  # an untrained one draws masks
}
SEGMENTATION = FEW_STEPS | {
    "epochs": 1,
    "network_def": SEGMENTER
    | {"in_channels": "$@stage1.source.channels", "out_channels": "$@stage1.num_classes"},
}
RANDOM_ENCODER = {"encoder": "random", "encoder_size": [32, 32]}
TINY = {
    "training": TRAINING,
    "infer": FEW_MASKS | {"num_pairs": 4, "batch_size": 4, "image_steps": 2},
    "align": FEW_STEPS
    | FEW_MASKS
    | {
        "epochs": 1,
        "micro_batch": 2,
        "num_masks": 8,
        "num_samples": 8,
        "views": 2,
        "solver_steps": 2,
    },
    "distill": FEW_STEPS
    | FEW_MASKS
    | {
        "num_pairs": 8,
        "held_out": 4,
        "student_epochs": [1, 1, 1],
        "mask_student_epochs": [1, 1, 1],
        "image_steps": 4,
    },
    "export": FEW_MASKS | {"num_pairs": 2},
    "segment": SEGMENTATION,
    "test": {},
    "evaluate": RANDOM_ENCODER | {"draws": 2, "neighbours": 2},
    "report": RANDOM_ENCODER,
    "audit": {"membership_images": 4, "membership_times": [0.5], "membership_noises": 1},
    "collect": {},
}
TRACKED = {"training", "align", "distill", "segment"}  # the store takes longest of all
ALONE = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29417",
}


def command(name, arguments):
    """Run or look up one command, and write down which; its exit status."""
    start = time.monotonic()
    status = HOW[name](arguments)
    seconds = round(time.monotonic() - start, 1)
    how = "run" if name in ("python", "torchrun", "alignflow") else "looked up"
    with open(os.environ["ALIGNFLOW_COMMANDS"], "a") as log:
        entry = {"command": [name, *arguments], "how": how, "seconds": seconds}
        log.write(json.dumps(entry) + "\n")
    return status


def python(arguments):
    """With a few steps' settings, where it is a workflow."""
    if arguments[:3] == ["-m", "monai.bundle", "run"]:
        arguments = arguments + overrides(arguments[3], arguments)
    return ask(os.environ["ALIGNFLOW_WARM"], arguments)


def overrides(run_id, arguments):
    """Tiny settings, less those that the command gives itself."""
    tiny = TINY[run_id] | ({} if run_id in ("collect", "export") else {"device": "cpu"})
    tiny |= {"mlflow": False} if run_id in TRACKED else {}
    given = {word.removeprefix("--").replace("#", "::") for word in arguments}
    words = []
    for key, value in tiny.items():
        if key not in given:
            words += [f"--{key.replace('::', '#')}", str(value)]
    return words


def torchrun(arguments):
    """One process of those it would start."""
    assert arguments[0] == "--nproc_per_node"
    os.environ.update(ALONE)
    return python(arguments[2:])


def alignflow(arguments):
    """The console command; `adapt` and `check` with few steps."""
    quick = (
        ["--quick"]
        if arguments[:1] in (["adapt"], ["check"]) and "--quick" not in arguments
        else []
    )
    return ask(os.environ["ALIGNFLOW_WARM"], ["-m", "alignflow", *arguments, *quick])


def pip(arguments):
    """Whether the project has these extras, or there is such a list of pins."""
    if "-r" in arguments:
        return int("torch==" not in Path(arguments[-1]).read_text())
    project = tomllib.loads(Path("../pyproject.toml").read_text())["project"]
    extras = re.findall(r"\[(.*?)\]", arguments[-1])[0].split(",")
    return int(not set(extras) <= set(project["optional-dependencies"]))


def make(arguments):
    """Whether there is such a target."""
    path = os.pathsep.join(os.environ["PATH"].split(os.pathsep)[1:])
    return subprocess.run(["make", "-n", *arguments], env=os.environ | {"PATH": path}).returncode


def mlflow(arguments):
    """Whether the store that it is to show is there."""
    store = arguments[arguments.index("--backend-store-uri") + 1]
    return int(not Path(store.removeprefix("sqlite:///")).is_file())


def git(arguments):
    """The copy of the checkout stands for its clone."""
    assert arguments[0] == "clone"
    os.symlink(".", arguments[-1])
    return 0


HOW = {
    "python": python,
    "torchrun": torchrun,
    "alignflow": alignflow,
    "pip": pip,
    "make": make,
    "mlflow": mlflow,
    "git": git,
}
