"""A trainer as the configs build it, on eight discs of 8 x 8 pixels."""

from types import SimpleNamespace

import pytest
import torch
from ignite.metrics import Average
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.transforms import Compose, RandFlipd

from alignflow.device import Precision
from alignflow.flow.ema import EMA
from alignflow.flow.time import logit_normal_time
from alignflow.masks.distance import to_distance
from alignflow.networks.velocity import VelocityUNet
from alignflow.training.checkpoint import ExactResume
from alignflow.training.epochs import EpochSampler, EpochSeed
from alignflow.training.targets import image_target
from alignflow.training.update import FlowUpdate


def small_network():
    torch.manual_seed(0)
    return VelocityUNet(
        data_channels=1, condition_channels=3, channels=[32], attention_levels=[False]
    )


def item(number):
    """A bright disc, larger for higher numbers and away from the middle."""
    x, y = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    label = ((x - 3) ** 2 + (y - 4) ** 2 <= 1 + number).to(torch.uint8)[None]
    return {"image": label * 1.5 - 0.8, "label": label, "distance": to_distance(label, 2)}


def make_trainer(
    directory=None, epochs=2, steps=3, dropout=0.1, precision="fp32", handlers=(), num_workers=0
):
    """Everything a config holds for one flow; resumes from `directory` if one is given."""
    network = small_network()
    ema = EMA(network, 0.99)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=50)
    update = FlowUpdate(
        target=image_target,
        sample_time=logit_normal_time,
        precision=Precision("cpu", precision),
        ema=ema,
        condition_dropout=dropout,
    )
    flips = Compose([RandFlipd(["image", "label", "distance"], prob=0.5, spatial_axis=0)])
    dataset = Dataset([item(number) for number in range(8)], flips)
    sampler = EpochSampler(len(dataset), draws=4 * steps)
    objects = {"network": network, "ema": ema, "optimizer": optimizer, "lr_scheduler": schedule}
    resume = ExactResume(
        str(directory), "image", objects | {"update": update}, 1, {"seed": 0, "steps": steps}
    )
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        epoch_length=steps,
        train_data_loader=DataLoader(
            dataset, batch_size=4, sampler=sampler, num_workers=num_workers
        ),
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.MSELoss(),
        inferer=SimpleInferer(),
        iteration_update=update,
        key_train_metric={"loss": Average(output_transform=lambda output: output["loss"])},
        metric_cmp_fn=lambda current, best: current < best,
        train_handlers=[*([resume] if directory else []), EpochSeed(sampler, flips), *handlers],
        decollate=False,
    )
    return SimpleNamespace(
        trainer=trainer, update=update, sampler=sampler, dataset=dataset, resume=resume, **objects
    )


@pytest.fixture
def build():
    return make_trainer


@pytest.fixture
def batch():
    return torch.utils.data.default_collate([item(number) for number in range(4)])
