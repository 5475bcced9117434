import json
from pathlib import Path

import pytest

from alignflow.inspection.disk import bytes_written, free, image_network

TRAIN = json.loads((Path(__file__).parents[2] / "bundle/configs/train.json").read_text())


def test_the_network_that_is_counted_is_that_of_training():
    arguments = image_network(TRAIN["network_def"], channels=3, classes=2)
    assert (arguments["data_channels"], arguments["condition_channels"]) == (3, 3)


def test_disk_grows_with_what_is_written(tmp_path):
    arguments = {"parameters": 10**6, "channels": 3, "image_size": [64, 64], "trains": True}
    whole = bytes_written(coupling=1000, pairs=5e6, **arguments)
    assert whole - bytes_written(coupling=1000, pairs=0, **arguments) == 5e6
    assert whole > bytes_written(coupling=0, pairs=5e6, **arguments)
    assert whole > bytes_written(coupling=1000, pairs=5e6, **arguments | {"trains": False})
    # weights, average and two moments of two flows in two checkpoints, three times
    checkpoints = 3 * 2 * 4 * 4 * 2 * 10**6
    assert checkpoints < bytes_written(coupling=0, pairs=0, **arguments) < 2 * checkpoints


def test_the_disk_of_a_folder_that_is_yet_to_be_made(tmp_path):
    assert free(tmp_path / "a/b/c") == pytest.approx(free(tmp_path), rel=0.05)
