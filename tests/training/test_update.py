from copy import deepcopy

import pytest
import torch
from ignite.metrics import Average
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from torch.nn.functional import mse_loss

from alignflow.device import Precision
from alignflow.training.targets import image_target
from alignflow.training.update import FlowValidation


def evaluator(network, dataset, seed=0):
    return SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(dataset, batch_size=4),
        network=network,
        inferer=SimpleInferer(),
        iteration_update=FlowValidation(
            target=image_target,
            loss_function=mse_loss,
            precision=Precision("cpu", "fp32"),
            seed=seed,
        ),
        key_val_metric={"loss": Average(output_transform=lambda output: output["loss"])},
        decollate=False,
    )


def held_out_loss(run, network, seed=0):
    engine = evaluator(network, Dataset(run.dataset.data), seed)
    engine.run()
    return engine.state.metrics["loss"]


def test_training_lowers_the_loss_of_network_and_average(build):
    run = build(epochs=3, steps=25)
    before = held_out_loss(run, run.network)
    run.trainer.run()
    # Data are a function of the mask, so that only the noise's part of v = x_1 - x_0 remains.
    assert before > 1.2
    assert held_out_loss(run, run.network) < 0.7 * before
    assert held_out_loss(run, run.ema.module) < 0.7 * before
    assert run.ema.n_averaged == 75


def test_first_loss_is_that_of_the_path(build, batch):
    """The network is zero at first, so that the loss is the mean of (x_1 - x_0)^2."""
    run = build()
    generator = run.update.generator.clone_state()
    torch.rand(4, generator=generator)  # dropout of conditions
    torch.randn(4, generator=generator)  # times
    noise = torch.randn(batch["image"].shape, generator=generator)
    loss = run.update(run.trainer, batch)["loss"]
    assert loss == pytest.approx((batch["image"] - noise).square().mean().item(), rel=1e-6)


def test_network_gets_the_point_of_the_path_and_its_time(build, batch):
    run = build(dropout=0)
    seen = []
    run.network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((*args, kwargs)), with_kwargs=True
    )
    generator = run.update.generator.clone_state()
    torch.rand(4, generator=generator)
    t = torch.sigmoid(torch.randn(4, generator=generator))
    noise = torch.randn(batch["image"].shape, generator=generator)
    run.update(run.trainer, batch)
    x_t, given_t, kwargs = seen[0]
    w = t.view(-1, 1, 1, 1)
    torch.testing.assert_close(x_t, (1 - w) * noise + w * batch["image"])
    torch.testing.assert_close(given_t, t)
    torch.testing.assert_close(kwargs, image_target(batch)[1])


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_condition_dropout(build, batch, dropout):
    run = build(dropout=dropout)
    seen = []
    run.network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["condition"].any().item()), with_kwargs=True
    )
    for _ in range(3):
        run.update(run.trainer, batch)
    assert seen == [dropout == 0] * 3


def test_state_makes_the_next_steps_the_same(build, batch):
    first, second = build(), build()
    first.update(first.trainer, batch)
    for name in ("network", "ema", "optimizer", "update"):
        getattr(second, name).load_state_dict(deepcopy(getattr(first, name).state_dict()))
    losses = [[run.update(run.trainer, batch)["loss"] for _ in range(3)] for run in (first, second)]
    assert losses[0] == losses[1]
    for name in ("network", "ema"):
        states = [getattr(run, name).state_dict() for run in (first, second)]
        torch.testing.assert_close(*states, rtol=0, atol=0)


def test_validation_uses_the_same_noise_at_every_call(build):
    run = build()
    first, again = (held_out_loss(run, run.network) for _ in range(2))
    assert first == again != held_out_loss(run, run.network, seed=1)


def test_validation_loss_of_the_zero_network(build):
    run = build()
    data = torch.stack([item["image"] for item in run.dataset.data]).split(4)
    noise = [
        torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(iteration))
        for iteration in (1, 2)
    ]
    expected = sum((x - n).square().mean() for x, n in zip(data, noise, strict=True)) / 2
    assert held_out_loss(run, run.network) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_autocast_changes_what_the_network_computes_in(build, batch, precision, dtype):
    run = build(precision=precision)
    seen = []
    run.network.unet.conv_in.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    run.update(run.trainer, batch)
    assert seen == [dtype]
    assert all(weight.dtype == torch.float32 for weight in run.network.parameters())


def test_bf16_learns_as_well(build):
    losses = {}
    for precision in ("fp32", "bf16"):
        run = build(epochs=2, steps=25, precision=precision)
        run.trainer.run()
        losses[precision] = held_out_loss(run, run.network)
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
