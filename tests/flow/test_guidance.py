import pytest
import torch
from torch import nn

from alignflow.flow.guidance import drop_condition, guided_velocity


class Toy(nn.Module):
    """A velocity that depends on state, time and both conditions, not linearly."""

    def forward(self, x, t, condition, vector):
        terms = condition.square() + torch.sin(vector).view(-1, 1, 1, 1)
        return torch.tanh(x) * t.view(-1, 1, 1, 1) + terms


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    x, condition = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64).unbind()
    t, vector = torch.rand(2, 3, dtype=torch.float64).unbind()
    return x, t, {"condition": condition, "vector": vector[:, None]}


def test_weight_one_is_the_conditional_velocity(inputs):
    x, t, condition = inputs
    assert torch.equal(guided_velocity(Toy(), condition, 1)(x, t), Toy()(x, t, **condition))


def test_weight_zero_is_the_unconditional_velocity(inputs):
    x, t, condition = inputs
    dropped = {name: torch.zeros_like(c) for name, c in condition.items()}
    assert torch.equal(guided_velocity(Toy(), condition, 0)(x, t), Toy()(x, t, **dropped))


@pytest.mark.parametrize("weight", [-0.5, 0.3, 1.5, 4.0])
def test_linear_in_the_weight(inputs, weight):
    x, t, condition = inputs
    given, dropped = (guided_velocity(Toy(), condition, w)(x, t) for w in (1, 0))
    guided = guided_velocity(Toy(), condition, weight)(x, t)
    torch.testing.assert_close(guided, dropped + weight * (given - dropped))


def test_no_condition_needs_no_guidance():
    x, t = torch.randn(2, 1, 4, 4), torch.rand(2)
    velocity = guided_velocity(lambda x, t: 2 * x, {}, 3.0)
    assert torch.equal(velocity(x, t), 2 * x)


def test_drops_all_tensors_of_a_sample_together():
    condition = {"condition": torch.ones(20, 1, 2, 2), "vector": torch.ones(20, 3)}
    chosen = torch.arange(20) % 3 == 0
    dropped = drop_condition(condition, chosen)
    keep = dropped["vector"][:, 0]
    assert torch.equal(keep, 1 - chosen.float())
    assert torch.equal(dropped["vector"], keep[:, None].expand(-1, 3))
    assert torch.equal(dropped["condition"], keep.view(-1, 1, 1, 1).expand(-1, 1, 2, 2))


def test_drops_nothing_and_everything():
    condition = {"vector": torch.randn(50, 3)}
    none = torch.zeros(50, dtype=torch.bool)
    assert torch.equal(drop_condition(condition, none)["vector"], condition["vector"])
    assert not drop_condition(condition, ~none)["vector"].any()
    assert drop_condition({}, none) == {}
