"""Samplers in other runtimes, called like those in torch."""

from __future__ import annotations

import json
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from alignflow.errors import InputError
from alignflow.files import sha256
from alignflow.flow.sampler import FlowSampler, MaskSampler, with_planes

BACKENDS = {
    "torch": (),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "polygraphy"),
}
"""Packages that each back end needs in addition to torch."""


def sampler_on(
    backend: str, sampler: nn.Module, weights: str, precision: str, device: str
) -> nn.Module:
    """The sampler as a module that runs in a back end.

    Args:
        backend: one of `BACKENDS`.
        sampler: sampler in torch; used directly for "torch" and compiled for TensorRT.
        weights: path of its weights; `export` writes `student_4.onnx` beside `student_4.pt`.
        precision: "fp32", "bf16" or "fp16", if the back end supports it.
        device: device of the sampler.

    Raises:
        InputError: an unknown back end, its packages or its file are missing, it needs a GPU, or
            the file is damaged or belongs to other weights.
    """
    require_backend(backend, device)
    if backend == "torch":
        return sampler.to(device)
    path = Path(weights).with_suffix(".onnx")
    if backend == "tensorrt":
        return on_tensorrt(sampler.to(device), path, precision)
    if not path.is_file():
        raise InputError(
            f"config \"backend\": {backend}, but '{path}' does not exist; run export first"
        )
    require_recorded(path, Path(weights))
    return (OnnxSampler if backend == "onnxruntime" else OpenVinoSampler)(path, precision)


def require_recorded(path: Path, weights: Path) -> None:
    """Raise `InputError` if an ONNX file or its weights do not match the record.

    A file without a record is accepted: `export` checks the file before it writes the record.
    """
    record = path.with_name(path.name + ".json")
    if not record.is_file():
        return
    known = json.loads(record.read_text(encoding="utf-8"))
    for file, key in ((path, "sha256"), (weights, "weights_sha256")):
        if known.get(key) != sha256(file):
            raise InputError(
                f"'{file}' is not the file that {record.name} was written with; run export again"
            )


def require_backend(backend: str, device: str) -> None:
    """Raise `InputError` if a back end cannot run here, and say what to install."""
    if backend not in BACKENDS:
        raise InputError(f'config "backend": {backend!r}; set one of {", ".join(BACKENDS)}')
    if backend == "tensorrt" and not torch.cuda.is_available():
        raise InputError('config "backend": tensorrt needs an NVIDIA GPU; set onnxruntime')
    missing = [name for name in BACKENDS[backend] if find_spec(name) is None]
    if missing:
        raise InputError(f'config "backend": {backend} needs pip install {" ".join(missing)}')
    if backend in ("onnxruntime", "openvino") and torch.device(device).type != "cpu":
        raise InputError(
            f'config "backend": {backend} runs on the CPU here; set device to cpu, '
            "or backend to torch or tensorrt"
        )


def mask_sampler_on(
    backend: str, sampler: FlowSampler, weights: str, precision: str, device: str
) -> nn.Module:
    """The same for the mask flow, called with noise and vector like a `FlowSampler`."""
    if backend == "torch":
        return sampler.to(device)
    whole = MaskSampler(sampler.network, steps=sampler.steps, method=sampler.method).eval()
    return VectorInput(sampler_on(backend, whole, weights, precision, device))


class VectorInput(nn.Module):
    """Calls a sampler with a single input for noise and vector.

    Args:
        sampler: called like `MaskSampler`.
    """

    def __init__(self, sampler: nn.Module) -> None:
        super().__init__()
        self.sampler = sampler

    def forward(self, noise: Tensor, vector: Tensor) -> Tensor:
        """Distance maps (B, K-1, X, Y) from noise of that shape and descriptions (B, D)."""
        return cast("Tensor", self.sampler(with_planes(noise, vector)))


class OnnxSampler(nn.Module):
    """Runs an ONNX file in onnxruntime on the CPU, with the same number of threads as torch.

    Args:
        path: path of the file.
        precision: "fp32" only.

    Raises:
        InputError: another precision.
    """

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        super().__init__()
        if precision != "fp32":
            raise InputError(
                f'config "backend_precision": {precision}; onnxruntime runs fp32, openvino bf16'
            )
        runtime: Any = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Samples (B, C, X, Y) from noise and condition (B, D, X, Y)."""
        name = self.session.get_inputs()[0].name
        [sample] = self.session.run(None, {name: x.float().numpy()})
        return torch.from_numpy(sample)


class OpenVinoSampler(nn.Module):
    """Runs an ONNX file in OpenVINO on the CPU, with the same number of threads as torch.

    Args:
        path: path of the file.
        precision: "fp32" or "bf16", which a CPU with AMX computes several times faster.

    Raises:
        InputError: another precision.
    """

    HINTS = {"fp32": "f32", "bf16": "bf16"}

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        super().__init__()
        if precision not in self.HINTS:
            raise InputError(
                f'config "backend_precision": {precision}; openvino runs fp32 or bf16 here'
            )
        # otherwise its telemetry tries to access the network
        os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
        openvino: Any = import_module("openvino")
        settings = {
            "INFERENCE_PRECISION_HINT": self.HINTS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.model = openvino.Core().compile_model(str(path), "CPU", settings)

    def forward(self, x: Tensor) -> Tensor:
        """Samples (B, C, X, Y) from noise and condition (B, D, X, Y)."""
        return torch.from_numpy(self.model(x.float().numpy())[0].copy())


def on_tensorrt(sampler: nn.Module, path: Path, precision: str) -> nn.Module:
    """Compile a sampler with MONAI's `trt_compile`, which builds an engine at the first call.

    The engine is saved beside the weights as `STEM.trt.plan` and rebuilt when they change.
    """
    compile_ = import_module("monai.networks.trt_compiler").trt_compile
    compiled: nn.Module = compile_(sampler, str(path.with_suffix(".trt")), {"precision": precision})
    return compiled
