"""Quality of teacher and students against the evaluations of the network that they take.

    python benchmarks/sampler/quality.py --model_dir DISTILLED --target_dir UNSEEN
        [--backends onnxruntime openvino openvino-bf16] --output FILE.json

MODEL_DIR is what `distill` wrote, UNSEEN a folder of real images of the site that neither training
nor alignment saw. Every sampler draws an image for the same masks (of the teacher's mask flow) from
the same noise: the teacher with Euler and Heun steps, each student, and with --backends the
students' exports. An evaluation is one image through the network once.

KID in the held-out encoder, by `run evaluate`'s half-samples, whose draws take the same pairs of
every sampler and the same real images, so that ratios and differences of KID are paired. KID to
the teacher is to the baseline's images of other pairs. Faithfulness is the Dice of the source
segmenter with the masks asked for; its falls are paired by image (bootstrap).

The picture beside FILE.json: KID against evaluations, with the interval of the baseline.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import command_line, save
from common.distilled import Arm, Draw, distill_config, image_sampler, require_arm
from common.machine import machine

from alignflow.data.references import load_references
from alignflow.device import default_device, require_device, tune_allocator
from alignflow.errors import InputError, print_input_errors_as_one_line
from alignflow.evaluation.distances import cubic, unbiased
from alignflow.evaluation.encoder import HeldOutEncoder, features
from alignflow.evaluation.faithfulness import (
    bootstrap_interval,
    dice_table,
    image_scores,
    summary,
)
from alignflow.evaluation.sets import unseen
from alignflow.evaluation.subsampling import Sampled, Subsampling, estimate
from alignflow.export.students import students_of
from alignflow.files import replacing
from alignflow.inference.masks import MaskGenerator
from alignflow.inference.noise import pair_noise
from alignflow.inference.writing import versions
from alignflow.segmentation.network import load_segmenter
from alignflow.stage1 import Stage1, weight_hashes

METHODS = ("euler", "heun")
BASELINE = Arm(50)
DEFAULT_TEACHER = Arm(8)
BACKENDS = {
    "onnxruntime": ("onnxruntime", "fp32"),
    "openvino": ("openvino", "fp32"),
    "openvino-bf16": ("openvino", "bf16"),
}
MOST_KID = {1: 1.15, 4: 1.05}  # of a student of so many steps, over the baseline's
MOST_FALL = {1: 0.02, 4: 0.01}  # of its Dice below the baseline's


@dataclass(frozen=True)
class Drawn:
    """What is kept of a sampler's images.

    Attributes:
        evaluations: of the network, for each image.
        kid: half-samples against the real images.
        features: of its images, in the held-out encoder, (N, D).
        dice: of each image and class, see `dice_table`.
    """

    evaluations: float
    kid: Sampled
    features: Tensor
    dice: NDArray[np.float64]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the table, write JSON and picture, return what the JSON holds."""
    args = arguments(argv)
    require_device(args.device)
    tune_allocator()
    arms = list_arms(args)
    for arm in arms:
        require_arm(arm, args.model_dir, args.device)
    bench = Bench(args)
    drawn = {arm: bench.measure(arm) for arm in arms}
    result: dict[str, Any] = {
        "arguments": vars(args),
        "machine": machine(args.device),
        "versions": versions(),
        "weights_sha256": weight_hashes(args.model_dir),
        "encoder": {"name": bench.encoder.name, "size": list(bench.encoder.size)},
        "real": {"images": len(bench.real), "sha256": bench.fingerprint},
        "baseline": str(BASELINE),
        "arms": {str(arm): record(arm, drawn, bench) for arm in arms},
        "parity": {str(arm): parity for arm, parity in bench.parities.items()},
    }
    print_table(result)
    print_verdicts(result)
    save(result, args.output)
    if args.output:
        draw_curves(args.output.with_suffix(".png"), drawn, result)
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    add = parser.add_argument
    add("--model_dir", required=True, help="a bundle that distill wrote")
    add("--target_dir", required=True, help="real images of the site that no training saw")
    add("--reference_dir", help="images of alignment; those among the target are left out")
    add("--count", type=int, default=400, help="pairs of each sampler (default 400)")
    steps = [1, 2, 4, 8, 16, 50]
    add("--steps", type=int, nargs="+", default=steps, help="of the teacher (1 2 4 8 16 50)")
    add("--backends", nargs="+", choices=list(BACKENDS), default=[], help="of the students too")
    add("--encoder", choices=("imagenet", "random"), default="imagenet")
    add("--encoder_size", type=int, nargs=2, default=[128, 128], help="(default 128 128)")
    add("--draws", type=int, default=100, help="of the half-samples (default 100)")
    add("--largest_draw", type=int, default=200, help="most images in a draw (default 200)")
    add("--device", default=default_device())
    add("--batch_size", type=int, default=16)
    add("--seed", type=int, default=0, help="of masks, noise and draws (default 0)")
    add("--output", type=Path, help="JSON file to write; the picture gets its stem")
    return parser.parse_args(argv)


def list_arms(args: argparse.Namespace) -> list[Arm]:
    """Baseline and default teacher, the other teachers, the students and their exports."""
    teachers = [Arm(steps, method) for method in METHODS for steps in args.steps]
    students = sorted(students_of(args.model_dir, "image"))
    if not students:
        raise InputError(f"model_dir '{args.model_dir}': no students; run distill to its end")
    in_torch = [Arm(steps, student=True) for steps in students]
    exported = [
        Arm(steps, student=True, backend=backend, precision=precision)
        for backend, precision in (BACKENDS[name] for name in args.backends)
        for steps in students
    ]
    return list(dict.fromkeys([BASELINE, DEFAULT_TEACHER, *teachers, *in_torch, *exported]))


# -- images ----------------------------------------------------------------------------------------


class Bench:
    """Real images, and masks and noise that every sampler is given.

    Args:
        args: the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.config = distill_config(
            args.model_dir, device=args.device, teacher_seed=args.seed, sampling_precision="fp32"
        )
        self.stage1: Stage1 = self.config.get_parsed_content("stage1")
        self.guidance: float = self.config["image_guidance"]
        self.encoder = HeldOutEncoder(args.encoder, tuple(args.encoder_size)).to(args.device)
        self.segmenter = load_segmenter(self.stage1, args.model_dir, args.device)
        real = load_references(args.target_dir, self.stage1)
        if args.reference_dir:
            references = load_references(args.reference_dir, self.stage1)
            real = unseen(real, references, args.target_dir)
        if min(len(real), args.count) < 4:
            raise InputError(
                f"target_dir '{args.target_dir}': {len(real)} images for {args.count} pairs; KID "
                "of half-samples needs four of both"
            )
        self.real, self.fingerprint = self.features(real.images), real.fingerprint
        self.subsampling = Subsampling(args.draws, args.largest_draw, args.seed)
        masks: MaskGenerator = self.config.get_parsed_content("masks")
        self.labels = torch.cat([masks(indices) for indices in self.batches()])
        self.in_torch: dict[Arm, Tensor] = {}
        self.parities: dict[Arm, dict[str, float]] = {}

    def batches(self) -> list[list[int]]:
        """Numbers of the pairs of each batch."""
        size, count = self.args.batch_size, self.args.count
        return [list(range(k, min(k + size, count))) for k in range(0, count, size)]

    def features(self, images: Tensor) -> Tensor:
        """(N, D) in the held-out encoder."""
        return features(self.encoder, images, self.args.batch_size)

    def measure(self, arm: Arm) -> Drawn:
        """Draw a sampler's images and measure them."""
        images = self.draw(arm)
        if arm.student:
            self.compare_with_torch(arm, images)
        # as it is written: files hold no values outside the window
        images = images.clamp(-1, 1)
        found = self.features(images)
        kid = self.subsampling(kid_alone, found, self.real)["kid"]
        dice = dice_table(self.segmenter, images, self.labels, self.stage1.num_classes)
        print(f"{arm}: KID {kid.values.mean():.4f}", flush=True)
        return Drawn(evaluations(arm, self.guidance), kid, found, dice)

    def draw(self, arm: Arm) -> Tensor:
        """Images (N, C, X, Y) of all pairs."""
        where = (self.stage1, self.args.model_dir, self.guidance, self.args.device)
        sampler: Draw = image_sampler(arm, *where)
        return torch.cat([sampler(self.inputs(indices)).cpu() for indices in self.batches()])

    def inputs(self, indices: list[int]) -> Tensor:
        """Noise and condition maps (B, C + 2K - 1, X, Y) of pairs by number."""
        noise = pair_noise(self.args.seed, indices, "image", self.stage1.image_shape)
        return torch.cat([noise, self.stage1.condition(self.labels[indices])], dim=1)

    def compare_with_torch(self, arm: Arm, images: Tensor) -> None:
        """Keep a student's images in torch, or note how far an export's are from them."""
        if arm.backend == "torch":
            self.in_torch[arm] = images
            return
        difference = images - self.in_torch[Arm(arm.steps, student=True)]
        self.parities[arm] = {
            "max": float(difference.abs().max()),
            "rms": float(difference.square().mean().sqrt()),
        }


def evaluations(arm: Arm, guidance: float) -> int:
    """Of the network, for one image; Heun's last step is Euler's, see `trajectory`."""
    once = 2 * arm.steps - 1 if arm.method == "heun" else arm.steps
    return once if arm.student or guidance == 1 else 2 * once


# -- figures ---------------------------------------------------------------------------------------


def kid_alone(generated: Tensor, real: Tensor) -> dict[str, float]:
    """KID as `Subsampling` takes a statistic."""
    return {"kid": unbiased(generated, real, cubic)}


def record(arm: Arm, drawn: dict[Arm, Drawn], bench: Bench) -> dict[str, Any]:
    """What the JSON holds of a sampler."""
    one = drawn[arm]
    bases = [BASELINE, DEFAULT_TEACHER]
    if arm.backend != "torch":
        bases.append(Arm(arm.steps, student=True))
    to_teacher = kid_of_other_pairs(one.features, drawn[BASELINE].features, bench.subsampling)
    return {
        "evaluations": one.evaluations,
        "kid": one.kid.record(),
        "kid_to_baseline": estimate(to_teacher),
        "dice": summary(one.dice),
        "against": {str(base): against(one, drawn[base]) for base in bases},
    }


def against(one: Drawn, base: Drawn) -> dict[str, Any]:
    """Ratio and difference of KID, and how far Dice falls, each paired."""
    fall = image_scores(base.dice) - image_scores(one.dice)
    low, high = bootstrap_interval([fall], np.mean)
    return {
        "kid_ratio": ratio(one.kid.values, base.kid.values),
        "kid_difference": estimate(one.kid.values - base.kid.values),
        "dice_fall": {"value": float(fall.mean()), "low": low, "high": high},
    }


def ratio(values: NDArray[np.float64], base: NDArray[np.float64]) -> dict[str, float | None]:
    """Of means, with the 95% interval of the draws; no interval where a draw's base is not > 0."""
    interval = estimate(values / base if (base > 0).all() else np.empty(0))
    return interval | {"value": float(values.mean() / base.mean()) if base.mean() > 0 else None}


def kid_of_other_pairs(one: Tensor, base: Tensor, subsampling: Subsampling) -> NDArray[np.float64]:
    """KID of a sampler's images to the baseline's of other pairs, (draws,).

    Of the same pairs the two sets would not be independent, as an unbiased estimate needs them. The
    baseline itself has 0 on average.
    """
    size = min(len(one) // 2, subsampling.largest)
    values = []
    for draw in range(subsampling.draws):
        order = np.random.default_rng([subsampling.seed, draw]).permutation(len(one))
        values.append(unbiased(one[order[:size]], base[order[-size:]], cubic))
    return np.array(values)


# -- table and picture -----------------------------------------------------------------------------


def print_table(result: dict[str, Any]) -> None:
    """A row for each sampler."""
    real, encoder = result["real"]["images"], result["encoder"]["name"]
    count, base = result["arguments"]["count"], result["baseline"]
    print(f"\n{count} pairs, {real} real images, encoder {encoder}; ratio and fall to {base},")
    print(f"last column: ratio of KID to {DEFAULT_TEACHER}")
    heads = ("evaluations", "KID", "95%", "to teacher", "ratio", "95%", "Dice", "fall", "ratio")
    widths = (12, 9, 18, 11, 8, 14, 8, 9, 8)
    print(f"{'sampler':32}" + "".join(f"{h:>{w}}" for h, w in zip(heads, widths, strict=True)))
    for name, row in result["arms"].items():
        kid, found = row["kid"], row["against"][base]
        cells = (
            f"{row['evaluations']}",
            f"{kid['value']:.4f}",
            f"{kid['low']:.4f}-{kid['high']:.4f}",
            f"{row['kid_to_baseline']['value']:.4f}",
            number(found["kid_ratio"]["value"]),
            f"{number(found['kid_ratio']['low'])}-{number(found['kid_ratio']['high'])}",
            f"{row['dice']['mean']:.3f}",
            f"{found['dice_fall']['value']:.4f}",
            number(row["against"][str(DEFAULT_TEACHER)]["kid_ratio"]["value"]),
        )
        print(f"{name:32}" + "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)))


def number(value: float | None) -> str:
    """Two digits, or a question mark."""
    return "?" if value is None else f"{value:.2f}"


def print_verdicts(result: dict[str, Any]) -> None:
    """What is asked of the students and of their exports."""
    print()
    base = result["baseline"]
    for steps, most in MOST_KID.items():
        name = str(Arm(steps, student=True))
        if name in result["arms"]:
            found = result["arms"][name]["against"][base]
            say(f"{name}: KID over the baseline's", found["kid_ratio"]["value"], most)
            say(f"{name}: fall of Dice", found["dice_fall"]["value"], MOST_FALL[steps])
    for name, parity in result["parity"].items():
        row = result["arms"][name]
        student = str(Arm(row["evaluations"], student=True))
        kid = result["arms"][student]["kid"]
        within = kid["low"] <= row["kid"]["value"] <= kid["high"]
        print(
            f"{name}: differs from torch by at most {parity['max']:.2g} (root mean square "
            f"{parity['rms']:.2g}); KID within the interval of torch's: "
            f"{'holds' if within else 'does not hold'}"
        )


def say(what: str, value: float | None, most: float) -> None:
    """A figure, its limit and whether it is kept."""
    verdict = "holds" if value is not None and value <= most else "does not hold"
    print(f"{what} {'?' if value is None else f'{value:.3f}'}; at most {most:g}: {verdict}")


def draw_curves(path: Path, drawn: dict[Arm, Drawn], result: dict[str, Any]) -> None:
    """KID against evaluations of the network, and the baseline's interval as a band."""
    of_line: dict[str, Callable[[Arm], bool]] = {
        "teacher, Euler": lambda arm: not arm.student and arm.method == "euler",
        "teacher, Heun": lambda arm: not arm.student and arm.method == "heun",
        "student": lambda arm: arm.student and arm.backend == "torch",
    }
    figure = Figure(figsize=(6, 4), layout="constrained")
    plot = figure.subplots()
    band = result["arms"][result["baseline"]]["kid"]
    plot.axhspan(band["low"], band["high"], color="gray", alpha=0.2, label=result["baseline"])
    for label, belongs in of_line.items():
        rows = [result["arms"][str(arm)] for arm in drawn if belongs(arm)]
        rows.sort(key=lambda row: row["evaluations"])
        x = [row["evaluations"] for row in rows]
        values, lows, highs = (
            np.array([row["kid"][k] for row in rows]) for k in ("value", "low", "high")
        )
        errors = np.clip([values - lows, highs - values], 0, math.inf)
        plot.errorbar(x, values, errors, marker="o", markersize=4, capsize=2, label=label)
    plot.set_xscale("log", base=2)
    plot.set(xlabel="evaluations of the network for an image", ylabel="KID to unseen images")
    plot.xaxis.set_major_formatter("{x:g}")
    plot.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


if __name__ == "__main__":
    print_input_errors_as_one_line()
    main()
