"""A distilled bundle: the config that its students were made with, and its samplers."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from alignflow.device import Precision
from alignflow.distillation.students import FILE, student_file
from alignflow.errors import InputError
from alignflow.export.backends import require_backend, sampler_on
from alignflow.flow.sampler import ImageSampler
from alignflow.inference.weights import load_sampler
from alignflow.networks.velocity import VelocityUNet
from alignflow.stage1 import Stage1

Draw = Callable[[Tensor], Tensor]
"""Images (B, C, X, Y) from noise and condition maps together, as `ImageSampler` takes them."""


@dataclass(frozen=True)
class Arm:
    """A sampler of the image flow.

    Attributes:
        steps: of the solver.
        method: of the solver.
        student: the student of so many steps, and not the teacher.
        backend: what computes it.
        precision: fp32, or bf16 or fp16 where the back end knows it.
    """

    steps: int
    method: str = "euler"
    student: bool = False
    backend: str = "torch"
    precision: str = "fp32"

    def __str__(self) -> str:
        who = f"student {self.steps}" if self.student else f"teacher {self.method} {self.steps}"
        return f"{who}, {self.backend} {self.precision}"


def distill_config(model_dir: str | Path, **changes: Any) -> ConfigParser:
    """The config that `distill` wrote the bundle with, for this folder, with changes.

    Raises:
        InputError: the folder is of no distilled bundle.
    """
    path = Path(model_dir) / FILE
    if not path.is_file():
        raise InputError(f"model_dir '{model_dir}': no {FILE}; run distill and give its output_dir")
    config = ConfigParser(json.loads(path.read_text())["config"])
    config.update({"model_dir": str(model_dir), **changes})
    return config


def image_sampler(arm: Arm, stage1: Stage1, model_dir: str, guidance: float, device: str) -> Draw:
    """The sampler of an arm, with its precision.

    Args:
        arm: which one.
        stage1: record of the bundle.
        model_dir: the bundle.
        guidance: of the teacher; a student has it in its weights.
        device: to compute on.
    """
    weights = student_file(model_dir, "image", arm.steps if arm.student else None)
    sampler = load_sampler(
        VelocityUNet(**stage1.image_network),
        weights,
        device,
        steps=arm.steps,
        method=arm.method,
        guidance=1.0 if arm.student else guidance,
        kind=ImageSampler,
    )
    run = sampler_on(arm.backend, sampler, weights, arm.precision, device)

    @torch.no_grad()
    def draw(x: Tensor) -> Tensor:
        with autocast(arm, device):
            return run(x.to(device)).float()

    return draw


def autocast(arm: Arm, device: str) -> AbstractContextManager[Any]:
    """Of torch; the other back ends know their precision."""
    return Precision(device, arm.precision).autocast() if arm.backend == "torch" else nullcontext()


def require_arm(arm: Arm, model_dir: str, device: str) -> None:
    """Raise `InputError` where an arm cannot run here, with what to install or to do."""
    weights = Path(student_file(model_dir, "image", arm.steps if arm.student else None))
    require_backend(arm.backend, device)
    if arm.backend in ("onnxruntime", "openvino") and not weights.with_suffix(".onnx").is_file():
        raise InputError(f"'{weights.with_suffix('.onnx')}': no such file; run export first")
