import pytest
import torch

from alignflow.device import Precision
from alignflow.flow.sampler import FlowSampler
from alignflow.inference.masks import MaskGenerator, mask_report
from alignflow.inference.noise import pair_noise
from alignflow.masks.conditions import describe
from alignflow.masks.postprocess import MaskPostprocess


def generator(record, network, **options):
    return MaskGenerator(
        stage1=record,
        sampler=FlowSampler(network, steps=network.steps, method="euler"),
        precision=Precision("cpu", "fp32"),
        device="cpu",
        **options,
    )


def first_pixel_positive(noise):
    return noise[:, 0, 0, 0] > 0


def test_masks_have_the_descriptions_of_training_masks(record, network):
    masks = generator(record, network(4), jitter_scale=0)(list(range(12)))
    assert masks.shape == (12, 1, 32, 32) and masks.dtype == torch.uint8
    assert masks.unique().tolist() == [0, 1]
    bank = torch.tensor(record.descriptions)
    distances = (describe(masks, 2)[:, None] - bank).abs().amax(dim=2)
    nearest = distances.min(dim=1)
    assert nearest.values.max() < 0.05
    assert len(nearest.indices.unique()) > 3


def test_jitter_makes_masks_that_no_training_mask_is(record, network):
    masks = generator(record, network(1), jitter_scale=0.05)(list(range(12)))
    exact = generator(record, network(1), jitter_scale=0)(list(range(12)))
    differences = (describe(masks, 2) - describe(exact, 2)).abs().mean(dim=0)
    assert (differences[1:] > 0.01).all() and (differences[1:] < 0.15).all()
    assert len(masks.unique(dim=0)) == 12


@pytest.mark.parametrize("spoilt", [None, first_pixel_positive])
def test_pair_k_is_the_same_alone_in_a_batch_and_in_another_order(record, network, spoilt):
    def masks(indices):
        drawer = network(1, spoilt) if spoilt else network(1)
        return generator(record, drawer, seed=3)(indices)

    together = masks(list(range(8)))
    assert torch.equal(together, torch.cat([masks([k]) for k in range(8)]))
    assert torch.equal(together, masks(list(range(8))[::-1]).flip(0))
    assert not torch.equal(together, generator(record, network(1), seed=4)(list(range(8))))


def test_rejected_masks_are_drawn_again_and_counted(record, network):
    draws = generator(record, network(1, first_pixel_positive), jitter_scale=0)
    masks = draws(list(range(20)))
    assert masks.flatten(1).any(dim=1).all()
    again = [
        next(a for a in range(10) if pair_noise(0, [k], "mask", (1, 32, 32), a)[0, 0, 0, 0] <= 0)
        for k in range(20)
    ]
    assert max(again) > 1
    assert mask_report([draws.pop_counts()]) == {
        "drawn": 20 + sum(again),
        "rejected": {"mask is empty; no training mask is empty": sum(again)},
        "rejection_rate": sum(again) / (20 + sum(again)),
        "taken_after_last_attempt": [],
    }


def test_last_attempt_is_taken_and_reported(record, network):
    draws = generator(record, network(1, lambda x: x[:, 0, 0, 0] == x[:, 0, 0, 0]), max_attempts=3)
    assert not draws([5, 2]).any()
    first = draws.pop_counts()
    draws([7])
    report = mask_report([first, draws.pop_counts()])
    assert report["drawn"] == 9 and report["rejection_rate"] == 1
    assert report["taken_after_last_attempt"] == [2, 5, 7]


def test_reasons_are_counted_without_their_numbers(record, network):
    descriptions = torch.tensor(record.descriptions)
    descriptions[:, 1] += 0.4  # areas 10^0.8 times as large
    rules = record.postprocess
    large = type(record)(**vars(record) | {"descriptions": descriptions.tolist()})
    draws = generator(large, network(1), max_attempts=2)
    draws(list(range(4)))
    assert large.postprocess is rules
    assert mask_report([draws.pop_counts()])["rejected"] == {"class 1: area": 8}


def test_cleaning_is_that_of_the_record(record, network):
    draws = generator(record, network(1))
    assert draws.postprocess == MaskPostprocess.from_dict(record.postprocess)
    raw = draws.draw([0, 1], attempt=0)
    cleaned = torch.stack([torch.from_numpy(draws.postprocess(m[0].numpy())[0])[None] for m in raw])
    assert torch.equal(draws([0, 1]), cleaned)


def test_without_draws_the_report_is_empty(record, network):
    report = mask_report([generator(record, network(1)).pop_counts()])
    assert report["drawn"] == 0 and report["rejection_rate"] == 0


def test_smoothing_takes_teeth_off_an_outline_and_leaves_the_half_plane(record, network):
    smooth = generator(record, network(4), smoothing=0.5).smooth
    x = torch.arange(-7.5, 8.0)
    plane = x.expand(1, 1, 16, 16)
    # every other pixel beside the edge is on the wrong side of it
    tooth = torch.where((torch.arange(16) % 2 == 0)[:, None] & (x == 0.5), -0.3, x)
    inside = slice(3, -3)  # away from the picture's border, where the filter meets zeros
    assert ((smooth(plane) > 0) == (plane > 0))[..., inside, inside].all()
    assert ((tooth > 0) != (plane > 0)).any()
    assert ((smooth(tooth.expand(1, 1, 16, 16)) > 0) == (plane > 0))[..., inside, inside].all()
