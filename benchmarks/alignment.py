"""Alignment's reward gradient: how near the full one it comes, and what memory and time it takes.

    python benchmarks/alignment.py [--only gradient memory seconds] [--output FILE.json]

gradient: a small VelocityUNet at 16 px, its reward SetReward of colour and layout to references.
Cosine of each scheme of `alignflow.alignment.gradient` with the gradient of plain autograd through
the Euler solver, for the same noise: mean over draws of the active steps, and cosine of the mean
draw. "all" takes the weights as one vector, in which a few tensors dominate (the output layer, for
a reward of colour); "tensors" is the mean over the weight tensors, which AdamW's step is nearer to,
since it scales each weight by itself; tensors whose gradient is rounding alone, as biases that a
norm cancels, are left out. "length" is that of the mean draw over that of the full gradient. Twice:
with random weights, whose velocities are small and hardly depend on the state, and after a short
fit to synthetic pictures.

memory: peak of two updates of `AlignUpdate`, as bundle/configs/align.json sets it up, with random
references, masks and weights, above what was resident before the first update; each case in a
process of its own. The allocator is the bundle's (`tune_allocator`): freed blocks stay in the
process and are used again. So free memory is returned first (`malloc_trim`), and the peak holds
live tensors and the gaps between them. The bundle computes in bf16 where the processor does. A case
that needs more than --limit_gib prints "-".

seconds: of an update of each scheme, in turns in one process, with `tune_allocator`, and the
processor time of all its threads, which says more where other work runs (set OMP_NUM_THREADS=1); a
ratio is that of two updates of one round.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean, median
from types import SimpleNamespace
from typing import Any

import torch
from common import command_line, save
from common.machine import machine, resident_mib
from monai.bundle import ConfigParser
from monai.data import Dataset
from monai.engines import SupervisedTrainer
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from alignflow.alignment.gradient import GradientScheme, connect, roll_out
from alignflow.alignment.reward import SetReward
from alignflow.alignment.site import Split
from alignflow.alignment.statistics import colour, layout
from alignflow.device import Precision, tune_allocator
from alignflow.errors import print_input_errors_as_one_line
from alignflow.flow.guidance import guided_velocity
from alignflow.flow.sampler import FlowSampler
from alignflow.flow.solver import Velocity, integrate
from alignflow.inference.writing import versions
from alignflow.masks.distance import condition_maps, to_distance
from alignflow.networks.velocity import VelocityUNet
from alignflow.segmentation.network import build_network

CONFIGS = Path(__file__).parents[1] / "bundle" / "configs"
STEPS = 10  # of the solver, where they do not vary
SCHEMES: dict[str, dict[str, Any]] = {
    "surrogate K=1": {"method": "surrogate", "active": 1},
    "surrogate K=2": {"method": "surrogate", "active": 2},
    "surrogate K=4": {"method": "surrogate", "active": 4},
    f"surrogate K={STEPS}": {"method": "surrogate", "active": STEPS},
    "full": {"method": "full"},
}
REFERENCE = "surrogate K=2"
MEMORY_METHODS = ("surrogate", "full")
MEMORY_STEPS = (5, 10, 50)
TIMED = (REFERENCE, "surrogate K=1", "surrogate K=4", "full")
NEGLIGIBLE = 1e-6  # of the gradient's length: rounding of float32
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
CLASSES = 2


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the tables, write the JSON, return what it holds."""
    args = arguments(argv)
    result: dict[str, Any] = {
        "arguments": vars(args),
        "machine": machine("cpu")
        | {"threads": torch.get_num_threads(), "precision": Precision("cpu").precision},
        "versions": versions(),
    }
    for name in args.only:
        measure, show = PARTS[name]
        result[name] = measure(args)
        show(result[name])
    save(result, args.output)
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    add = parser.add_argument
    add("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts (default all)")
    add("--draws", type=int, default=16, help="of the active steps, for the cosine (default 16)")
    add("--fit_steps", type=int, default=200, help="of the short fit (default 200)")
    add("--image_size", type=int, default=64, help="pixels of each side, for memory and seconds")
    add("--batch_size", type=int, default=8)
    add("--channels", type=int, nargs="+", help="of the image flow; default: train.json's")
    add("--limit_gib", type=float, default=8, help="most memory of a case (default 8)")
    add("--rounds", type=int, default=2, help="timed updates of each scheme (default 2)")
    add("--seed", type=int, default=0, help="of the network, its fit and the pictures (default 0)")
    add("--output", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def scheme(steps: int, method: str, active: int = 1) -> GradientScheme:
    """A scheme with the other settings of align.json."""
    bias = json.loads((CONFIGS / "align.json").read_text())["late_bias"]
    return GradientScheme(steps=steps, method=method, active=active, late_bias=bias)


def fill_zeros(network: nn.Module) -> None:
    """Random weights where a layer starts at 0, else no gradient passes the last one."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.any():
            module.reset_parameters()


def disks(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Masks of a random disk, uint8 (B, 1, X, Y), and their condition maps (B, 3, X, Y)."""
    axis = torch.linspace(-1, 1, size)
    x, y = torch.rand(2, count, 1, 1) - 0.5
    radius = 0.2 + 0.3 * torch.rand(count, 1, 1)
    inside = (axis[:, None] - x).square() + (axis[None] - y).square() < radius.square()
    label = inside[:, None].to(torch.uint8)
    distance = torch.stack([to_distance(one, CLASSES) for one in label])
    return label, condition_maps(label, distance, CLASSES).float()


def pictures(label: Tensor) -> Tensor:
    """Reddish pictures (B, 3, X, Y) in [-1, 1] with a brighter disk at the mask."""
    coarse = 0.3 * torch.randn(len(label), 3, 3, 3)
    tint = torch.tensor([0.2, -0.3, -0.4]).view(3, 1, 1)
    cloud = interpolate(coarse, label.shape[2:], mode="bilinear")
    return (cloud + tint + 0.4 * label).clamp(-1, 1)


# -- gradient --------------------------------------------------------------------------------------


def gradient(args: argparse.Namespace) -> dict[str, Any]:
    """Each scheme against autograd, with random weights and after the fit."""
    tune_allocator()
    torch.manual_seed(args.seed)
    # 64, not 32: a group of the norms then has two channels, and one alone would not see the time.
    network = VelocityUNet(
        data_channels=3, condition_channels=3, channels=[64, 64], attention_levels=[False, True]
    )
    fill_zeros(network)
    found = {"random weights": compare(network, args.draws)}
    loss = fit(network, args.fit_steps)
    return found | {"after a short fit": compare(network, args.draws) | {"fit_loss": loss}}


def fit(network: VelocityUNet, steps: int, size: int = 16) -> float:
    """A short fit of the flow to `pictures`: the last loss."""
    optimizer, loss = torch.optim.Adam(network.parameters(), lr=1e-3), torch.tensor(torch.nan)
    for _ in range(steps):
        label, maps = disks(16, size)
        data, t = pictures(label), torch.rand(len(label))
        noise = torch.randn_like(data)
        x = torch.lerp(noise, data, t.view(-1, 1, 1, 1))
        loss = (network(x, t, condition=maps) - (data - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def compare(network: VelocityUNet, draws: int, batch: int = 8, size: int = 16) -> dict[str, Any]:
    """Cosines of each scheme with autograd, and the largest difference of "full" from it."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch, 3, size, size, generator=generator)
    velocity = guided_velocity(network.eval(), {"condition": disks(batch, size)[1]}, 1.0)
    references = 0.6 * pictures(disks(10, size)[0]) + 0.3
    with torch.no_grad():
        unaligned = integrate(velocity, noise, steps=STEPS, method="euler")
    # Without a queue the reward is a function of the images alone.
    reward = SetReward({"colour": colour, "layout": layout}, queue_size=0)
    reward.fit(unaligned, references)
    weights = list(network.parameters())
    loss, _ = reward(integrate(velocity, noise, steps=STEPS, method="euler"))
    exact = torch.autograd.grad(loss, weights)
    rows = {}
    for name, settings in SCHEMES.items():
        one = scheme(STEPS, **settings)
        count = draws if one.method == "surrogate" and one.active < STEPS else 1
        drawn = [
            scheme_gradient(one, velocity, noise, reward, weights, seed) for seed in range(count)
        ]
        rows[name] = agreement(drawn, exact)
    return {"schemes": rows, "full_largest_relative_difference": relative(drawn[0], exact)}


def scheme_gradient(
    one: GradientScheme,
    velocity: Velocity,
    noise: Tensor,
    reward: SetReward,
    weights: list[nn.Parameter],
    seed: int,
) -> Sequence[Tensor]:
    """The gradient of one draw, by weight tensor."""
    plan = one.draw(torch.Generator().manual_seed(seed))
    sample, _ = connect(velocity, roll_out(velocity, noise, plan), plan)
    return torch.autograd.grad(reward(sample)[0], weights)


def agreement(drawn: Sequence[Sequence[Tensor]], exact: Sequence[Tensor]) -> dict[str, float]:
    """Cosines with the exact gradient of the draws, and of their mean."""
    average = [torch.stack(parts).mean(dim=0) for parts in zip(*drawn, strict=True)]
    return {
        "draws": len(drawn),
        "draw_all": mean(cosine(flat(one), flat(exact)) for one in drawn),
        "draw_tensors": mean(by_tensor(one, exact) for one in drawn),
        "mean_all": cosine(flat(average), flat(exact)),
        "mean_tensors": by_tensor(average, exact),
        "length": float(flat(average).norm() / flat(exact).norm()),
    }


def by_tensor(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Mean cosine over the tensors, but those where the exact one is rounding."""
    least = NEGLIGIBLE * flat(exact).norm()
    pairs = zip(found, exact, strict=True)
    return mean(cosine(a.flatten(), b.flatten()) for a, b in pairs if b.norm() > least)


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two vectors."""
    return float(cosine_similarity(a.double(), b.double(), dim=0, eps=1e-30))


def relative(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Largest difference over the largest value."""
    a, b = flat(found), flat(exact)
    return float((a - b).abs().max() / b.abs().max())


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers as one vector."""
    return torch.cat([t.flatten() for t in tensors])


# -- one update of the bundle's alignment ----------------------------------------------------------


def align_trainer(args: argparse.Namespace, one: GradientScheme) -> SupervisedTrainer:
    """The trainer of align.json without its handlers; an epoch is one update.

    What would be read from files is random: networks, references, masks, and the samples of the
    unaligned generator that the reward is fitted to.
    """
    torch.manual_seed(args.seed)
    config = ConfigParser()
    config.read_config(CONFIGS / "align.json")
    label, maps = disks(4 * args.batch_size, args.image_size)
    items = [{"label": a, "condition": b} for a, b in zip(label, maps, strict=True)]
    image_flow, segmenter = stage1_networks(args.channels)
    config.update(
        {
            "device": "cpu",
            "batch_size": args.batch_size,
            "micro_batch": args.batch_size,
            "image_guidance": 1.0,
            "steps_per_epoch": 1,
            "learning_rate": 2e-4,
            "parameters": "all",
            "stage1": SimpleNamespace(num_classes=CLASSES),
            "segmenter": segmenter,
            "unaligned_sampler": FlowSampler(image_flow, steps=STEPS),
            "unaligned": pictures(disks(64, args.image_size)[0]),
            "split": Split(
                0.6 * pictures(disks(7, args.image_size)[0]) + 0.3, None, torch.arange(7)
            ),
            "train::dataset": Dataset(items),
            "train::update::scheme": one,
            "train::update::matching": None,
            "reward_weight": 1.0,
            "anchor": 3.0,
            "detail_anchor": 300.0,
            "faithfulness": 2.0,
            "train::handlers": [],
            **{f"train::trainer::{key}": None for key in ("checkpoint", "weights", "tracking")},
            "train::trainer::last_handlers": [],
        }
    )
    return config.get_parsed_content("train::trainer")


def stage1_networks(channels: Sequence[int] | None) -> tuple[nn.Module, nn.Module]:
    """Image flow and segmenter of train.json for RGB and two classes, with random weights."""
    path = CONFIGS / "train.json"
    config = json.loads(path.read_text())
    sizes = {"data_channels": 3, "condition_channels": 2 * CLASSES - 1}
    if channels:
        sizes["channels"] = list(channels)
    image_flow = build_network(config["network_def"] | sizes, str(path))
    sizes = {"in_channels": 3, "out_channels": CLASSES}
    segmenter = build_network(config["segmenter_def"] | sizes, str(path))
    fill_zeros(image_flow)
    return image_flow, segmenter.eval()


def run_update(trainer: SupervisedTrainer) -> None:
    """One more update."""
    trainer.state.max_epochs = trainer.state.epoch + 1
    trainer.run()


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments) in a fresh process, with the allocator of a fresh shell."""
    hidden = [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]
    kept = {name: os.environ.pop(name) for name in hidden}
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    finally:
        os.environ.update(kept)


# -- memory ----------------------------------------------------------------------------------------


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peak MiB by method and solver steps, and how it grows from the fewest to the most steps."""
    found: dict[str, Any] = {}
    for method in MEMORY_METHODS:
        active = SCHEMES[REFERENCE]["active"] if method == "surrogate" else 1
        peaks = {n: alone(peak_mib, args, scheme(n, method, active)) for n in MEMORY_STEPS}
        few, many = peaks[MEMORY_STEPS[0]], peaks[MEMORY_STEPS[-1]]
        found[method] = {"peak_mib": peaks, "ratio": many / few if few and many else None}
    return found


def peak_mib(args: argparse.Namespace, one: GradientScheme, updates: int = 2) -> float | None:
    """Peak resident MiB of some updates above that before them; None where it did not fit.

    To be called in a process of its own: it changes the allocator and limits the memory.
    """
    tune_allocator()
    trainer = align_trainer(args, one)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident_mib("VmRSS")
    limit_memory(args.limit_gib)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    try:
        for _ in range(updates):
            run_update(trainer)
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error):
            raise
        return None
    return resident_mib("VmHWM") - before


def limit_memory(gib: float) -> None:
    """Let this process map so much more and then fail."""
    now = int(resident_mib("VmSize") * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (now + int(gib * 2**30), resource.RLIM_INFINITY))


# -- seconds ---------------------------------------------------------------------------------------


def seconds(args: argparse.Namespace) -> dict[str, Any]:
    """Wall and processor seconds of an update by scheme, and ratios to `REFERENCE` of the round."""
    times = alone(time_schemes, args)
    found: dict[str, Any] = {}
    for name, rounds in times.items():
        found[name] = {}
        for i, clock in enumerate(CLOCKS):
            row = [one[i] for one in rounds]
            ratios = [a / one[i] for a, one in zip(row, times[REFERENCE], strict=True)]
            found[name][clock] = {"median": median(row), "ratio": median(ratios), "rounds": row}
    return found


def time_schemes(args: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Seconds of each update by each of `CLOCKS`; schemes take turns, the first round warms up."""
    tune_allocator()
    schemes = {name: scheme(STEPS, **SCHEMES[name]) for name in TIMED}
    trainer = align_trainer(args, schemes[REFERENCE])
    times: dict[str, list[list[float]]] = {name: [] for name in schemes}
    for _ in range(1 + args.rounds):
        for name, one in schemes.items():
            trainer._process_function.scheme = one
            begun = [clock() for clock in CLOCKS.values()]
            run_update(trainer)
            times[name].append([c() - b for c, b in zip(CLOCKS.values(), begun, strict=True)])
    return {name: row[1:] for name, row in times.items()}


# -- results ---------------------------------------------------------------------------------------


def print_gradient(found: dict[str, Any]) -> None:
    """A row for each scheme."""
    for name, state in found.items():
        print(f"\n{name}: cosine with full back-propagation through {STEPS} Euler steps")
        heads = ("each, all", "tensors", "mean, all", "tensors", "length")
        print(f"{'scheme':16}{'draws':>7}" + "".join(f"{head:>11}" for head in heads))
        for label, row in state["schemes"].items():
            values = [value for key, value in row.items() if key != "draws"]
            print(f"{label:16}{row['draws']:7}" + "".join(f"{value:11.3f}" for value in values))
        difference = state["full_largest_relative_difference"]
        print(f"'full' differs from autograd by {difference:.1e} of the largest value at most")


def print_memory(found: dict[str, Any]) -> None:
    """A row for each method."""
    few, many = MEMORY_STEPS[0], MEMORY_STEPS[-1]
    heads = "".join(f"{n:>8}" for n in MEMORY_STEPS)
    print(f"\n{'peak MiB, steps':16}{heads}{f'{many} / {few}':>10}")
    for method, row in found.items():
        peaks = "".join(f"{'-' if p is None else round(p):>8}" for p in row["peak_mib"].values())
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(f"{method:16}{peaks}{ratio:>10}")


def print_seconds(found: dict[str, Any]) -> None:
    """A row for each scheme."""
    print(f"\nseconds of an update, and ratio to {REFERENCE}")
    print(f"{'scheme':16}" + "".join(f"{clock:>11}{'ratio':>7}" for clock in CLOCKS))
    for name, row in found.items():
        cells = "".join(f"{one['median']:11.2f}{one['ratio']:7.2f}" for one in row.values())
        print(f"{name:16}{cells}")


PARTS = {
    "gradient": (gradient, print_gradient),
    "memory": (memory, print_memory),
    "seconds": (seconds, print_seconds),
}

if __name__ == "__main__":
    print_input_errors_as_one_line()
    main()
