import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from alignflow.alignment.features import EncoderFeatures
from alignflow.device import Precision
from alignflow.distillation.update import DistillUpdate, feature_loss
from alignflow.flow.ema import EMA
from alignflow.flow.solver import integrate


class Field(nn.Module):
    """v = a x + c: a velocity whose Euler steps are known."""

    def __init__(self, a=0.7):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, x, t, condition):
        return self.a * x + condition


def encoder():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 2, 3))
    return EncoderFeatures(network, ["0", "2"])


def update(network, **options):
    return DistillUpdate(precision=Precision("cpu", "fp32"), ema=EMA(network, 0.9), **options)


def batch(data, noise, condition):
    return {"noise": noise, "data": data, "condition": condition}


def samples(count=5):
    torch.manual_seed(1)
    return torch.randn(count, 1, 8, 8), 0.3 * torch.randn(count, 1, 8, 8)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_loss_is_zero_for_what_the_student_draws_itself(steps):
    noise, condition = samples()
    network = Field()
    data = integrate(
        lambda x, t: network(x, t, condition), noise, steps=steps, method="euler"
    ).detach()
    term = update(network, encoder=encoder(), feature_weight=1.0)
    term.steps = steps
    loss, values = term.losses(network, batch(data, noise, condition), "cpu")
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert values.keys() == {"loss", "pixels", "features"}
    term.steps = steps + 1
    assert term.losses(network, batch(data, noise, condition), "cpu")[0] > 1e-3


def test_pixels_are_hubers_loss_over_delta():
    """One Euler step from 0 ends at the condition: errors of .04 and .5, delta .1."""
    noise, error = torch.zeros(1, 1, 1, 2), torch.tensor([0.04, 0.5]).view(1, 1, 1, 2)
    loss, values = update(Field(), delta=0.1).losses(Field(), batch(0 * error, noise, error), "cpu")
    expected = (0.5 * 0.04**2 / 0.1 + (0.5 - 0.05)) / 2
    assert values["pixels"] == pytest.approx(expected)
    assert loss.item() == pytest.approx(expected)


def test_feature_loss_is_relative_and_has_no_gradient_in_the_teacher():
    made, data = (x.requires_grad_() for x in samples())
    loss = feature_loss(encoder(), made, data)
    loss.backward()
    assert made.grad.abs().sum() > 0 and data.grad is None
    linear = EncoderFeatures(nn.Sequential(nn.Conv2d(1, 3, 3, bias=False)), ["0"])
    assert feature_loss(linear, 1.25 * data, data).item() == pytest.approx(0.25, rel=1e-4)
    assert feature_loss(linear, 12.5 * data, 10 * data).item() == pytest.approx(0.25, rel=1e-4)


def test_training_finds_the_velocity_that_a_few_steps_need():
    """One step of v = a x must reach what exp(t) does in the end: a = e - 1."""
    noise, _ = samples(64)
    network = Field(0.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    term = update(network, delta=10.0)
    data, nothing = noise * torch.e, torch.zeros_like(noise)

    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=150,
        train_data_loader=[batch(data, noise, nothing)],
        network=network,
        optimizer=optimizer,
        loss_function=nn.HuberLoss(),
        iteration_update=term,
        decollate=False,
    )
    trainer.run()
    assert trainer.state.output["loss"] < 1e-4
    assert network.a.item() == pytest.approx(torch.e - 1, abs=0.02)
    assert term.ema.module.a.item() == pytest.approx(torch.e - 1, abs=0.05)
