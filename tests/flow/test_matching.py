import pytest
import torch
from torch.nn.functional import l1_loss

from alignflow.flow.matching import flow_matching_loss


def batch(count=4096):
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(count, 1, 2, 2, generator=generator) * 2 - 1
    noise = torch.randn(data.shape, generator=generator)
    return noise, data, torch.rand(count, generator=generator) * 0.98


def test_velocity_of_the_path_has_no_loss():
    """v = (x_1 - x_t) / (1 - t) on a straight line."""
    noise, data, t = batch(64)

    def exact(x, t):
        return (data - x) / (1 - t).view(-1, 1, 1, 1)

    assert flow_matching_loss(exact, noise, data, t, {}).item() < 1e-6


def test_no_velocity_costs_noise_and_data():
    """E|x_1 - x_0|^2 = 1 + E|x_1|^2 = 1 + 1/3 for data uniform in [-1, 1]."""
    noise, data, t = batch()
    loss = flow_matching_loss(lambda x, t: 0 * x, noise, data, t, {})
    assert loss.item() == pytest.approx(4 / 3, rel=0.02)


def test_loss_is_in_float32_and_of_the_users_choice():
    noise, data, t = batch(64)
    condition = {"vector": torch.ones(64, 1)}

    def network(x, t, vector):
        return (vector.view(-1, 1, 1, 1) * torch.ones_like(x)).bfloat16()

    loss = flow_matching_loss(network, noise, data, t, condition, l1_loss)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((data - noise - 1).abs().mean().item())
