"""The segmenter's network: from a config, into a record, and back with its weights."""

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
    """The network at `key` of the running bundle config, every expression in it resolved.

    What comes back holds only names, numbers and lists: `build_network` makes the network of it
    where there is neither the config nor the data that its channels were counted from.
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
    """The network of a resolved config, with random weights: those of a record follow.

    Args:
        config: {"_target_": MONAI's name or path of the class, argument: value, ...}.
        where: file and field that it stands in, for the message.

    Raises:
        InputError: not a config, expressions in it, a class that is not allowed, or arguments that
            do not make a network.
    """
    require_network(config, where)
    try:
        plain = without_pretrained(config)
        network = ConfigParser({"network": plain}).get_parsed_content("network")
    except Exception as error:  # whatever the class raises, wrapped by MONAI several times
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise InputError(f"{where}: makes no network ({reason[:200]}); correct it") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{where}: {config['_target_']} is no network; name a torch module")
    return network


def without_pretrained(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a network whose weights are about to be loaded.

    `pretrained`, as EncoderUNet and MONAI's networks call it, would read or download weights only
    for them to be overwritten, and fail where they are missing.
    """
    return {**config, "pretrained": False} if config.get("pretrained") else dict(config)


def load_weights(
    network: nn.Module, path: str | Path, missing: str = "train a segmenter first"
) -> None:
    """Fill a network from a file of its state dict.

    Args:
        network: changed in place.
        path: path of the file, loaded with weights_only.
        missing: what to do where there is no such file.

    Raises:
        InputError: no such file, an unreadable one, or one of another network.
    """
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise InputError(f"'{path}': no such file; {missing}") from error
    except Exception as error:  # torch's unpickler raises whatever it stumbles over
        raise InputError(
            f"'{path}': not the weights of this network ({type(error).__name__}); "
            "use the network that they were trained with, or train again"
        ) from error


def initialised(network: nn.Module, init: str, model_dir: str | Path) -> nn.Module:
    """The network with the weights to start from.

    Args:
        network: with random weights.
        init: "random", "source" for the bundle's own segmenter, or a folder of `run segment`.
        model_dir: folder of the bundle.

    Raises:
        InputError: no such weights, or a network that they do not fit.
    """
    if init != "random":
        folder = Path(model_dir if init == "source" else init)
        missing = 'set "init" to random, source or the folder of a trained segmenter'
        load_weights(network, folder / WEIGHTS["segmenter"], missing)
    return network


def load_segmenter(stage1: Stage1, model_dir: str | Path, device: str | torch.device) -> nn.Module:
    """The source segmenter of a bundle.

    Args:
        stage1: record in `model_dir`.
        model_dir: folder of a stage-1 or aligned bundle.
        device: to put the network on.

    Returns:
        Network in eval mode: logits (B, K, X, Y) from images (B, C, X, Y) in [-1, 1].

    Raises:
        InputError: a record that makes no network, weights that are missing or do not fit.
    """
    folder = Path(model_dir)
    network = build_network(stage1.segmenter, f"'{folder / FILE}', field 'segmenter'")
    load_weights(network, folder / WEIGHTS["segmenter"])
    return network.to(device).eval()


@torch.no_grad()
def require_segmenter(
    network: nn.Module, channels: int, num_classes: int, image_size: list[int]
) -> None:
    """Refuse a network that does not make K class maps of the size of its images.

    Args:
        network: network of the segmenter.
        channels: C of the images.
        num_classes: K, background included.
        image_size: [X, Y], pixels.

    Raises:
        InputError: it cannot take the images, or gives another shape.
    """
    device = next(network.parameters()).device
    expected = (2, num_classes, *image_size)
    # A copy in training mode: it leaves running statistics alone, and one that norms a single pixel
    # fails in training only.
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
