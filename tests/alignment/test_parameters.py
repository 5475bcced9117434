import pytest
import torch

from alignflow.alignment.parameters import choose_parameters, plain_state
from alignflow.errors import InputError
from alignflow.networks.velocity import VelocityUNet


def network():
    torch.manual_seed(0)
    net = VelocityUNet(
        data_channels=1, condition_channels=1, channels=[32, 32], attention_levels=[False, True]
    )
    for parameter in net.parameters():  # MONAI's last convolution begins at zero
        torch.nn.init.normal_(parameter, std=0.05)
    return net


def run(net):
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return net(x, torch.tensor([0.2, 0.7]), condition=x)


def test_modulation_is_a_small_share_without_convolutions():
    net = network()
    chosen = choose_parameters(net, "modulation")
    share = sum(p.numel() for p in chosen) / sum(p.numel() for p in net.parameters())
    assert 0 < share < 0.3
    kernels = [p for p in chosen if p.ndim == 4]
    assert not kernels


def test_all_trains_everything():
    net = network()
    assert len(choose_parameters(net, "all")) == len(list(net.parameters()))


def test_low_rank_starts_as_the_same_network_and_merges_into_a_plain_one():
    net = network()
    before, keys = run(net), set(net.state_dict())
    chosen = choose_parameters(net, "lora", rank=2)
    torch.testing.assert_close(run(net), before)
    with torch.no_grad():
        for parameter in chosen:
            parameter.add_(torch.randn_like(parameter) * 0.02)
    changed = run(net)
    assert not torch.allclose(changed, before, atol=1e-4)
    merged = network()
    assert set(plain_state(net)) == keys
    merged.load_state_dict(plain_state(net))
    torch.testing.assert_close(run(merged), changed)
    torch.testing.assert_close(run(net), changed)  # and goes on with its updates


def test_low_rank_update_has_the_rank_it_is_given():
    net = network()
    name = "unet.down_blocks.0.resnets.0.conv1.conv"
    before = dict(net.named_modules())[name].weight.detach().clone()
    for parameter in choose_parameters(net, "lora", rank=2):
        torch.nn.init.normal_(parameter)
    update = plain_state(net)[f"{name}.weight"] - before
    assert torch.linalg.matrix_rank(update.flatten(1), rtol=1e-4) == 2


def test_unknown_subset_is_refused():
    with pytest.raises(InputError, match="parameters"):
        choose_parameters(network(), "some")
