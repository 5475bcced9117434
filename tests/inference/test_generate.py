import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer

from alignflow.device import Precision
from alignflow.flow.sampler import FlowSampler, ImageSampler
from alignflow.inference.generate import GeneratePairs
from alignflow.inference.masks import MaskGenerator
from alignflow.inference.noise import pair_noise
from alignflow.inference.requests import PairRequests, collate
from alignflow.masks.distance import to_distance
from alignflow.networks.velocity import VelocityUNet

FP32 = Precision("cpu", "fp32")


@pytest.fixture(scope="module")
def sampler(record):
    torch.manual_seed(0)
    network = VelocityUNet(**record.image_network)
    for weight in network.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return ImageSampler(network, steps=2)


@pytest.fixture
def evaluate(record, network, sampler):
    def run(requests, batch_size=3, seed=0):
        masks = MaskGenerator(
            stage1=record,
            sampler=FlowSampler(network(1), steps=1, method="euler"),
            precision=FP32,
            device="cpu",
            seed=seed,
        )
        engine = SupervisedEvaluator(
            device="cpu",
            val_data_loader=DataLoader(requests, batch_size=batch_size, collate_fn=collate),
            network=sampler,
            inferer=SimpleInferer(),
            iteration_update=GeneratePairs(stage1=record, masks=masks, precision=FP32, seed=seed),
            decollate=False,
        )
        outputs = []
        engine.add_event_handler(
            Events.ITERATION_COMPLETED, lambda: outputs.append(engine.state.output)
        )
        engine.run()
        return outputs

    return run


@pytest.fixture
def labels():
    torch.manual_seed(0)
    return (torch.rand(3, 1, 32, 32) > 0.5).to(torch.uint8)


def test_image_is_that_of_its_mask_and_noise(record, sampler, evaluate, labels):
    requests = [{"index": k, "label": label} for k, label in enumerate(labels)]
    (output,) = evaluate(requests)
    assert output["index"] == [0, 1, 2] and torch.equal(output["label"], labels)
    distance = torch.stack([to_distance(label, 2) for label in labels])
    maps = torch.cat([labels == 0, labels == 1, distance], dim=1)
    x = torch.cat([pair_noise(0, range(3), "image", (1, 32, 32)), maps], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(output["image"], sampler(x))


def test_masks_are_drawn_where_none_are_given(record, evaluate):
    (output,) = evaluate(PairRequests(3, record))
    assert output["image"].shape == output["label"].shape == (3, 1, 32, 32)
    assert output["label"].flatten(1).any(dim=1).all()
    assert not output["image"].requires_grad


def test_pairs_do_not_depend_on_the_batch_size(record, evaluate):
    whole = evaluate(PairRequests(5, record), batch_size=5)
    parts = evaluate(PairRequests(5, record), batch_size=2)
    assert len(parts) == 3
    for key, tolerance in (("label", 0), ("image", 1e-5)):
        joined = torch.cat([output[key] for output in parts])
        torch.testing.assert_close(joined, whole[0][key], atol=tolerance, rtol=0)


def test_another_seed_gives_other_pairs(record, evaluate, labels):
    requests = [{"index": 0, "label": labels[0]}]
    first, second = (evaluate(requests, seed=seed)[0]["image"] for seed in (0, 1))
    assert (first - second).abs().max() > 0.1
