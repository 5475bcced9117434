"""Test-time adaptation against the statistics of the data, and on a shifted toy."""

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from alignflow.baselines.test_time import adapt_batch_norm, adapt_by_entropy, entropy
from alignflow.errors import InputError


def images(count=10, shift=0.5):
    generator = torch.Generator().manual_seed(0)
    return torch.randn((count, 2, 8, 8), generator=generator) * 0.3 + shift


def unet(norm="batch"):
    torch.manual_seed(0)
    return UNet(2, 2, 2, channels=(4, 8), strides=(2,), norm=norm).eval()


def test_first_norms_statistics_are_those_of_the_images():
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    data = images()
    norm = adapt_batch_norm(network, data)[0]
    assert torch.allclose(norm.running_mean, data.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(norm.running_var, data.var((0, 2, 3)), rtol=1e-5)
    assert torch.equal(network[0].running_mean, torch.zeros(2))


def test_batches_weigh_the_same_and_source_weight_mixes():
    data = images()
    norm = adapt_batch_norm(nn.Sequential(nn.BatchNorm2d(2)).eval(), data, batch_size=6)
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    norm = adapt_batch_norm(network, data, batch_size=6)[0]  # two batches of 5
    assert torch.allclose(norm.running_mean, data.mean((0, 2, 3)), atol=1e-6)
    mixed = adapt_batch_norm(network, data, source_weight=0.75)[0]
    assert torch.allclose(mixed.running_mean, data.mean((0, 2, 3)) / 4, atol=1e-6)
    variance = 0.75 + data.var((0, 2, 3)) / 4
    assert torch.allclose(mixed.running_var, variance, rtol=1e-5)


def test_adapted_network_gives_what_batch_statistics_give():
    network, data = unet(), images()
    adapted = adapt_batch_norm(network, data)
    with torch.no_grad():
        expected = unet().train()(data)
        assert not adapted.training
        assert torch.allclose(adapted(data), expected, atol=0.05)
        assert not torch.allclose(network(data), expected, atol=0.05)


def test_entropy_of_known_distributions():
    sure = torch.tensor([0.0, 100.0]).view(1, 2, 1, 1)  # (1, K, X, Y)
    flat = torch.log(torch.tensor([0.25, 0.75])).view(1, 2, 1, 1)
    value = -(0.25 * torch.log(torch.tensor(0.25)) + 0.75 * torch.log(torch.tensor(0.75)))
    assert torch.allclose(entropy(flat), value.view(1, 1, 1))
    assert entropy(sure).abs().max() < 1e-6
    assert torch.allclose(entropy(torch.zeros(1, 4, 1, 1)), torch.tensor(4.0).log())


def test_tent_lowers_the_entropy_by_norm_parameters_alone():
    network, data = unet(), images()
    network.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plain = adapt_batch_norm(network, data)
    adapted = adapt_by_entropy(network, data, steps=20, learning_rate=1e-2)
    with torch.no_grad():
        assert entropy(adapted(data)).mean() < entropy(plain(data)).mean() - 0.01
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    norms = {
        f"{name}.{part}"
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    changed = {n for n, p in adapted.named_parameters() if not torch.equal(before[n], p)}
    assert changed == norms
    assert not any(p.requires_grad or p.grad is not None for p in adapted.parameters())


def test_tent_repeats_by_its_seed():
    network, data = unet(), images(40)
    runs = [adapt_by_entropy(network, data, steps=3, seed=seed) for seed in (0, 0, 1)]
    weights = [torch.cat([p.detach().flatten() for p in run.parameters()]) for run in runs]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_tent_adapts_instance_norms_too():
    network, data = unet(("instance", {"affine": True})), images()
    adapted = adapt_by_entropy(network, data, steps=20, learning_rate=1e-2)
    with torch.no_grad():
        assert entropy(adapted(data)).mean() < entropy(network(data)).mean() - 0.01


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="no batch norm to adapt .it has InstanceNorm2d"):
        adapt_batch_norm(unet("instance"), images())
    for adapt in (adapt_batch_norm, adapt_by_entropy):
        with pytest.raises(InputError, match="images: none"):
            adapt(unet(), images(0))
    with pytest.raises(InputError, match="scale and shift"):
        adapt_by_entropy(unet(("batch", {"affine": False})), images())
