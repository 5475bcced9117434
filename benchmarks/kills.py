"""Runs that are killed at any moment: are they taken up, and do they end with the same files?

python benchmarks/kills.py --work DIR [--kills 200] [--seed 0] --output kills.json

Kills are shared out evenly over training, align, distill and infer: bundles of 16 px, a few steps
each. A run is killed up to six times and started again, then left to its end. The moments are
uniform over the time that a whole run takes; every third is that of a temporary file, so that it
falls into a write. Every fourth kill is SIGTERM, the others are SIGKILL.

After each kill every file with a final name is read to its end. At the end of each run all files
must have the bytes of a run that was not killed (checkpoints: the content), and nothing temporary
may be left. Every eighth run tracks with MLflow, whose store is left out of the comparison, as is
the lock.

Runs are forked from a process that has imported everything: what is killed is the run itself.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import random
import shutil
import signal
import sys
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import nibabel
import numpy as np
import torch
from common import command_line, save
from common.machine import machine
from monai.bundle import ConfigWorkflow
from PIL import Image

import alignflow
from alignflow.files import PARTIAL, load_tensors
from alignflow.inference.progress import FOLDER
from alignflow.lock import FILE as LOCK

BUNDLE = Path(__file__).parents[1] / "bundle"
MOST_KILLS = 6  # of one run
MOST_SECONDS = 600  # of a run: one that hangs is ended, and so seen
LEFT_OUT = (LOCK, "mlflow.db")
UNET = {"channels": [32], "attention_levels": [False]}
SEGMENTER = {"_target_": "monai.networks.nets.UNet", "spatial_dims": 2, "strides": [2]}
TRAIN = {
    "image_size": [16, 16],
    "batch_size": 4,
    "steps_per_epoch": 2,
    "image_epochs": 3,
    "mask_epochs": 2,
    "segmenter_epochs": 2,
    "segmenter_def": SEGMENTER
    | {
        "channels": [4, 8],
        "in_channels": "$@train::dataset.channels",
        "out_channels": "$@train::dataset.num_classes",
    },
    "val_interval": 1,
    "solver_steps": 2,
    **{f"network_def::{key}": value for key, value in UNET.items()},
    **{f"mask_network_def::{key}": value for key, value in UNET.items()},
    "mask_network_def::prediction": "velocity",  # an untrained one draws masks
}
ALIGN = {
    "epochs": 3,
    "steps_per_epoch": 2,
    "batch_size": 4,
    "micro_batch": 4,
    "num_masks": 8,
    "num_samples": 8,
    "views": 2,
    "solver_steps": 2,
    "mask_steps": 2,
    "masks::max_attempts": 2,
    "lowest_spread": 0.0,
    "largest_dice_loss": 1.0,
    "patience": 0,
}
DISTILL = {
    "num_pairs": 32,
    "held_out": 4,
    "image_steps": 2,
    "mask_steps": 2,
    "masks::max_attempts": 2,
    "progressive_steps": 2,
    "student_steps": [2, 1],
    "student_epochs": [1, 2],
    "mask_student_steps": [1],
    "mask_student_epochs": [2],
    "batch_size": 4,
    "steps_per_epoch": 2,
}
INFER = {
    "num_pairs": 48,
    "batch_size": 4,
    "image_steps": 2,
    "mask_steps": 2,
    "masks::max_attempts": 2,
}


@dataclass
class Workflow:
    """A workflow, and what was seen of it.

    Attributes:
        config: its file, without suffix.
        run_id: what is run.
        overrides: of the config.
        tracks: whether MLflow can be switched on.
        seconds: that a whole run took.
        expected: hash of each of its files, without MLflow and with it.
    """

    config: str
    run_id: str
    overrides: dict[str, Any]
    tracks: bool = True
    seconds: float = 0.0
    expected: dict[bool, dict[str, str]] = field(default_factory=dict)


def import_all() -> None:
    """Everything that a config may name, so that no run spends its time on imports."""
    for module in pkgutil.walk_packages(alignflow.__path__, "alignflow."):
        importlib.import_module(module.name)
    for name in ("torch._dynamo", "mlflow.store.tracking.sqlalchemy_store"):  # imported on demand
        importlib.import_module(name)


def make_data(folder: Path) -> None:
    """Eight RGB pictures of discs, 16 px, with masks."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(8):
        mask = np.hypot(x - 7 - number % 3, y - 8) < 3 + number % 4
        image = rng.integers(60, 90, (16, 16, 3)) + 100 * mask[..., None]
        Image.fromarray(image.astype(np.uint8)).save(folder / f"images/{number}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(folder / f"masks/{number}.png")


def workflows(work: Path) -> dict[str, Workflow]:
    """The four, in the order in which one needs what another has made."""
    data, models = str(work / "data"), str(work / "models")
    folders = {"model_dir": models, "output_dir": str(work / "out"), "device": "cpu"}
    data_dir = {"dataset_dir": data}
    found = {
        "training": Workflow("train", "training", TRAIN | data_dir),
        "align": Workflow("align", "align", ALIGN | {"reference_dir": f"{data}/images"}),
        "distill": Workflow("distill", "distill", DISTILL),
        "infer": Workflow("inference", "infer", INFER, tracks=False),
    }
    for name, workflow in found.items():
        own = {k: v for k, v in folders.items() if name != "training" or k != "model_dir"}
        workflow.overrides = workflow.overrides | own
    return found


def start(workflow: Workflow, log: Path, mlflow: bool = False) -> int:
    """Fork a process that runs a workflow; its number."""
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    status = 1
    signal.alarm(MOST_SECONDS)
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        overrides = json.loads(json.dumps(workflow.overrides))
        if workflow.tracks:
            overrides["mlflow"] = mlflow
        made = ConfigWorkflow(
            config_file=str(BUNDLE / f"configs/{workflow.config}.json"),
            logging_file=str(BUNDLE / "configs/logging.conf"),
            workflow_type="infer" if workflow.run_id == "infer" else "train",
            run_id=workflow.run_id,
            bundle_root=str(BUNDLE),
            **overrides,
        )
        made.initialize()
        made.run()
        made.finalize()
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def finish(workflow: Workflow, log: Path, mlflow: bool = False) -> float:
    """Run to the end; seconds."""
    begin = time.monotonic()
    _, status = os.waitpid(start(workflow, log, mlflow), 0)
    if status:
        raise SystemExit(f"error: {workflow.run_id} failed\n{log.read_text()[-3000:]}")
    return time.monotonic() - begin


def kill(
    workflow: Workflow,
    out: Path,
    log: Path,
    rng: random.Random,
    *,
    aimed: bool,
    sign: int,
    mlflow: bool,
) -> bool:
    """Start a run and kill it; whether it was killed before its end."""
    number = start(workflow, log, mlflow)
    moment = time.monotonic() + rng.uniform(0, workflow.seconds)
    while True:
        ended, status = os.waitpid(number, os.WNOHANG)
        if ended:
            if status:
                raise SystemExit(f"error: {workflow.run_id} failed\n{log.read_text()[-3000:]}")
            return False
        # An aimed one waits for a write behind its moment, so that not every first write is hit.
        if time.monotonic() >= moment and (not aimed or any(map(is_partial, files_of(out)))):
            break
        time.sleep(0.0002 if aimed else 0.002)
    os.kill(number, sign)
    _, status = os.waitpid(number, 0)
    return os.WIFSIGNALED(status)


def files_of(folder: Path) -> list[Path]:
    """All files below a folder that another process works in."""
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def is_partial(path: Path) -> bool:
    """Whether a name says that its file may be cut off."""
    return PARTIAL.fullmatch(path.name) is not None


def read(path: Path) -> None:
    """Read a file of a known kind to its end; raises whatever its reader does."""
    kinds: dict[str, Callable[[Path], Any]] = {
        ".pt": load_tensors,
        ".json": lambda p: json.loads(p.read_text()),
        ".png": lambda p: (Image.open(p).verify(), Image.open(p).load()),
        ".gz": lambda p: nibabel.load(p).get_fdata(),
    }
    kinds[path.suffix](path)
    if path.suffix == ".pt" and not zipfile.is_zipfile(path):
        raise ValueError(f"'{path}': no archive")


def damaged(out: Path) -> list[str]:
    """Files with final names that cannot be read."""
    found = []
    for path in files_of(out):
        own = path.relative_to(out)
        if is_partial(path) or own.parts[0] in (FOLDER, "mlruns") or own.name.startswith(LEFT_OUT):
            continue
        try:
            read(path)
        except Exception as error:
            found.append(f"{own}: {type(error).__name__}")
    return found


def hashes(out: Path) -> dict[str, str]:
    """Digest of every file, but those of MLflow and the lock.

    Of checkpoints it is that of their content: pickle writes texts that are one object once, and
    after loading they are several.
    """
    names = [path.relative_to(out) for path in files_of(out)]
    names = [n for n in names if not n.name.startswith(LEFT_OUT) and n.parts[0] != "mlruns"]
    found = {}
    for name in sorted(names):
        in_checkpoint = name.parts[0] == "checkpoints"
        content = plain(load_tensors(out / name)) if in_checkpoint else (out / name).read_bytes()
        found[str(name)] = hashlib.sha256(content).hexdigest()
    return found


def plain(value: Any) -> bytes:
    """What a checkpoint holds, tensors with type, shape and bits, as bytes."""
    if isinstance(value, torch.Tensor):
        facts = f"{value.dtype} {tuple(value.shape)}".encode()
        return facts + value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return b"{" + b",".join(plain(k) + b":" + plain(v) for k, v in value.items()) + b"}"
    if isinstance(value, (list, tuple)):
        return b"[" + b",".join(plain(one) for one in value) + b"]"
    return repr(value).encode()


def try_out(
    workflow: Workflow, work: Path, kills: int, rng: random.Random, numbers: dict[str, int]
) -> dict[str, Any]:
    """Kill a workflow so many times; what was seen."""
    out, log = work / "out", work / "log.txt"
    seen: Counter[str] = Counter()
    bad: list[str] = []
    while seen["kills"] < kills:
        shutil.rmtree(out, ignore_errors=True)
        numbers["runs"] += 1
        mlflow = workflow.tracks and numbers["runs"] % 8 == 0
        for _ in range(rng.randint(1, MOST_KILLS)):
            if seen["kills"] >= kills:
                break
            numbers["kills"] += 1
            aimed = numbers["kills"] % 3 == 0
            sign = signal.SIGTERM if numbers["kills"] % 4 == 0 else signal.SIGKILL
            if not kill(workflow, out, log, rng, aimed=aimed, sign=sign, mlflow=mlflow):
                seen["ended_before"] += 1
                break
            seen["kills"] += 1
            seen["aimed"] += aimed
            seen["sigterm"] += sign == signal.SIGTERM
            seen["in_a_write"] += any(map(is_partial, files_of(out)))
            bad += [f"after kill {seen['kills']}: {line}" for line in damaged(out)]
        finish(workflow, log, mlflow)
        seen["runs"] += 1
        seen["with_mlflow"] += mlflow
        found, expected = hashes(out), workflow.expected[mlflow]
        other = sorted(n for n in found | expected if found.get(n) != expected.get(n))
        bad += [f"run {seen['runs']}: '{name}' differs" for name in other]
        print(f"{workflow.run_id}: {dict(seen)} {bad}", flush=True)
    return dict(seen) | {"wrong": bad, "files_compared": len(workflow.expected[False])}


def main() -> None:
    """See the module."""
    parser = command_line(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a new folder")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="workflows to kill; the others run once")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True)
    torch.set_num_threads(1)
    import_all()
    make_data(args.work / "data")
    found, numbers = workflows(args.work), {"runs": 0, "kills": 0}
    result: dict[str, Any] = {"arguments": vars(args), "machine": machine("cpu"), "workflows": {}}
    for name, workflow in found.items():
        rng = random.Random(f"{args.seed} {name}")
        for mlflow in (True, False) if workflow.tracks else (False,):
            shutil.rmtree(args.work / "out", ignore_errors=True)
            workflow.seconds = finish(workflow, args.work / "log.txt", mlflow)
            workflow.expected[mlflow] = hashes(args.work / "out")
        if name == "training":
            shutil.copytree(args.work / "out", args.work / "models")
        if args.only is None or name in args.only:
            share = -(-args.kills // len(args.only or found))
            seen = try_out(workflow, args.work, share, rng, numbers)
            result["workflows"][name] = seen | {"seconds": workflow.seconds}
        shutil.rmtree(args.work / "out")
    rows = result["workflows"].values()
    result["kills"] = sum(row["kills"] for row in rows)
    result["wrong"] = sum(len(row["wrong"]) for row in rows)
    print(f"{result['kills']} kills, {result['wrong']} times something wrong")
    save(result, args.output)
    if result["wrong"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
