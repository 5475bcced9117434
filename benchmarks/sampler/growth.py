"""Time and memory of `infer` by number of pairs, batch size and image size.

    python benchmarks/sampler/growth.py --model_dir DISTILLED [--student 1 --mask_student 4]
        [--only pairs batch size] --output FILE.json

Each case is a process of its own, `python -m monai.bundle run infer`, in a temporary folder: masks,
images, files and all. "pairs": at --batch_size; pairs are to be written in flat memory, so the peak
over that of 100 pairs (or of the fewest from there on) is what counts. "batch": pairs drawn at
once. "size": the bundle's networks at other sizes; their weights fit every size, and what they draw
there does not matter (needs the back end torch: exports are of one size).

A mask is drawn once, accepted or not, so that every case does the same work. "s/pair" is from the
end of the first batch to the end of the last, by the times of the files; "wall" is the whole
process, imports included. Peak memory is resident memory (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import command_line, save
from common.machine import machine
from common.workers import fresh_allocator

from alignflow.device import default_device
from alignflow.errors import InputError, print_input_errors_as_one_line
from alignflow.inference.writing import versions
from alignflow.networks.velocity import size_divisor
from alignflow.stage1 import FILE, Stage1, weight_hashes

ROOT = Path(__file__).resolve().parents[2]
PEAK = ROOT / "benchmarks" / "common" / "peak.py"
BASE = 100  # pairs that memory is compared with
MOST_RATIO = 1.2
PARTS = ("pairs", "batch", "size")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the tables, write the JSON, return what it holds."""
    args = arguments(argv)
    if not Path("/proc/self/status").is_file():
        raise InputError("growth: peak memory is read from /proc; run it on Linux")
    stage1 = Stage1.load(args.model_dir)
    if "size" in args.only:
        check_sizes(args, stage1)
    result: dict[str, Any] = {
        "arguments": vars(args),
        "machine": machine(args.device),
        "versions": versions(),
        "weights_sha256": weight_hashes(args.model_dir),
    }
    for part in args.only:
        result[part] = MEASURES[part](args)
        print_rows(part, result[part])
    if "pairs" in args.only:
        result["memory"] = memory_growth(result["pairs"])
        print_memory(result["memory"])
    save(result, args.output)
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    add = parser.add_argument
    add("--model_dir", required=True, help="a bundle; of distill, if students are to draw")
    add("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts (default all)")
    add("--pairs", type=int, nargs="+", default=[10, 100, 1000, 10000])
    add("--batch_sizes", type=int, nargs="+", default=[1, 4, 16, 64])
    add("--sizes", type=int, nargs="+", default=[32, 64, 96, 128], help="pixels of each side")
    add("--batch_size", type=int, default=16, help="of the parts pairs and size (default 16)")
    add("--count", type=int, default=128, help="pairs of the parts batch and size (default 128)")
    add("--student", type=int, help="steps of the image flow's student; default: the teacher")
    add("--mask_student", type=int, help="the same of the mask flow")
    add("--backend", default="torch", help="of both flows' students (default torch)")
    add("--backend_precision", default="fp32")
    add("--device", default=default_device())
    add("--output", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def check_sizes(args: argparse.Namespace, stage1: Stage1) -> None:
    """Raise `InputError` where the networks cannot draw the sizes asked for."""
    if args.backend != "torch":
        raise InputError("--only size: exports are of one size; leave --backend at torch")
    divisors = [
        size_divisor(one["patch"], one["channels"])
        for one in (stage1.image_network, stage1.mask_network)
    ]
    wrong = [size for size in args.sizes if any(size % divisor for divisor in divisors)]
    if wrong:
        raise InputError(f"--sizes {wrong[0]}: the networks need multiples of {max(divisors)}")


# -- one case --------------------------------------------------------------------------------------


def by_pairs(args: argparse.Namespace) -> dict[int, dict[str, Any]]:
    """A row for each number of pairs."""
    return {n: infer(args, args.model_dir, n, args.batch_size) for n in args.pairs}


def by_batch(args: argparse.Namespace) -> dict[int, dict[str, Any]]:
    """A row for each batch size, over two batches or more."""
    counts = {size: max(args.count, 2 * size) for size in args.batch_sizes}
    return {size: infer(args, args.model_dir, n, size) for size, n in counts.items()}


def by_size(args: argparse.Namespace) -> dict[int, dict[str, Any]]:
    """A row for each image size."""
    found = {}
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            resize_bundle(args.model_dir, size, Path(folder))
            found[size] = infer(args, folder, args.count, args.batch_size)
    return found


MEASURES = {"pairs": by_pairs, "batch": by_batch, "size": by_size}


def resize_bundle(model_dir: str, size: int, folder: Path) -> None:
    """Copy a bundle's weights, with a record of another image size."""
    for name in weight_hashes(model_dir):
        shutil.copy(Path(model_dir) / name, folder)
    record = json.loads((Path(model_dir) / FILE).read_text())
    (folder / FILE).write_text(json.dumps(record | {"image_size": [size, size]}))


def infer(args: argparse.Namespace, model_dir: str, count: int, batch: int) -> dict[str, Any]:
    """Run `infer` in a process of its own: seconds and MiB."""
    with tempfile.TemporaryDirectory() as folder, fresh_allocator():
        pairs, peak = Path(folder) / "pairs", Path(folder) / "peak.txt"
        line = [sys.executable, str(PEAK), str(peak), "monai.bundle", "run", "infer"]
        for key, value in options(args, model_dir, count, batch).items():
            line += [f"--{key}", str(value)]
        begun = time.perf_counter()
        done = subprocess.run(
            [*line, "--output_dir", str(pairs)],
            cwd=ROOT / "bundle",
            env=os.environ | {"PYTHONPATH": python_path()},
            capture_output=True,
            text=True,
            check=False,
        )
        wall = time.perf_counter() - begun
        if done.returncode:
            raise InputError(f"infer failed: {(done.stderr.strip() or '?').splitlines()[-1]}")
        return {
            "pairs": count,
            "batch_size": batch,
            "wall_seconds": wall,
            "seconds_per_pair": seconds_per_pair(pairs / "images", batch),
            "peak_mib": float(peak.read_text()),
        }


def options(args: argparse.Namespace, model_dir: str, count: int, batch: int) -> dict[str, Any]:
    """Overrides of inference.json."""
    chosen = {
        "config_file": "configs/inference.json",
        "model_dir": Path(model_dir).resolve(),
        "device": args.device,
        "num_pairs": count,
        "batch_size": batch,
        "masks#max_attempts": 1,
        "student": args.student,
        "mask_student": args.mask_student,
    }
    if args.student:
        chosen |= {"backend": args.backend, "backend_precision": args.backend_precision}
    if args.mask_student:
        chosen["mask_backend"] = args.backend
    return {key: value for key, value in chosen.items() if value is not None}


def python_path() -> str:
    """This checkout's package first."""
    path = [str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(path).rstrip(os.pathsep)


def seconds_per_pair(folder: Path, batch: int) -> float | None:
    """From the last file of the first batch to the last of all; None with one batch."""
    times = sorted(path.stat().st_mtime for path in folder.iterdir())
    if len(times) <= batch:
        return None
    return (times[-1] - times[batch - 1]) / (len(times) - batch)


# -- results ---------------------------------------------------------------------------------------


def memory_growth(rows: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Peak over that of `BASE` pairs, and KiB for each pair more."""
    known = sorted(rows)
    base = next((n for n in known if n >= BASE), known[-1])
    of_base, of_most = (rows[n]["peak_mib"] for n in (base, known[-1]))
    more = known[-1] - base
    return {
        "base": base,
        "ratios": {n: rows[n]["peak_mib"] / of_base for n in known},
        "kib_per_pair": 1024 * (of_most - of_base) / more if more else None,
        "most_ratio": MOST_RATIO,
    }


def print_rows(part: str, rows: dict[int, dict[str, Any]]) -> None:
    """A row for each case."""
    print(f"\n{part:>8}{'pairs':>8}{'batch':>7}{'wall s':>9}{'s/pair':>9}{'peak MiB':>10}")
    for case, row in rows.items():
        pace = row["seconds_per_pair"]
        shown = "-" if pace is None else f"{pace:.4f}"
        print(
            f"{case:8}{row['pairs']:8}{row['batch_size']:7}{row['wall_seconds']:9.1f}{shown:>9}"
            f"{row['peak_mib']:10.0f}"
        )


def print_memory(found: dict[str, Any]) -> None:
    """Growth with the number of pairs."""
    most = max(found["ratios"])
    if most == found["base"]:
        return
    value = found["ratios"][most]
    verdict = "holds" if value <= found["most_ratio"] else "does not hold"
    print(
        f"peak memory of {most} pairs over that of {found['base']}: {value:.3f} "
        f"({found['kib_per_pair']:.2f} KiB a pair); at most {found['most_ratio']:g}: {verdict}"
    )


if __name__ == "__main__":
    print_input_errors_as_one_line()
    main()
