"""Settings of the bundle's configs: what is refused, and that what stands there is not."""

import json
from pathlib import Path

import pytest

from alignflow.errors import InputError
from alignflow.limits import CHOICES, NUMBERS, SWITCHES, check_limits, require_size
from alignflow.networks.velocity import VelocityUNet

CONFIGS = Path(__file__).parents[1] / "bundle/configs"
SHIPPED = [
    json.loads(path.read_text())
    for path in sorted(CONFIGS.glob("*.json"))
    if path.stem != "metadata"
]


@pytest.mark.parametrize("config", SHIPPED)
def test_what_stands_in_the_configs_is_within_limits(config):
    check_limits(config)


def test_every_limit_is_that_of_a_setting():
    assert {*NUMBERS, *SWITCHES, *CHOICES} <= set().union(*SHIPPED)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("batch_size", True),
        ("batch_size", None),
        ("batch_size", "many"),
        ("learning_rate", -1e-4),
        ("learning_rate", float("nan")),
        ("ema_decay", 1.01),
        ("seed", -1),
        ("seed", 2**32),
        ("native_size", "false"),
        ("native_size", 1),
        ("image_solver", "rk4"),
        ("keep", None),
        ("synthetic_share", 1.5),
    ],
)
def test_values_out_of_limits_are_named(key, value):
    with pytest.raises(InputError, match=f'config "{key}": ') as caught:
        check_limits({"other": 1, key: value})
    assert repr(value) in str(caught.value)


def test_expressions_are_left_alone():
    check_limits({"batch_size": "@other", "learning_rate": "$3e-4 / 2", "solver": "@method"})


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("patch", [1, 2])
def test_sizes_are_those_that_the_network_takes(patch, levels):
    channels = [32] * levels
    network = VelocityUNet(
        data_channels=1, patch=patch, channels=channels, attention_levels=[False] * levels
    )
    for size in range(1, 33):
        if size % network.divisor == 0:
            require_size([size, 2 * size], patch, channels)
        else:
            with pytest.raises(InputError, match=f"not divisible by {network.divisor}"):
                require_size([32, size], patch, channels)


def test_the_nearest_size_is_named():
    with pytest.raises(InputError, match=r"set \[8, 72\]"):
        require_size((3, 70), 2, [32, 32, 32])


@pytest.mark.parametrize("size", [64, "64", [64], [64, 64, 64], [64.0, 64], [0, 0], None])
def test_sizes_that_are_none(size):
    with pytest.raises(InputError, match="two whole numbers"):
        require_size(size, 2, [32, 32])
