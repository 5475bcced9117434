"""Images per second and memory of teacher and students, on each back end, side by side.

    python benchmarks/sampler/speed.py --model_dir DISTILLED [--rounds 5] --output FILE.json

MODEL_DIR is what `distill` wrote, with the files of `export` for the other back ends. Each arm
lives in a process of its own; the processes take turns, block by block, and a ratio is that of two
blocks of one round. A block draws batches for at least --seconds, on noise and condition maps of
random numbers: what an evaluation costs does not depend on them. Masks and files are no part of
it; growth.py has the whole of `infer`.

"above imports" is the peak of resident memory above that of Python with torch and MONAI: weights,
activations and what the back end itself brings. On a GPU the peak is that of torch's allocations,
and TensorRT's own memory is not in it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import command_line, save
from common.distilled import Arm, Draw, distill_config, image_sampler, require_arm
from common.machine import machine
from common.workers import Worker, ratios, take_turns, workers

from alignflow.device import default_device, require_device, tune_allocator
from alignflow.errors import InputError, print_input_errors_as_one_line
from alignflow.export.students import students_of
from alignflow.inference.writing import versions
from alignflow.stage1 import Stage1, weight_hashes

REFERENCE = Arm(50)
LEAST_RATIO = 40.0  # 1-step student on the best CPU back end over the reference
PACKAGES = ("onnxruntime", "openvino", "tensorrt")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the table, write the JSON, return what it holds."""
    args = arguments(argv)
    require_device(args.device)
    Stage1.load(args.model_dir)
    arms, left_out = possible(wanted(args), args)
    result = compare(arms, prepare, args) | {"left_out": left_out, "reference": str(REFERENCE)}
    result["ratios"] = against(REFERENCE, result["arms"])
    print_table(result)
    save(result, args.output)
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    add_options(parser)
    return parser.parse_args(argv)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every comparison of speed has."""
    add = parser.add_argument
    add("--model_dir", required=True, help="a bundle that distill wrote, with its exports")
    add("--device", default=default_device())
    add("--batch_size", type=int, default=16, help="images drawn at once (default 16)")
    add("--rounds", type=int, default=5, help="timed blocks of each arm (default 5)")
    add("--seconds", type=float, default=1.0, help="least length of a block (default 1)")
    add("--threads", type=int, help="of torch and the back ends; default: torch's own")
    add("--output", type=Path, help="JSON file to write")


# -- arms ------------------------------------------------------------------------------------------


def wanted(args: argparse.Namespace) -> list[Arm]:
    """The reference, the default teacher, the students in torch, the shortest on each back end."""
    students = students_of(args.model_dir, "image")
    if not students:
        raise InputError(f"model_dir '{args.model_dir}': no students; run distill to its end")
    teachers = [REFERENCE, Arm(50, precision="bf16"), Arm(8)]
    in_torch = [Arm(n, student=True, precision=p) for n in students for p in ("fp32", "bf16")]
    return list(dict.fromkeys([*teachers, *in_torch, *other_backends(students[-1], args.device)]))


def other_backends(steps: int, device: str) -> list[Arm]:
    """A student on the back ends besides torch that there are for the device."""
    on_cpu = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
    on_gpu = (("tensorrt", "fp32"), ("tensorrt", "fp16"))
    chosen = on_gpu if "cuda" in device else on_cpu
    return [Arm(steps, student=True, backend=b, precision=p) for b, p in chosen]


def possible(arms: Sequence[Arm], args: argparse.Namespace) -> tuple[list[Arm], dict[str, str]]:
    """The arms that can run here, and why the others cannot."""
    left_out = {}
    for arm in arms:
        try:
            require_arm(arm, args.model_dir, args.device)
        except InputError as error:
            left_out[arm] = str(error)
            print(f"left out: {arm}: {error}")
    return [arm for arm in arms if arm not in left_out], {
        str(a): why for a, why in left_out.items()
    }


def prepare(arm: Arm, args: argparse.Namespace) -> tuple[Callable[[], float], None]:
    """The block of an arm, in its own process."""
    tune_allocator()
    return block_of(load(arm, args), args), None


def load(arm: Arm, args: argparse.Namespace) -> Draw:
    """The sampler of an arm."""
    if args.threads:
        torch.set_num_threads(args.threads)
    guidance = distill_config(args.model_dir)["image_guidance"]
    stage1 = Stage1.load(args.model_dir)
    return image_sampler(arm, stage1, args.model_dir, guidance, args.device)


def block_of(draw: Draw, args: argparse.Namespace) -> Callable[[], float]:
    """What times a sampler on random inputs."""
    return partial(seconds_per_image, draw, random_input(args), args.seconds)


def random_input(args: argparse.Namespace) -> torch.Tensor:
    """Noise and condition maps (B, C + 2K - 1, X, Y) of one batch, on the device."""
    stage1 = Stage1.load(args.model_dir)
    channels = stage1.source.channels + stage1.image_network["condition_channels"]
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch_size, channels, *stage1.image_size)
    return torch.randn(shape, generator=generator).to(args.device)


def seconds_per_image(draw: Draw, x: torch.Tensor, least: float) -> float:
    """Mean over as many batches as take `least` seconds, one at least."""
    begun, batches = time.perf_counter(), 0
    while True:
        draw(x)
        batches += 1
        if x.is_cuda:
            torch.cuda.synchronize()
        passed = time.perf_counter() - begun
        if passed >= least:
            return passed / (batches * len(x))


# -- results ---------------------------------------------------------------------------------------


def compare(arms: Sequence[Any], prepare_arm: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Time the arms in turns: {"arms": {name: figures}} and where it was."""
    place = machine(args.device)
    with workers(arms, prepare_arm, args) as running:
        take_turns(running.values(), args.rounds)
        rows = {str(arm): figures(worker, args) for arm, worker in running.items()}
    found = {name: version(name) for name in PACKAGES if find_spec(name)}
    return {
        "arguments": vars(args),
        "machine": place,
        "versions": versions() | found,
        "weights_sha256": weight_hashes(args.model_dir),
        "arms": rows,
    }


def figures(worker: Worker, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of an arm; ends its process."""
    memory = worker.stop()
    above = None
    if "cuda" not in args.device and memory["peak"] and memory["imported"]:
        above = memory["peak"] - memory["imported"]
    return {
        "images_per_second": 1 / median(worker.blocks),
        "seconds_per_image": worker.blocks,
        "peak_mib": memory["peak"],
        "peak_above_imports_mib": above,
    }


def against(reference: Any, rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How many times as fast as the reference each arm is."""
    slow = rows[str(reference)]["seconds_per_image"]
    return {name: ratios(slow, one["seconds_per_image"]) for name, one in rows.items()}


def print_table(result: dict[str, Any]) -> None:
    """A row for each arm."""
    print_place(result)
    reference = result["reference"]
    print(f"times as fast as {reference}")
    heads = (
        f"{'images/s':>10}{'median':>9}{'min':>9}{'max':>9}{'peak MiB':>10}{'above imports':>15}"
    )
    print(f"{'arm':32}{heads}")
    for name, row in result["arms"].items():
        found = result["ratios"][name]
        times = "".join(f"{found[key]:9.2f}" for key in ("median", "min", "max"))
        print(f"{name:32}{row['images_per_second']:10.2f}{times}{memory(row)}")
    print()
    print_verdict(result["ratios"], result["arguments"]["device"], reference)


def print_place(result: dict[str, Any]) -> None:
    """What was measured where."""
    place, args = result["machine"], result["arguments"]
    where = place["gpu"] or f"{place['cpu']}, {place['cores']} cores"
    print(f"{where}; batch {args['batch_size']}\n")


def memory(row: dict[str, Any]) -> str:
    """The two columns of memory."""
    peak, above = (
        "-" if row[key] is None else f"{row[key]:.0f}"
        for key in ("peak_mib", "peak_above_imports_mib")
    )
    return f"{peak:>10}{above:>15}"


def print_verdict(found: dict[str, dict[str, Any]], device: str, reference: str) -> None:
    """The one-step student on the fastest CPU back end against what is asked of it."""
    students = {n: one["median"] for n, one in found.items() if n.startswith("student 1,")}
    if students and "cuda" not in device:
        best = max(students, key=lambda name: students[name])
        verdict = "holds" if students[best] >= LEAST_RATIO else "does not hold"
        times = f"{students[best]:.1f} times as fast as {reference}"
        print(f"{best}: {times}; at least {LEAST_RATIO:g}: {verdict}")


if __name__ == "__main__":
    print_input_errors_as_one_line()
    main()
