"""Exports the students of a distilled bundle, and compares each with torch."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignflow.distillation.students import student_file
from alignflow.errors import InputError
from alignflow.export.backends import require_backend, sampler_on
from alignflow.export.onnx_file import write_onnx
from alignflow.export.parity import parity, require_parity
from alignflow.files import replacing, sha256
from alignflow.flow.sampler import FlowSampler, ImageSampler, MaskSampler, with_planes
from alignflow.inference.masks import MaskGenerator
from alignflow.inference.noise import pair_noise
from alignflow.inference.weights import load_sampler
from alignflow.inference.writing import versions
from alignflow.networks.velocity import VelocityUNet
from alignflow.stage1 import STUDENTS, Stage1

logger = logging.getLogger(__name__)


def export_students(
    stage1: Stage1,
    masks: MaskGenerator,
    model_dir: str,
    *,
    backend: str,
    precision: str,
    tolerance: float,
    num_pairs: int,
    device: str,
) -> None:
    """Write `student_4.onnx` beside `student_4.pt`, and so on, each with a record.

    The record, `student_4.onnx.json`, has the differences from torch by back end and precision, and
    hashes of both files. The file is kept only if the comparison succeeds.

    Args:
        stage1: record of the bundle.
        masks: draws the masks and descriptions for the comparison.
        model_dir: the bundle.
        backend, precision: compared with torch in float32.
        tolerance: largest allowed difference; images and distance maps are in [-1, 1].
        num_pairs: number of pairs to compare.
        device: device of the back end.

    Raises:
        InputError: no students, or an error of `require_backend`, `write_onnx` or `require_parity`.
    """
    require_backend(backend, device)
    if backend == "torch":
        raise InputError('config "backend": torch needs no export; set another back end')
    found = [(flow, steps) for flow in STUDENTS for steps in students_of(model_dir, flow)]
    if not found:
        raise InputError(
            f"model_dir '{model_dir}': no students to export; run distill and set model_dir to its "
            "output_dir"
        )
    for flow, steps in found:
        weights = Path(student_file(model_dir, flow, steps))
        inputs = check_inputs(stage1, masks, flow, num_pairs).to(device)
        sampler, other = (unrolled(stage1, flow, steps, weights) for _ in range(2))
        path = weights.with_suffix(".onnx")
        with replacing(path) as temporary:
            write_onnx(sampler, inputs[:2].cpu(), temporary)
            # TensorRT builds its own engine beside the weights
            file = weights if backend == "tensorrt" else temporary
            exported = sampler_on(backend, other, str(file), precision, device)
            compared = parity(sampler.to(device), exported, inputs)
            require_parity(compared, tolerance, f"{path.stem} in {backend}, {precision},")
        record_parity(path, weights, f"{backend} {precision}", compared)
        logger.info("%s: differs from torch by at most %.2g", path.name, compared["max"])


def students_of(model_dir: str, flow: str) -> list[int]:
    """Steps of a flow's students in a bundle, in decreasing order."""
    names = (path.name for path in Path(model_dir).glob(f"{STUDENTS[flow]}_*.pt"))
    steps = (re.fullmatch(rf"{STUDENTS[flow]}_(\d+)\.pt", name) for name in names)
    return sorted((int(match[1]) for match in steps if match), reverse=True)


def unrolled(stage1: Stage1, flow: str, steps: int, weights: Path) -> FlowSampler:
    """A student as a module with a single input, on the CPU, in eval mode."""
    kind, arguments = {
        "image": (ImageSampler, stage1.image_network),
        "mask": (MaskSampler, stage1.mask_network),
    }[flow]
    network = VelocityUNet(**arguments)
    return load_sampler(network, str(weights), "cpu", steps=steps, kind=kind)


def check_inputs(stage1: Stage1, masks: MaskGenerator, flow: str, count: int) -> Tensor:
    """Typical inputs (N, D, X, Y) of a student with a single input."""
    indices = list(range(max(count, 2)))
    if flow == "mask":
        return with_planes(*masks.start(indices))
    shape = stage1.image_shape
    noise = pair_noise(masks.seed, indices, "image", shape)
    return torch.cat([noise, stage1.condition(masks(indices))], dim=1)


def record_parity(path: Path, weights: Path, name: str, compared: dict[str, Any]) -> None:
    """Add a comparison to the record of an ONNX file; new weights start a new record."""
    record, file = {}, path.with_name(path.name + ".json")
    digest = sha256(weights)
    if file.is_file():
        record = json.loads(file.read_text(encoding="utf-8"))
    if record.get("weights_sha256") != digest:
        record = {"weights_sha256": digest, "parity": {}}
    record["parity"][name] = compared
    record |= {"sha256": sha256(path), "versions": versions()}
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
