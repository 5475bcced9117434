"""Our samplers against MONAI's inferer on the same network: images per second, side by side.

    python benchmarks/peers.py --model_dir DISTILLED [--steps 30] --output FILE.json

MONAI's `DiffusionInferer.sample` drives the teacher's network through an adapter that has MONAI's
time (1000 noise, 0 data), with `RFlowScheduler` and with `DDIMScheduler`, each at --steps
evaluations; ours takes as many Euler steps. MONAI's arms run twice, with glibc's allocator as it
comes and with the one that our workflows tune. DDIM is here for its speed alone: it takes the
network for one of another process (variance preserving, v-prediction), and its images are no
images. RFlowScheduler's are ours: "agreement" is the largest difference of its images from our
Euler steps' from the same noise, at a number of steps that its whole time steps divide evenly.

Arms, processes and rounds are those of sampler/speed.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from common import command_line, save
from common.distilled import Arm, Draw, distill_config
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler, RFlowScheduler
from sampler.speed import (
    add_options,
    against,
    block_of,
    compare,
    load,
    memory,
    other_backends,
    possible,
    print_place,
    print_verdict,
    random_input,
)
from torch import Tensor, nn

from alignflow.device import require_device, tune_allocator
from alignflow.errors import print_input_errors_as_one_line
from alignflow.export.students import students_of
from alignflow.flow.sampler import FlowSampler, ImageSampler
from alignflow.stage1 import Stage1

AGREEMENT_STEPS = 10  # 1000 is a multiple of it
SCHEDULERS: dict[str, Callable[[], Any]] = {
    "RFlow": RFlowScheduler,
    "DDIM": lambda: DDIMScheduler(prediction_type="v_prediction"),
}


@dataclass(frozen=True)
class MonaiArm:
    """MONAI's inferer with one of `SCHEDULERS`, with a tuned allocator or glibc's defaults."""

    scheduler: str
    steps: int
    tuned: bool = False

    def __str__(self) -> str:
        allocator = "tuned" if self.tuned else "as it comes"
        return f"MONAI {self.scheduler} {self.steps}, {allocator}"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the tables, write the JSON, return what it holds."""
    args = arguments(argv)
    require_device(args.device)
    Stage1.load(args.model_dir)
    ours, left_out = possible(our_arms(args), args)
    peers = [MonaiArm(name, args.steps, tuned) for name in SCHEDULERS for tuned in (False, True)]
    result = compare([*peers, *ours], prepare, args) | {"left_out": left_out}
    result["agreement"] = agreement(args)
    result["ratios"] = {str(peer): against(peer, result["arms"]) for peer in peers}
    print_tables(result)
    save(result, args.output)
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    add_options(parser)
    parser.add_argument("--steps", type=int, default=30, help="of MONAI's inferer (default 30)")
    return parser.parse_args(argv)


def our_arms(args: argparse.Namespace) -> list[Arm]:
    """As many Euler steps as MONAI takes, the default teacher, the students in torch and beyond."""
    students = students_of(args.model_dir, "image")
    in_torch = [Arm(n, student=True) for n in students]
    beyond = other_backends(students[-1], args.device) if students else []
    return [Arm(args.steps), Arm(8), *in_torch, *beyond]


def prepare(arm: Arm | MonaiArm, args: argparse.Namespace) -> tuple[Callable[[], float], None]:
    """The block of an arm, in its own process."""
    if isinstance(arm, Arm) or arm.tuned:
        tune_allocator()
    draw = load(arm, args) if isinstance(arm, Arm) else load_monai(arm, args)
    return block_of(draw, args), None


# -- MONAI's inferer -------------------------------------------------------------------------------


class MonaiTime(nn.Module):
    """The velocity network as MONAI's inferer calls one.

    MONAI counts time from `train_timesteps` (noise) down to 0 (data), ours goes from 0 to 1. The
    velocity, data less noise, is the same in both.

    Args:
        network: `VelocityUNet` of an image flow.
        train_timesteps: of the scheduler.
    """

    def __init__(self, network: nn.Module, train_timesteps: int) -> None:
        super().__init__()
        self.network = network
        self.train_timesteps = train_timesteps

    def forward(self, x: Tensor, timesteps: Tensor, context: None = None) -> Tensor:
        """Velocity (B, C, X, Y) at cat(state, condition maps) and MONAI's time, one for all."""
        channels = self.network.data_channels
        t = (1 - timesteps / self.train_timesteps).expand(len(x))
        velocity: Tensor = self.network(x[:, :channels], t, condition=x[:, channels:])
        return velocity


def load_monai(arm: MonaiArm, args: argparse.Namespace) -> Draw:
    """MONAI's inferer on the teacher's network."""
    if args.threads:
        torch.set_num_threads(args.threads)
    return monai_sampler(arm, load_teacher(args))


def load_teacher(args: argparse.Namespace) -> FlowSampler:
    """The teacher as `distill` used it, in eval mode."""
    config = distill_config(args.model_dir, device=args.device)
    teacher: FlowSampler = config.get_parsed_content("teacher")
    return teacher


def monai_sampler(arm: MonaiArm, teacher: FlowSampler) -> Draw:
    """Images from noise and condition maps together, by MONAI's inferer."""
    scheduler = SCHEDULERS[arm.scheduler]()
    scheduler.set_timesteps(arm.steps)
    inferer = DiffusionInferer(scheduler)
    model = MonaiTime(teacher.network, scheduler.num_train_timesteps)
    channels = teacher.network.data_channels

    def draw(x: Tensor) -> Tensor:
        sample: Tensor = inferer.sample(
            input_noise=x[:, :channels],
            diffusion_model=model,
            conditioning=x[:, channels:],
            mode="concat",
            verbose=False,
            cfg=None if teacher.guidance == 1 else teacher.guidance,
            cfg_fill_value=0.0,
        )
        return sample

    return draw


@torch.no_grad()
def agreement(args: argparse.Namespace) -> dict[str, float]:
    """Largest difference of RFlowScheduler's images from our Euler steps', and their spread."""
    teacher, x = load_teacher(args), random_input(args)
    options = {"steps": AGREEMENT_STEPS, "method": "euler", "guidance": teacher.guidance}
    ours = ImageSampler(teacher.network, **options)(x)
    theirs = monai_sampler(MonaiArm("RFlow", AGREEMENT_STEPS), teacher)(x)
    return {
        "steps": AGREEMENT_STEPS,
        "largest": float((ours - theirs).abs().max()),
        "std": float(ours.std()),
    }


# -- tables ----------------------------------------------------------------------------------------


def print_tables(result: dict[str, Any]) -> None:
    """A row for each arm, with how many times as fast as each of MONAI's it is (medians)."""
    print_place(result)
    for number, peer in enumerate(result["ratios"], start=1):
        print(f"({number}) times as fast as {peer}")
    columns = "".join(f"{f'({n})':>8}" for n in range(1, len(result["ratios"]) + 1))
    print(f"\n{'arm':32}{'images/s':>10}{columns}{'peak MiB':>10}{'above imports':>15}")
    for name, row in result["arms"].items():
        times = "".join(f"{found[name]['median']:8.2f}" for found in result["ratios"].values())
        print(f"{name:32}{row['images_per_second']:10.2f}{times}{memory(row)}")
    print()
    for peer, found in result["ratios"].items():
        if "RFlow" in peer:
            print_verdict(found, result["arguments"]["device"], peer)
    same = result["agreement"]
    print(
        f"{same['steps']} steps of RFlowScheduler differ from our Euler's by at most "
        f"{same['largest']:.1e}; standard deviation of the images {same['std']:.2f}"
    )


if __name__ == "__main__":
    print_input_errors_as_one_line()
    main()
