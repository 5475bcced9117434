"""The solvers against closed forms, MONAI's scheduler and torchdiffeq.

    python benchmarks/solver.py [--model_dir MODELS] [--device cuda] [--output FILE.json]

Closed form: the flow from N(0, 1) to N(m, s^2) along the linear path has the velocity
v = m + (t s^2 - (1 - t)) / q (x - t m) with q = (1 - t)^2 + t^2 s^2, and moves x_0 to
t m + sqrt(q) x_0. The error at t = 1 is fitted by C steps^-order. Midpoint is of order 3 here and
of order 2 elsewhere: its leading error, x''' / 24 + dv/dx x'' / 8, vanishes on this flow.

Length: how far a point moves under the velocity 1 from t = 0 to t = 1, which should be 1 for every
number of steps; ours, and MONAI's RFlowScheduler driven by its own timesteps.

With --model_dir also the two trained flows: Heun and midpoint against dopri5 of torchdiffeq, in
float64 (time embeddings are float32 in MONAI) at guidance 1, for the first pairs that `infer`
would draw: descriptions for the mask flow, masks for the image flow. The fastest sinusoid of the
time embedding turns by `time_scale` rad from t = 0 to 1, and trained velocities keep a little of
it: at 1000 that ripple, and not the order of the solver, decides the difference.
On one CPU thread a 64 px image flow takes most of an hour; --dtype float32 is 7 times faster.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import command_line, save
from monai.networks.schedulers import RFlowScheduler
from torch import Tensor
from torchdiffeq import odeint

from alignflow.device import Precision, default_device, tune_allocator
from alignflow.errors import InputError, print_input_errors_as_one_line
from alignflow.flow.guidance import Condition, guided_velocity
from alignflow.flow.sampler import FlowSampler
from alignflow.flow.solver import STEPS, Velocity, integrate
from alignflow.inference.masks import MaskGenerator
from alignflow.inference.noise import pair_noise
from alignflow.inference.writing import versions
from alignflow.networks.velocity import VelocityUNet
from alignflow.stage1 import WEIGHTS, Stage1, weight_hashes

MEAN, SPREAD = 1.5, 0.5  # m, s
CLOSED_FORM_STEPS = [5, 10, 20, 50, 100, 200, 500, 1000]
FITTED = 3  # of these, the last ones, over which the order is fitted
LENGTH_STEPS = range(1, 51)
TOLERANCES = {"float64": 1e-7, "float32": 1e-5}  # of dopri5; float32 cannot resolve less
MASK_STEPS = 10  # of the masks that the image flow is given, as in inference.json


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the tables, write the JSON, return what it holds."""
    args = arguments(argv)
    result: dict[str, Any] = {
        "arguments": vars(args),
        "versions": versions() | {"torchdiffeq": version("torchdiffeq")},
        "closed_form": closed_form(),
        "length": lengths(),
    }
    print_closed_form(result["closed_form"])
    print_lengths(result["length"])
    if args.model_dir:
        result["weights_sha256"] = weight_hashes(args.model_dir)
        result["trained"] = trained(args)
        print_trained(result["trained"])
    save(result, args.output)
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    add = parser.add_argument
    add("--model_dir", help="models of a trained bundle; without it, no trained flow is measured")
    add("--device", default=default_device())
    add("--batch_size", type=int, default=4, help="pairs that are integrated (default 4)")
    add("--steps", type=int, nargs="+", default=[25, 50, 100, 200], help="(default 25 50 100 200)")
    add("--methods", nargs="+", choices=STEPS, default=["heun", "midpoint"])
    add("--dtype", choices=TOLERANCES, default="float64", help="of the networks (default float64)")
    add("--tolerance", type=float, help="rtol and atol of dopri5 (default 1e-7, in float32 1e-5)")
    add("--seed", type=int, default=0, help="of masks and noise (default 0)")
    add("--output", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


# -- closed form -----------------------------------------------------------------------------------


def gaussian_velocity(x: Tensor, t: Tensor) -> Tensor:
    """Marginal velocity of the flow between Gaussians; x (B, 1, 1, 1), t (B,)."""
    t = t.view(-1, 1, 1, 1)
    q = (1 - t) ** 2 + (t * SPREAD) ** 2
    return MEAN + (t * SPREAD**2 - (1 - t)) / q * (x - t * MEAN)


def closed_form() -> dict[str, dict[str, Any]]:
    """For each method: RMS error at t = 1 over x_0 ~ N(0, 1) by steps, and the fitted order."""
    noise = torch.randn(
        1000, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    exact = MEAN + SPREAD * noise
    found = {}
    for method in STEPS:
        ends = [
            integrate(gaussian_velocity, noise, steps=n, method=method) for n in CLOSED_FORM_STEPS
        ]
        errors = [rms(end - exact) for end in ends]
        found[method] = {
            "rms_error": dict(zip(CLOSED_FORM_STEPS, errors, strict=True)),
            "order": fitted_order(CLOSED_FORM_STEPS[-FITTED:], errors[-FITTED:]),
        }
    return found


def fitted_order(steps: Sequence[int], errors: Sequence[float]) -> float:
    """Exponent p of errors ~ steps^-p."""
    return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])


def rms(x: Tensor) -> float:
    """Root mean square."""
    return x.square().mean().sqrt().item()


# -- length of the integration ---------------------------------------------------------------------


def lengths() -> dict[str, dict[int, float]]:
    """Distance that a point moves under the velocity 1, by solver and number of steps."""
    ways: dict[str, Callable[[int], float]] = {
        f"ours, {method}": partial(our_length, method=method) for method in STEPS
    }
    for discrete in (True, False):
        kind = "discrete" if discrete else "continuous"
        for given in (True, False):
            name = f"MONAI, {kind}, next timestep {'given' if given else 'left out'}"
            ways[name] = partial(monai_length, discrete=discrete, next_given=given)
    return {name: {n: way(n) for n in LENGTH_STEPS} for name, way in ways.items()}


def our_length(steps: int, method: str) -> float:
    """Our solvers in float64."""
    start = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    end = integrate(lambda x, t: torch.ones_like(x), start, steps=steps, method=method)
    return end.item()


def monai_length(steps: int, discrete: bool, next_given: bool) -> float:
    """MONAI's scheduler, looped as in its docstring or without its optional `next_timestep`."""
    scheduler = RFlowScheduler(use_discrete_timesteps=discrete)
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps
    nexts = torch.cat([times[1:], torch.zeros(1, dtype=times.dtype)])
    x = torch.zeros(1, dtype=torch.float64)
    for t, following in zip(times, nexts, strict=True):
        x, _ = scheduler.step(torch.ones_like(x), t, x, following if next_given else None)
    return x.item()


# -- trained flows ---------------------------------------------------------------------------------


def trained(args: argparse.Namespace) -> dict[str, Any]:
    """Both flows of a trained bundle against dopri5, for its first pairs."""
    tune_allocator()
    stage1, precision = Stage1.load(args.model_dir), Precision(args.device, "fp32")
    networks = {
        "mask": load_network(args.model_dir, "mask", stage1.mask_network),
        "image": load_network(args.model_dir, "image", stage1.image_network),
    }
    indices = list(range(args.batch_size))
    masks = MaskGenerator(
        stage1=stage1,
        sampler=FlowSampler(networks["mask"], steps=MASK_STEPS),
        precision=precision,
        device=args.device,
        seed=args.seed,
    )
    conditions = {
        "mask": {"vector": torch.stack([masks.describe(k, attempt=0) for k in indices])},
        "image": {"condition": stage1.condition(masks(indices))},
    }
    found = {}
    for flow, network in networks.items():
        shape = (network.data_channels, *stage1.image_size)
        noise = pair_noise(args.seed, indices, flow, shape)
        found[flow] = compare(network, conditions[flow], noise, args)
    return found


def load_network(model_dir: str, flow: str, options: dict[str, Any]) -> VelocityUNet:
    """The averaged network whose sampler's weights lie in the folder."""
    path = Path(model_dir) / WEIGHTS[flow]
    if not path.is_file():
        raise InputError(f"'{path}': no such file; run training to its end")
    network = VelocityUNet(**options).eval()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    FlowSampler(network, steps=1).load_state_dict(weights)
    return network


@torch.no_grad()
def compare(
    network: VelocityUNet, condition: Condition, noise: Tensor, args: argparse.Namespace
) -> dict[str, Any]:
    """Largest and RMS difference from dopri5 by method and steps; data are in [-1, 1]."""
    place = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    condition = {name: c.to(**place) for name, c in condition.items()}
    velocity = guided_velocity(network.to(**place), condition, weight=1)
    noise = noise.to(**place)
    exact, evaluations = dopri5(velocity, noise, args.tolerance or TOLERANCES[args.dtype])
    methods = {}
    for method in args.methods:
        ends = {n: integrate(velocity, noise, steps=n, method=method) for n in args.steps}
        errors = {n: end - exact for n, end in ends.items()}
        methods[method] = {
            n: {"max": error.abs().max().item(), "rms": rms(error)} for n, error in errors.items()
        }
    return {
        "dopri5_evaluations": evaluations,
        "largest_value": exact.abs().max().item(),
        "differences": methods,
    }


def dopri5(velocity: Velocity, noise: Tensor, tolerance: float) -> tuple[Tensor, int]:
    """Data by torchdiffeq's adaptive solver, and how often it evaluated the velocity."""
    evaluations = 0

    def derivative(t: Tensor, x: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return velocity(x, t.expand(len(x)))

    ends = torch.tensor([0.0, 1.0]).to(noise)
    states = odeint(derivative, noise, ends, rtol=tolerance, atol=tolerance, method="dopri5")
    return states[-1], evaluations


# -- tables ----------------------------------------------------------------------------------------


def print_closed_form(found: dict[str, dict[str, Any]]) -> None:
    """A row for each method."""
    print(f"RMS error at t = 1, N(0, 1) to N({MEAN}, {SPREAD}^2)")
    print(f"{'steps':10}" + "".join(f"{n:>10}" for n in CLOSED_FORM_STEPS) + f"{'order':>8}")
    for method, row in found.items():
        errors = "".join(f"{error:10.1e}" for error in row["rms_error"].values())
        print(f"{method:10}{errors}{row['order']:8.2f}")


def print_lengths(found: dict[str, dict[int, float]]) -> None:
    """The worst number of steps of each solver."""
    print(f"\nlength of the integration, {LENGTH_STEPS[0]} to {LENGTH_STEPS[-1]} steps")
    print(f"{'solver':44}{'shortest':>12}{'longest':>12}{'worst error':>13}{'at steps':>10}")
    for name, row in found.items():
        worst = max(row, key=lambda n: abs(row[n] - 1))
        ends = f"{min(row.values()):12.6f}{max(row.values()):12.6f}"
        print(f"{name:44}{ends}{abs(row[worst] - 1):13.1e}{worst:>10}")


def print_trained(found: dict[str, Any]) -> None:
    """A row for each flow, method and number of steps."""
    print(f"\n{'trained flow against dopri5':30}{'steps':>7}{'largest':>10}{'RMS':>10}")
    for flow, row in found.items():
        for method, differences in row["differences"].items():
            for steps, one in differences.items():
                name = f"{flow}, {method}"
                print(f"{name:30}{steps:>7}{one['max']:10.1e}{one['rms']:10.1e}")
        print(f"{flow}: dopri5 took {row['dopri5_evaluations']} evaluations")


if __name__ == "__main__":
    print_input_errors_as_one_line()
    main()
