import pytest
import torch
from einops import rearrange

from alignflow.networks.velocity import VelocityUNet

SMALL = {"channels": [32, 64], "attention_levels": [False, True], "num_head_channels": 16}


def build(**options):
    torch.manual_seed(0)
    return VelocityUNet(**{"data_channels": 1} | SMALL | options).eval()


def perturbed(**options):
    """With weights as after some training: MONAI's last layer is zero at first."""
    network = build(**options)
    for weight in network.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return network


@torch.no_grad()
@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize(("data_channels", "condition_channels"), [(1, 3), (3, 5), (2, 0)])
def test_shape_and_zero_output_at_first(patch, data_channels, condition_channels):
    network = build(patch=patch, data_channels=data_channels, condition_channels=condition_channels)
    x = torch.randn(2, data_channels, 16, 24)
    condition = torch.randn(2, condition_channels, 16, 24) if condition_channels else None
    velocity = network(x, torch.rand(2), condition)
    assert velocity.shape == x.shape
    assert not velocity.any()


@torch.no_grad()
def test_time_is_not_floored():
    network = perturbed()
    x = torch.randn(1, 1, 8, 8)
    near, nearer = network(x, torch.tensor([0.5001])), network(x, torch.tensor([0.5004]))
    assert (near - nearer).abs().max() > 1e-4


@torch.no_grad()
def test_each_sample_has_its_own_time():
    network = perturbed()
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x, t), alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_condition_changes_the_output():
    network = perturbed(condition_channels=3)
    x, t = torch.randn(1, 1, 8, 8), torch.rand(1)
    given, dropped = (network(x, t, c) for c in (torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)))
    assert (given - dropped).abs().max() > 1e-2


@torch.no_grad()
def test_vector_adds_nothing_at_first_and_something_later():
    network = perturbed(vector_size=5)
    x, t, vector = torch.randn(2, 1, 8, 8), torch.rand(2), torch.randn(2, 5)
    difference = network(x, t, vector=vector) - network(x, t, vector=0 * vector)
    assert difference.abs().max() > 1e-2
    last = network.unet.class_embedding[-1]
    fresh = build(vector_size=5).unet.class_embedding[-1]
    last.load_state_dict(fresh.state_dict())
    assert torch.equal(network(x, t, vector=vector), network(x, t, vector=0 * vector))


@torch.no_grad()
@pytest.mark.parametrize("options", [{"condition_channels": 3}, {"vector_size": 5, "patch": 1}])
def test_arguments_rebuild_the_network(options):
    network = perturbed(**options)
    again = VelocityUNet(**network.arguments).eval()
    again.load_state_dict(network.state_dict(), strict=True)
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    condition = torch.randn(2, 3, 8, 8) if "condition_channels" in options else None
    vector = torch.randn(2, 5) if "vector_size" in options else None
    assert torch.equal(again(x, t, condition, vector), network(x, t, condition, vector))


@torch.no_grad()
@pytest.mark.parametrize("size", [(10, 8), (8, 10)])
def test_size_must_be_divisible(size):
    network = build()
    assert network.divisor == 4
    with pytest.raises(ValueError, match=r"\(.*10.*\) is not divisible by 4"):
        network(torch.randn(1, 1, *size), torch.rand(1))


@torch.no_grad()
def test_flash_attention_equals_math_attention():
    network = perturbed()
    x, t = torch.randn(2, 1, 16, 16), torch.rand(2)
    flash = network(x, t)
    attentions = [m for m in network.modules() if hasattr(m, "use_flash_attention")]
    assert any(m.use_flash_attention for m in attentions)
    for module in attentions:
        module.use_flash_attention = False
    torch.testing.assert_close(network(x, t), flash, atol=1e-5, rtol=0)


@torch.no_grad()
def test_patches_are_blocks_of_pixels():
    network = perturbed(data_channels=3, condition_channels=2, patch=4)
    x, condition, t = torch.randn(1, 3, 16, 24), torch.randn(1, 2, 16, 24), torch.rand(1)
    blocks = rearrange(
        torch.cat([x, condition], dim=1), "b c (x p) (y q) -> b (c p q) x y", p=4, q=4
    )
    velocity = network.unet(blocks, network.time_scale * t)
    expected = rearrange(velocity, "b (c p q) x y -> b c (x p) (y q)", p=4, q=4)
    torch.testing.assert_close(network(x, t, condition), expected, atol=1e-5, rtol=1e-5)
