import logging

import pytest
import torch
from monai.networks.nets import BasicUNet, FlexibleUNet, SegResNet, SwinUNETR, UNet
from torch import nn

from alignflow.alignment.features import EncoderFeatures
from alignflow.errors import InputError
from alignflow.networks.efficientnet import is_installed
from alignflow.networks.encoder_unet import EncoderUNet


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3, stride=2, padding=1)
    )


def test_features_are_mean_and_deviation_of_each_channel():
    net, x = network(), torch.randn(2, 3, 8, 8)
    found = EncoderFeatures(net, [0, 1])(x)
    first, last = net[1](net[0](x)), net(x)
    expected = [first.mean((2, 3)), last.mean((2, 3)), first.std((2, 3)), last.std((2, 3))]
    torch.testing.assert_close(found, torch.cat(expected, dim=1), atol=1e-4, rtol=1e-4)


def test_images_get_a_gradient_and_the_network_none():
    encoder, x = EncoderFeatures(network(), [1]), torch.randn(2, 3, 8, 8, requires_grad=True)
    encoder(x).sum().backward()
    assert x.grad is not None and all(p.grad is None for p in encoder.parameters())


def outputs(net, names, x):
    found = {}
    for name, module in net.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: found.__setitem__(name, o))
    net(x)
    return [found[name] for name in names]


@pytest.mark.parametrize(
    ("net", "names"),
    [
        (
            BasicUNet(2, 3, 2, features=(4, 4, 4, 4, 4, 4)),
            ["conv_0", "down_1", "down_2", "down_3", "down_4"],
        ),
        (
            SegResNet(2, in_channels=3, init_filters=8),
            ["down_layers.0", "down_layers.1", "down_layers.2"],
        ),
    ],
)
def test_levels_are_the_last_maps_of_the_way_down(net, names):
    net = net.eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = EncoderFeatures(net, list(range(len(names)))).maps(x)
        expected = outputs(net, names, x)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("net", "shapes"),
    [
        (UNet(2, 3, 2, channels=(4, 8, 16), strides=(2, 2)), [(4, 32), (8 + 16, 16)]),
        (FlexibleUNet(3, 2, "efficientnet-b0"), [(6 * 16, 32), (6 * 24, 16)]),
        (
            SwinUNETR(3, 2, feature_size=12, spatial_dims=2, depths=(1, 1, 1, 1)),
            [(12, 32), (24, 16)],
        ),
    ],
)
def test_levels_of_networks_that_stride_pad_or_gate(net, shapes):
    """Channels and sides of levels 1 and 2: an EfficientNet's block widens 6 times, then halves."""
    with torch.no_grad():
        maps = EncoderFeatures(net, [0, 1, 2]).maps(torch.randn(1, 3, 64, 64))
    found = [(m.shape[1], m.shape[2]) for m in maps]
    assert found == [shapes[0], *shapes], "no map has the image's size: level 1 stands in for it"


@pytest.mark.skipif(not is_installed(1), reason="needs the extra encoder")
def test_levels_of_a_network_that_enlarges_its_images():
    net = EncoderUNet(in_channels=3, out_channels=2, pretrained=False)
    with torch.no_grad():
        maps = EncoderFeatures(net, [0, 1, 2]).maps(torch.randn(1, 3, 64, 64))
    assert [(m.shape[1], m.shape[2]) for m in maps] == [(6 * 16, 64), (6 * 24, 32), (6 * 40, 16)]


def test_the_deepest_level_stands_in_for_those_that_are_missing(caplog):
    with caplog.at_level(logging.WARNING):
        maps = EncoderFeatures(network(), [1, 5]).maps(torch.randn(1, 3, 8, 8))
    assert torch.equal(*maps) and "has the levels [0, 1]" in caplog.text


@pytest.mark.parametrize("levels", [[], [-1], ["down_1"]])
def test_levels_are_numbers(levels):
    with pytest.raises(InputError, match="encoder_levels"):
        EncoderFeatures(network(), levels)
