import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import UNet
from torch import nn

from alignflow.errors import InputError
from alignflow.segmentation.network import (
    build_network,
    initialised,
    load_segmenter,
    load_weights,
    network_config,
    require_segmenter,
)

CONFIG = {
    "_target_": "monai.networks.nets.UNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8],
    "strides": [2],
}


class Record:
    segmenter = CONFIG


def test_the_config_is_resolved_wherever_it_comes_from():
    parser = ConfigParser(
        {
            "imports": ["$from alignflow.segmentation.network import network_config"],
            "data": {"channels": 1},
            "widths": [4, 8],
            "unet": CONFIG
            | {"in_channels": "$@data['channels']", "channels": "@widths", "strides": ["$1 + 1"]},
            "record": "$network_config('unet')",
        }
    )
    assert parser.get_parsed_content("record") == CONFIG
    assert isinstance(parser.get_parsed_content("unet"), UNet)


def test_outside_of_a_bundle():
    with pytest.raises(RuntimeError, match="not called from an expression"):
        network_config("network_def")


def test_weights_come_back(tmp_path):
    network = build_network(CONFIG, "here")
    torch.save(network.state_dict(), tmp_path / "segmenter.pt")
    loaded = load_segmenter(Record, tmp_path, "cpu")
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), network.eval()(x), rtol=0, atol=0)
    assert not loaded.training and loaded(x).shape == (2, 3, 16, 16)
    for init, model_dir in (("source", tmp_path), (str(tmp_path), tmp_path / "bundle")):
        other = initialised(build_network(CONFIG, "here"), init, model_dir)
        torch.testing.assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)
    with pytest.raises(InputError, match='set "init" to random, source or'):
        initialised(build_network(CONFIG, "here"), "sauce", tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "_target_"),
        ("UNet", "_target_"),
        (CONFIG | {"chanels": 3}, "cannot build a network.*chanels"),
        (CONFIG | {"channels": [4]}, "cannot build a network"),
        (CONFIG | {"in_channels": "$1"}, "expressions"),
        (CONFIG | {"_target_": "monai.networks.nets.NoSuchNet"}, "cannot be imported"),
        ({"_target_": "torch.Size"}, "is not in an allowed package"),
        ({"_target_": "torch.nn.Parameter"}, "is not a network"),
    ],
)
def test_configs_that_make_no_network(config, words):
    with pytest.raises(InputError, match=f"stage1.json: .*{words}") as caught:
        build_network(config, "stage1.json")
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "segmenter.pt"
    network = build_network(CONFIG, "here")
    with pytest.raises(InputError, match="no such file"):
        load_weights(network, path)
    path.write_bytes(b"text")
    with pytest.raises(InputError, match="not the weights of this network"):
        load_weights(network, path)
    torch.save(build_network(CONFIG | {"channels": [4, 16]}, "here").state_dict(), path)
    with pytest.raises(InputError, match="not the weights of this network") as caught:
        load_weights(network, path)
    assert "\n" not in str(caught.value)


def test_networks_that_make_no_class_maps():
    unet = build_network(CONFIG, "here").train()
    require_segmenter(unet, 1, 3, [16, 16])
    assert unet.training
    with pytest.raises(InputError, match=r"cannot take images of 2 channels and \[16, 16\]"):
        require_segmenter(unet, 2, 3, [16, 16])
    with pytest.raises(InputError, match=r"gives \(2, 3, 16, 16\).*\(2, 3, 16, 15\) is needed"):
        require_segmenter(unet, 1, 3, [16, 15])
    with pytest.raises(InputError, match=r"gives \(2, 3, 16, 16\).*\(2, 2, 16, 16\) is needed"):
        require_segmenter(unet, 1, 2, [16, 16])
    with pytest.raises(InputError, match="is needed"):
        require_segmenter(nn.Conv2d(1, 3, 3), 1, 3, [16, 16])
