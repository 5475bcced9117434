import pytest
import torch
from torch import nn

from alignflow.flow.ema import EMA


def walk(steps, decay):
    """A network whose weights move at random, its EMA, and the same average by hand."""
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    ema = EMA(network, decay)
    by_hand = None
    for n in range(steps):
        for weight in network.parameters():
            weight.data += torch.randn_like(weight)
        ema.update_parameters(network)
        d = min(decay, (1 + n) / (10 + n))
        current = [weight.detach().clone() for weight in network.parameters()]
        by_hand = (
            [d * a + (1 - d) * w for a, w in zip(by_hand, current, strict=True)]
            if by_hand
            else current
        )
    return network, ema, by_hand


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_equals_a_loop_by_hand(steps, decay):
    _, ema, by_hand = walk(steps, decay)
    for averaged, expected in zip(ema.module.parameters(), by_hand, strict=True):
        torch.testing.assert_close(averaged, expected)


def test_constant_weights_stay_what_they_are():
    network = nn.Linear(3, 2)
    ema = EMA(network, 0.99)
    for _ in range(20):
        ema.update_parameters(network)
    torch.testing.assert_close(ema.module.state_dict(), network.state_dict())


def test_limit_of_the_decay():
    """After the warm-up, the distance to weights that no longer move shrinks by `decay`."""
    network, ema, _ = walk(100, 0.9)
    gap = (ema.module.weight - network.weight).abs()
    ema.update_parameters(network)
    torch.testing.assert_close((ema.module.weight - network.weight).abs(), 0.9 * gap)


def test_state_dict_carries_weights_and_count():
    network, ema, _ = walk(5, 0.999)
    other = EMA(nn.Linear(3, 2), 0.999)
    other.load_state_dict(ema.state_dict())
    for average in (ema, other):
        network.weight.data.fill_(1.0)
        average.update_parameters(network)
    torch.testing.assert_close(other.state_dict(), ema.state_dict(), rtol=0, atol=0)


def test_is_not_trained():
    ema = EMA(nn.Linear(3, 2))
    assert not any(weight.requires_grad for weight in ema.parameters())
