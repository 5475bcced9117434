import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from alignflow.alignment.features import EncoderFeatures
from alignflow.device import Precision
from alignflow.distillation.loss import StudentLoss, feature_loss
from alignflow.distillation.methods import Progressive, unrolled
from alignflow.distillation.update import DistillUpdate
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
    return EncoderFeatures(network, [0, 1])


class EndPoints(nn.Module):
    """A student trained on what it is judged by: plain regression."""

    def forward(self, *lesson):
        return unrolled(*lesson)


def update(network, method=None, **options):
    return DistillUpdate(
        method=method or EndPoints(),
        loss=StudentLoss(**options),
        precision=Precision("cpu", "fp32"),
        ema=EMA(network, 0.9),
    )


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
    values = term.errors(network, batch(data, noise, condition), "cpu")
    assert values["loss"] == pytest.approx(0, abs=1e-6)
    assert values.keys() == {"loss", "pixels", "features"}
    term.steps = steps + 1
    assert term.errors(network, batch(data, noise, condition), "cpu")["loss"] > 1e-3


def test_pixels_are_hubers_loss_over_delta():
    """One Euler step from 0 ends at the condition: errors of .04 and .5, delta .1."""
    noise, error = torch.zeros(1, 1, 1, 2), torch.tensor([0.04, 0.5]).view(1, 1, 1, 2)
    given = batch(0 * error, noise, error)
    values = update(Field(), delta=0.1).errors(Field(), given, "cpu")
    expected = (0.5 * 0.04**2 / 0.1 + (0.5 - 0.05)) / 2
    assert values["pixels"] == pytest.approx(expected)
    assert values["loss"] == pytest.approx(expected)


def test_feature_loss_is_relative_and_has_no_gradient_in_the_teacher():
    prediction, data = (x.requires_grad_() for x in samples())
    loss = feature_loss(encoder(), prediction, data)
    loss.backward()
    assert prediction.grad.abs().sum() > 0 and data.grad is None
    linear = EncoderFeatures(nn.Sequential(nn.Conv2d(1, 3, 3, bias=False)), [0])
    assert feature_loss(linear, 1.25 * data, data).item() == pytest.approx(0.25, rel=1e-4)
    assert feature_loss(linear, 12.5 * data, 10 * data).item() == pytest.approx(0.25, rel=1e-4)


def train(network, term, batches, epochs):
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=batches,
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=0.05),
        loss_function=nn.HuberLoss(),
        iteration_update=term,
        decollate=False,
    )
    trainer.run()
    return trainer.state.output["loss"]


def test_training_finds_the_velocity_that_a_few_steps_need():
    """One step of v = a x must reach what exp(t) does in the end: a = e - 1."""
    noise, _ = samples(64)
    network = Field(0.0)
    term = update(network, delta=10.0)
    data, nothing = noise * torch.e, torch.zeros_like(noise)
    assert train(network, term, [batch(data, noise, nothing)], 150) < 1e-4
    assert network.a.item() == pytest.approx(torch.e - 1, abs=0.02)
    assert term.ema.module.a.item() == pytest.approx(torch.e - 1, abs=0.05)


def test_scale_multiplies_errors_in_pixels():
    prediction, target = samples()
    scale = torch.rand(len(prediction), 1, 1, 1)
    loss, values = StudentLoss(delta=1e-6)(prediction, target, scale)
    assert values["pixels"] == pytest.approx(
        (scale * (prediction - target)).abs().mean().item(), rel=1e-4
    )
    assert loss.item() == pytest.approx(values["loss"])


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_progressive_wants_the_end_of_the_shorter_steps(steps):
    """v = a x grows by 1 + a / 8 in each of eight steps, whatever the time."""
    a, (noise, data) = 0.7, samples(64)
    method = Progressive(Field(a), steps=8)
    method.begin(steps, Field(a))
    student = Field(0.0)
    prediction, target, scale = method(student, noise, data, {"condition": 0 * noise}, steps)
    rest = 1 / scale
    grown = (1 + a / 8) ** (8 // steps)
    torch.testing.assert_close(target, prediction * (1 + rest * steps * (grown - 1)))
    times = sorted({round(1 - r, 6) for r in rest.flatten().tolist()})
    assert times == pytest.approx([k / steps for k in range(steps)])


def test_progressive_at_its_teachers_steps_wants_nothing_else():
    noise, data = samples()
    method = Progressive(Field(), steps=4)
    method.begin(4, Field())
    prediction, target, _ = method(Field(), noise, data, {"condition": noise}, 4)
    torch.testing.assert_close(prediction, target)


def test_states_of_progressive_lie_on_the_path_with_new_noise():
    """With a teacher that stands still, the targets are the states themselves."""
    noise, data = torch.zeros(2000, 1, 2, 2), torch.full((2000, 1, 2, 2), 3.0)
    method = Progressive(Field(0.0), steps=2)
    states = method(Field(0.0), noise, data, {"condition": 0 * noise}, 2)
    x, t = states[1], 1 - 1 / states[2].flatten()
    late = x[t == 0.5]
    assert late.mean().item() == pytest.approx(1.5, abs=0.05)
    assert late.std().item() == pytest.approx(0.5, abs=0.05)
    assert x[t == 0].std().item() == pytest.approx(1.0, abs=0.05)


def test_progressive_phases_hand_over_from_student_to_student():
    """Four steps of eighths, then one of these: a student of one step ends where eight did."""
    a, (noise, data) = 0.7, samples(32)
    network = Field(a)
    term = update(network, Progressive(Field(a), steps=8), delta=10.0)
    given = [batch(data, noise, torch.zeros_like(noise))]
    for steps in (4, 1):
        term.steps = steps
        term.begin(steps)
        train(network, term, given, 150)
    assert network.a.item() == pytest.approx((1 + a / 8) ** 8 - 1, abs=0.02)


def test_progressive_resumes_with_its_teacher_and_noise():
    noise, data = samples()
    given = (noise, data, {"condition": noise}, 2)
    method = Progressive(Field(0.7), steps=8, guidance=2.0)
    method.begin(2, Field(0.3))
    method.begin(1, Field(0.3))
    other = Progressive(Field(0.1), steps=16)
    other.load_state_dict(method.state_dict())
    assert other.before_steps == 2 and other.guidance == 1.0
    for mine, again in zip(method(Field(), *given), other(Field(), *given), strict=True):
        torch.testing.assert_close(mine, again)
