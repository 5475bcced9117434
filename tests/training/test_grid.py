import numpy as np
import pytest
import torch
from datasets import slice_dataset
from ignite.engine import Engine
from PIL import Image

from alignflow.data.datalist import build_datalist
from alignflow.flow.sampler import FlowSampler
from alignflow.networks.velocity import VelocityUNet
from alignflow.training.grid import SampleGrid
from alignflow.training.targets import image_target, mask_target

SIZE = 16


@pytest.fixture
def dataset(png_dataset):
    return slice_dataset(build_datalist(str(png_dataset), None, None), [SIZE, SIZE])


def network(**options):
    torch.manual_seed(0)
    return VelocityUNet(channels=[32], attention_levels=[False], **options)


def draw(folder, dataset, sampler, name, target, size):
    grid = SampleGrid(
        directory=str(folder),
        name=name,
        sampler=sampler,
        dataset=dataset,
        target=target,
        device="cpu",
        size=size,
    )
    engine = Engine(lambda engine, batch: None)
    grid.attach(engine)
    engine.run([0], max_epochs=3)
    return np.asarray(Image.open(folder / f"{name}_epoch_0003.png"))


@pytest.mark.parametrize(("name", "rows"), [("image", 3), ("mask", 2)])
def test_one_picture_of_all_rows_and_the_same_again(dataset, tmp_path, name, rows):
    if name == "image":
        sampler = FlowSampler(network(data_channels=3, condition_channels=3), steps=2)
        target = image_target
    else:
        sampler = FlowSampler(network(data_channels=1, vector_size=5), steps=2)
        target = mask_target
    picture = draw(tmp_path / "a", dataset, sampler, name, target, 4)
    assert picture.shape == (2 * rows * (SIZE + 2), 2 * 8 * (SIZE + 2), 3)
    assert (picture == draw(tmp_path / "b", dataset, sampler, name, target, 4)).all()
    assert picture[:, : 2 * 4 * (SIZE + 2)].any() and not picture[:, 2 * 4 * (SIZE + 2) :].any()


def test_real_image_stands_in_the_first_row(dataset, tmp_path):
    sampler = FlowSampler(network(data_channels=3, condition_channels=3), steps=1)
    picture = draw(tmp_path, dataset, sampler, "image", image_target, 6)[::2, ::2]
    for k, item in enumerate(dataset.data):
        tile = picture[1 : SIZE + 1, k * (SIZE + 2) + 1 : (k + 1) * (SIZE + 2) - 1]
        inside = item["label"][0].numpy().T == 0  # no outline is drawn on the background
        expected = np.rint((item["image"].numpy().T + 1) * 127.5)
        np.testing.assert_allclose(tile[inside], expected[inside], atol=1)
