"""Builds a segmenter from a config or a record, and loads its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from alignflow.config import find, running_parser
from alignflow.errors import InputError
from alignflow.stage1 import FILE, WEIGHTS, Stage1
from alignflow.targets import require_network


def network_config(key: str) -> dict[str, Any]:
    """The network at `key` of the running bundle config, with all expressions resolved.

    The result contains only names, numbers and lists, so that `build_network` needs neither the
    config nor the data that determine the channels.
    """
    parser = running_parser()
    resolved: dict[str, Any] = _resolved(parser, key, find(parser.get(), key))
    return resolved


def _resolved(parser: ConfigParser, key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _resolved(parser, f"{key}::{name}", v) for name, v in value.items()}
    if isinstance(value, list):
        return [_resolved(parser, f"{key}::{i}", v) for i, v in enumerate(value)]
    if isinstance(value, str) and value.startswith(("$", "@")):
        return parser.get_parsed_content(key)
    return value


def build_network(config: Any, where: str) -> nn.Module:
    """The network of a resolved config, with random weights.

    Args:
        config: {"_target_": MONAI's name or path of the class, argument: value, ...}.
        where: file and field of the config, for error messages.

    Raises:
        InputError: not a config, expressions in it, a class that is not allowed, or wrong
            arguments.
    """
    require_network(config, where)
    try:
        plain = without_pretrained(config)
        network = ConfigParser({"network": plain}).get_parsed_content("network")
    except Exception as error:  # any exception of the class, wrapped by MONAI
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise InputError(f"{where}: cannot build a network ({reason[:200]}); fix it") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{where}: {config['_target_']} is not a network; name a torch module")
    return network


def without_pretrained(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a network whose weights are about to be loaded.

    `pretrained`, an argument of EncoderUNet and MONAI's networks, would load or download weights
    that are then overwritten, and fail if they are missing.
    """
    return {**config, "pretrained": False} if config.get("pretrained") else dict(config)


def load_weights(
    network: nn.Module, path: str | Path, missing: str = "train a segmenter first"
) -> None:
    """Load the weights of a network from a file.

    Args:
        network: changed in place.
        path: path of the file, loaded with weights_only.
        missing: advice if the file does not exist.

    Raises:
        InputError: the file is missing, unreadable, or of another network.
    """
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise InputError(f"'{path}': no such file; {missing}") from error
    except Exception as error:  # torch's unpickler can raise any exception
        raise InputError(
            f"'{path}': not the weights of this network ({type(error).__name__}); "
            "use the network they were trained with, or train again"
        ) from error


def initialised(network: nn.Module, init: str, model_dir: str | Path) -> nn.Module:
    """The network with its initial weights.

    Args:
        network: network with random weights.
        init: "random", "source" for the bundle's segmenter, or a folder written by `run segment`.
        model_dir: folder of the bundle.

    Raises:
        InputError: the weights are missing or do not fit the network.
    """
    if init != "random":
        folder = Path(model_dir if init == "source" else init)
        missing = 'set "init" to random, source or the folder of a trained segmenter'
        load_weights(network, folder / WEIGHTS["segmenter"], missing)
    return network


def load_segmenter(stage1: Stage1, model_dir: str | Path, device: str | torch.device) -> nn.Module:
    """The source segmenter of a bundle.

    Args:
        stage1: the record in `model_dir`.
        model_dir: folder of a stage-1 or aligned bundle.
        device: device of the network.

    Returns:
        Network in eval mode: logits (B, K, X, Y) from images (B, C, X, Y) in [-1, 1].

    Raises:
        InputError: the record is invalid, or the weights are missing or do not fit.
    """
    folder = Path(model_dir)
    network = build_network(stage1.segmenter, f"'{folder / FILE}', field 'segmenter'")
    load_weights(network, folder / WEIGHTS["segmenter"])
    return network.to(device).eval()


@torch.no_grad()
def require_segmenter(
    network: nn.Module, channels: int, num_classes: int, image_size: list[int]
) -> None:
    """Refuse a network whose output is not K class maps of the size of its images.

    Args:
        network: network of the segmenter.
        channels: C of the images.
        num_classes: K, background included.
        image_size: [X, Y], pixels.

    Raises:
        InputError: the network fails on such images, or its output has another shape.
    """
    device = next(network.parameters()).device
    expected = (2, num_classes, *image_size)
    # A copy, so that running statistics do not change; in training mode, since a norm of a single
    # pixel fails only in training.
    trial = copy.deepcopy(network).train()
    try:
        shape = tuple(trial(torch.zeros(2, channels, *image_size, device=device)).shape)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"segmenter: cannot take images of {channels} channels and {list(image_size)} pixels "
            f"({reason[:150]}); change its network or image_size"
        ) from error
    if shape != expected:
        raise InputError(
            f"segmenter: gives {shape} for two images, but {expected} is needed (classes, pixels); "
            "change its network"
        )
