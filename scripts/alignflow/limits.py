"""Valid values of the plain settings at the top of the bundle's configs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignflow.errors import InputError
from alignflow.flow.solver import STEPS
from alignflow.networks.velocity import size_divisor


class Number(NamedTuple):
    """A number from `low` to `high`, an integer if `whole`."""

    low: float
    high: float = math.inf
    whole: bool = False


COUNT = Number(1, whole=True)
SHARE = Number(0, 1)
NUMBERS = {
    "seed": Number(0, 2**32 - 1, whole=True),
    "batch_size": COUNT,
    "num_workers": Number(0, whole=True),
    "steps_per_epoch": COUNT,
    "image_epochs": COUNT,
    "mask_epochs": COUNT,
    "segmenter_epochs": COUNT,
    "warmup_steps": Number(0, whole=True),
    "val_interval": COUNT,
    "save_interval": COUNT,
    "solver_steps": COUNT,
    "image_steps": COUNT,
    "mask_steps": COUNT,
    "learning_rate": Number(0),
    "segmenter_learning_rate": Number(0),
    "image_guidance": Number(0),
    "mask_smoothing": Number(0),
    "ema_decay": SHARE,
    "condition_dropout": SHARE,
    "time_mean": Number(-10, 10),
    "mask_time_mean": Number(-10, 10),
    "time_std": Number(0),
    "time_uniform_share": SHARE,
    "flip_x": SHARE,
    "flip_y": SHARE,
    "epochs": COUNT,
    "seeds": COUNT,
    "rounds": Number(0, whole=True),
    "synthetic_share": SHARE,
    "site_share": SHARE,
    "style_prob": SHARE,
    "split_seed": Number(0, whole=True),
    "draws": COUNT,
    "largest_draw": Number(2, whole=True),
    "neighbours": COUNT,
    "anchor": Number(0),
    "detail_anchor": Number(0),
    "detail_window": COUNT,
    "faithfulness": Number(0),
    "matching": Number(0),
    "matching_batch": COUNT,
    "reward_interval": COUNT,
    "flip": SHARE,
    "rotate": Number(0),
    "zoom": Number(0, 0.9),
    "reward_weight": Number(0),
    "held_out": COUNT,
    "teacher_seed": Number(0, 2**32 - 1, whole=True),
    "feature_weight": Number(0),
    "tolerance": Number(0),
    "shown": COUNT,
    "tile_size": Number(16, 1024, whole=True),
    "false_alarms": SHARE,
    "membership_images": Number(2, whole=True),
    "membership_noises": COUNT,
    "dicomweb_timeout": Number(1e-3),
    "dicomweb_attempts": COUNT,
}
CHOICES = {
    "image_solver": tuple(STEPS),
    "augmentation": ("plain", "strong"),
    "keep": ("last", "best"),
    "inferer_mode": ("resize", "sliding"),
    "backend_precision": ("fp32", "bf16", "fp16"),
}
SWITCHES = (
    "compile",
    "file_names",
    "dry_run",
    "foreground_only",
    "weigh_confidence",
    "mlflow",
    "trial",
    "native_size",
    "whole_volumes",
    "real_images",
)


def check_limits(config: Mapping[str, Any]) -> None:
    """Refuse values that would fail deep inside a library, or be silently misread.

    For instance, the command line passes `--native_size false` as a text, which is true in Python.
    Expressions ("$...", "@...") are not checked.

    Raises:
        InputError: names the key and its valid values.
    """
    plain = {k: v for k, v in config.items() if not str(v).startswith(("$", "@"))}
    for key in plain.keys() & NUMBERS.keys():
        _require_number(key, plain[key], NUMBERS[key])
    for key in plain.keys() & set(SWITCHES):
        if not isinstance(plain[key], bool):
            raise InputError(
                f'config "{key}": {plain[key]!r} is neither true nor false; '
                "write true or false in JSON, True or False on the command line"
            )
    for key in plain.keys() & CHOICES.keys():
        if plain[key] not in CHOICES[key]:
            known = ", ".join(CHOICES[key])
            raise InputError(f'config "{key}": {plain[key]!r}; set one of {known}')


def _require_number(key: str, value: Any, limits: Number) -> None:
    kinds = int if limits.whole else (int, float)
    fits = isinstance(value, kinds) and not isinstance(value, bool)
    if fits and limits.low <= value <= limits.high:
        return
    kind = "whole number" if limits.whole else "number"
    low, high = limits.low, limits.high
    reach = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
    raise InputError(f'config "{key}": {value!r}; set a {kind} {reach}')


def require_size(image_size: Any, patch: int, channels: Sequence[int]) -> None:
    """Refuse an image size that a network cannot halve at each of its levels.

    Args:
        image_size: [X, Y], pixels.
        patch, channels: arguments of its `VelocityUNet`.

    Raises:
        InputError: not two whole numbers, or not divisible.
    """
    divisor = size_divisor(patch, channels)
    is_pair = isinstance(image_size, (list, tuple)) and len(image_size) == 2
    if not is_pair or not all(isinstance(n, int) and n > 0 for n in image_size):
        raise InputError(
            f'config "image_size": {image_size!r}; set two whole numbers, such as [64, 64]'
        )
    if any(n % divisor for n in image_size):
        nearest = [max(divisor, round(n / divisor) * divisor) for n in image_size]
        raise InputError(
            f'config "image_size": {list(image_size)} is not divisible by {divisor} (patch, and '
            f"{len(channels)} levels of the network); set {nearest}"
        )
