"""Our training step against MONAI's: seconds per step and peak memory, side by side in one run.

    python benchmarks/train_step.py [--device cuda] [--rounds 8] [--steps 5] [--output FILE.json]

"ours" is the image flow of bundle/configs/train.json as it stands (patches, flash attention,
channels_last on a GPU, bf16 where the device computes in it, EMA, gradient clipping, LR schedule,
data loader), trained by its own SupervisedTrainer. "monai" is MONAI's DiffusionModelUNet at full
resolution under SupervisedTrainer as both come: fp32, default attention, the mask concatenated by
DiffusionInferer, rectified flow's velocity with MSE. Both have equal parameter counts (see
--tolerance), learn the same objective and see 3 image and 3 condition channels.

Each arm lives in a process of its own; the processes take turns, one block of steps at a time, and
a ratio is that of two blocks of one round. On a CPU each arm runs twice: with glibc's allocator as
it comes, and with `tune_allocator`, which our workflows call and which helps MONAI's network too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from common import command_line, save
from common.machine import machine
from common.workers import Worker, ratios, take_turns, workers
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.engines.utils import DiffusionPrepareBatch
from monai.inferers import DiffusionInferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import RFlowScheduler
from PIL import Image
from torch import Tensor

from alignflow.device import Precision, default_device, tune_allocator
from alignflow.errors import InputError, print_input_errors_as_one_line
from alignflow.inference.writing import versions

CONFIG = Path(__file__).parents[1] / "bundle" / "configs" / "train.json"
BETWEEN_EPOCHS = ("checkpoint", "weights", "validator", "tracking")
BATCHES = 4  # different batches that each arm's data set holds

Arm = tuple[str, bool]  # whose step, and whether its process has a tuned allocator
OURS, TUNED_MONAI = ("ours", True), ("monai", True)
UNTUNED_OURS, MONAI = ("ours", False), ("monai", False)
COMPARISONS = {
    "each as it comes": (MONAI, OURS),
    "both tuned": (TUNED_MONAI, OURS),
    "both with glibc defaults": (MONAI, UNTUNED_OURS),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the tables, write the JSON, return what it holds."""
    args = arguments(argv)
    on_cpu = torch.device(args.device).type == "cpu"
    # On a GPU the host's allocator does not matter.
    names = list(COMPARISONS) if on_cpu else ["each as it comes"]
    arms = list(dict.fromkeys(arm for name in names for arm in COMPARISONS[name]))
    place = machine(args.device) | {"precision_of_ours": Precision(args.device).precision}
    with workers(arms, prepare, args) as running:
        parameters = {arm[0]: worker.facts for arm, worker in running.items()}
        check_parameters(parameters, args.tolerance)
        take_turns(running.values(), args.rounds)
        seconds = {arm: block_means(worker) for arm, worker in running.items()}
        result = {
            "arguments": vars(args),
            "machine": place,
            "versions": versions(),
            "parameters": parameters,
            "arms": {label(a): report(worker, args.device) for a, worker in running.items()},
            "ratios": {name: ratios(*(seconds[a] for a in COMPARISONS[name])) for name in names},
        }
    print_tables(result)
    save(result, args.output)
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    add = parser.add_argument
    add("--device", default=default_device())
    add("--rounds", type=int, default=8, help="timed blocks of each arm (default 8)")
    add("--steps", type=int, default=5, help="steps of a block; one block warms up (default 5)")
    add("--image_size", type=int, default=64, help="pixels of each side (default 64)")
    add("--batch_size", type=int, default=16)
    add("--threads", type=int, help="of torch, in every arm; default: torch's own")
    add("--channels", type=int, nargs="+", help="of our network; default: the config's")
    add(
        "--monai_channels",
        type=int,
        nargs="+",
        default=[64, 96, 128],
        help="of MONAI's network, attention at the last level (default: ours, 64 96 128)",
    )
    add("--monai_res_blocks", type=int, default=1)
    add("--tolerance", type=float, default=0.03, help="of the parameter counts (default 0.03)")
    add("--output", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


# -- the two arms ----------------------------------------------------------------------------------


def our_trainer(args: argparse.Namespace, folder: Path) -> SupervisedTrainer:
    """The image flow's trainer of train.json, on pictures in `folder`.

    Handlers that act between epochs (checkpoints, pictures, tracking) are left out.
    """
    write_pictures(folder, BATCHES * args.batch_size + 2, args.image_size)
    config = ConfigParser()
    config.read_config(CONFIG)
    config.update(
        {
            "dataset_dir": str(folder),
            "output_dir": str(folder),
            "device": args.device,
            "image_size": [args.image_size, args.image_size],
            "batch_size": args.batch_size,
            "steps_per_epoch": args.steps,
            "image_epochs": args.rounds + 1,
            "mlflow": False,
            **{f"train::trainer::{key}": None for key in BETWEEN_EPOCHS},
            "train::dataset::progress": False,
        }
    )
    if args.channels:
        config["network_def::channels"] = args.channels
    return config.get_parsed_content("train::trainer")


def monai_trainer(args: argparse.Namespace, folder: Path) -> SupervisedTrainer:
    """MONAI's own parts with their defaults; nothing in `folder` is used."""
    levels = len(args.monai_channels)
    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=6,
        out_channels=3,
        channels=args.monai_channels,
        attention_levels=[False] * (levels - 1) + [True],
        num_res_blocks=args.monai_res_blocks,
        num_head_channels=32,
    ).to(args.device)
    items = [random_item(args.image_size) for _ in range(BATCHES * args.batch_size)]
    scheduler = RFlowScheduler()
    return SupervisedTrainer(
        device=args.device,
        max_epochs=args.rounds + 1,
        epoch_length=args.steps,
        train_data_loader=DataLoader(Dataset(items), batch_size=args.batch_size, shuffle=True),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=1e-4),
        loss_function=torch.nn.MSELoss(),
        inferer=partial(DiffusionInferer(scheduler), mode="concat"),  # type: ignore[arg-type]
        prepare_batch=VelocityBatch(scheduler.num_train_timesteps, condition_name="condition"),
    )


class VelocityBatch(DiffusionPrepareBatch):
    """MONAI's diffusion batch with the target of its RFlowScheduler."""

    def get_target(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return images - noise


TRAINERS: dict[str, Callable[[argparse.Namespace, Path], SupervisedTrainer]] = {
    "ours": our_trainer,
    "monai": monai_trainer,
}


def random_item(size: int) -> dict[str, Tensor]:
    """A pair as MONAI's engine expects it, its condition made in advance."""
    return {
        "image": torch.rand(3, size, size) * 2 - 1,
        "label": torch.zeros(1, size, size, dtype=torch.uint8),
        "condition": torch.rand(3, size, size) * 2 - 1,
    }


def write_pictures(folder: Path, count: int, size: int) -> None:
    """`images/` (RGB noise) and `masks/` (a square): what a step costs does not depend on them."""
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    mask = np.zeros((size, size), dtype=np.uint8)
    mask[size // 4 : size // 2, size // 4 : size // 2] = 255
    for number in range(count):
        pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:04d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:04d}.png")


# -- one process an arm ----------------------------------------------------------------------------


class Clock:
    """Handler: seconds of each step, from asking for the batch to the end of the update."""

    def __init__(self, device: str) -> None:
        self.synchronize = torch.cuda.synchronize if "cuda" in device else lambda: None
        self.begun: float | None = None
        self.steps: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Register; to be attached last, so that other handlers' work counts."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.stop)

    def start(self) -> None:
        """A batch is asked for; again where the data loader had come to its end."""
        if self.begun is None:
            self.begun = time.perf_counter()

    def stop(self) -> None:
        """The step is done, on the device as well."""
        assert self.begun is not None
        self.synchronize()
        self.steps.append(time.perf_counter() - self.begun)
        self.begun = None


def run_block(trainer: SupervisedTrainer, clock: Clock) -> list[float]:
    """One more epoch of the trainer: seconds of each of its steps."""
    clock.steps = []
    trainer.state.max_epochs = trainer.state.epoch + 1
    trainer.run()
    return clock.steps


def prepare(arm: Arm, args: argparse.Namespace) -> tuple[Callable[[], list[float]], int]:
    """An arm's block, and the number of its network's parameters."""
    whose, tuned = arm
    if tuned:
        tune_allocator()
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        trainer = TRAINERS[whose](args, Path(folder))
    clock = Clock(args.device)
    clock.attach(trainer)
    count = sum(p.numel() for p in trainer.network.parameters())
    return partial(run_block, trainer, clock), count


def block_means(worker: Worker) -> list[float]:
    """Mean seconds of a step, block by block."""
    return [mean(block) for block in worker.blocks]


def report(worker: Worker, device: str) -> dict[str, Any]:
    """What the JSON holds of an arm; ends its process."""
    memory = worker.stop()
    peak, before = memory["peak"], memory["prepared"]
    if "cuda" not in device:
        peak = None if peak is None or before is None else peak - before
    return {
        "seconds_per_step": median(block_means(worker)),
        "seconds_of_steps": worker.blocks,
        "peak_memory_mib": peak,
    }


# -- results ---------------------------------------------------------------------------------------


def check_parameters(counts: dict[str, int], tolerance: float) -> None:
    """Raise `InputError` where the two networks are not of one size."""
    ratio = counts["monai"] / counts["ours"]
    if abs(ratio - 1) > tolerance:
        raise InputError(
            f"--monai_channels: {counts['monai']:,} parameters, {ratio:.3f} times our "
            f"{counts['ours']:,}; choose channels that bring it within {tolerance:g}"
        )


def label(arm: Arm) -> str:
    """An arm's name in tables."""
    return f"{arm[0]}, {'tuned' if arm[1] else 'glibc defaults'}"


def print_tables(result: dict[str, Any]) -> None:
    """Seconds, memory and ratios."""
    place, args = result["machine"], result["arguments"]
    size = f"{args['image_size']} px, batch {args['batch_size']}"
    where = place["gpu"] or f"{place['cpu']}, {place['cores']} cores"
    print(f"{where}; {size}; ours in {place['precision_of_ours']}")
    counts = result["parameters"]
    print(f"parameters: ours {counts['ours']:,}, MONAI {counts['monai']:,}\n")
    print(f"{'arm':26}{'s/step':>9}{'peak MiB':>10}")
    for name, row in result["arms"].items():
        peak = row["peak_memory_mib"]
        print(f"{name:26}{row['seconds_per_step']:9.4f}{'' if peak is None else f'{peak:10.0f}'}")
    print(f"\n{'MONAI / ours':26}{'median':>9}{'min':>10}{'max':>8}")
    for name, row in result["ratios"].items():
        print(f"{name:26}{row['median']:9.2f}{row['min']:10.2f}{row['max']:8.2f}")


if __name__ == "__main__":
    print_input_errors_as_one_line()
    main()
