"""Writes a sampler as an ONNX file."""

from __future__ import annotations

import logging
import warnings
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from alignflow.errors import InputError
from alignflow.files import replacing

INPUT = "x"
"""Name of the input: noise and condition, see `ImageSampler` and `MaskSampler`."""


def write_onnx(sampler: nn.Module, example: Tensor, path: str | Path) -> None:
    """Export a sampler with unrolled steps, for batches of any size, weights included.

    Args:
        sampler: sampler with a single input, in eval mode.
        example: input (B, D, X, Y) with B at least 2; X and Y are fixed.
        path: path of the file.

    Raises:
        InputError: the exporter's packages are missing, or an operation is not supported.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            "export: the packages onnx and onnxscript are missing; pip install onnx onnxscript"
        ) from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), replacing(path) as temporary:
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                sampler,
                (example,),
                str(temporary),
                input_names=[INPUT],
                output_names=["sample"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            cause = error.__cause__ or error
            raise InputError(
                f"export: torch cannot write this network as ONNX ({str(cause)[:300]}); "
                "leave the backend at torch"
            ) from error
        _remove_traces(temporary)


def _remove_traces(path: Path) -> None:
    """Remove the paths of source files that the exporter stores in each node."""
    onnx = import_module("onnx")
    model = onnx.load(path)
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    nodes = [*graph.node, *(node for function in model.functions for node in function.node)]
    for part in (model, graph, *values, *nodes, *model.functions):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.save(model, path)
