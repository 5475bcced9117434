"""The random transform around the styles."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from alignflow.errors import InputError
from alignflow.segmentation.reference_style import RandReferenceStyled

REFERENCES = torch.stack([torch.full((1, 4, 4), value) for value in (-0.5, 0.0, 0.5)])


def items(transform, count=200):
    item = {"image": torch.ones(1, 4, 4), "label": torch.ones(1, 4, 4)}
    return [transform(item) for _ in range(count)]


def test_each_reference_is_drawn_and_labels_stay():
    transform = RandReferenceStyled("image", REFERENCES, ["histogram"], prob=1.0)
    transform.set_random_state(seed=0)
    changed = items(transform)
    values = torch.tensor([item["image"].mean() for item in changed])
    counts = [int((values == value).sum()) for value in (-0.5, 0.0, 0.5)]
    assert sum(counts) == 200 and min(counts) > 40
    assert all(torch.equal(item["label"], torch.ones(1, 4, 4)) for item in changed)


def test_prob_is_the_share_that_is_changed():
    transform = RandReferenceStyled("image", REFERENCES, prob=0.25)
    transform.set_random_state(seed=0)
    kept = sum(bool((item["image"] == 1).all()) for item in items(transform, 400))
    assert 0.68 < kept / 400 < 0.82


def test_changed_and_unchanged_items_collate():
    transform = RandReferenceStyled("image", MetaTensor(REFERENCES), ["fourier"], prob=0.5)
    transform.set_random_state(seed=0)
    found = [transform({"image": MetaTensor(torch.ones(1, 4, 4))})["image"] for _ in range(8)]
    assert {type(image) for image in found} == {torch.Tensor}
    assert 0 < sum(bool((image == 1).all()) for image in found) < 8


def test_seed_of_a_compose_fixes_the_draws():
    transform = Compose([RandReferenceStyled("image", REFERENCES, prob=0.5)])
    runs = []
    for _ in range(2):
        transform.set_random_state(seed=3)
        runs.append(torch.stack([item["image"] for item in items(transform, 20)]))
    assert torch.equal(*runs)


@pytest.mark.parametrize("styles", [[], ["cubism"]])
def test_unknown_styles_are_refused(styles):
    with pytest.raises(InputError, match='"styles".*histogram, fourier, convolution'):
        RandReferenceStyled("image", REFERENCES, styles)


def test_no_reference_is_refused():
    with pytest.raises(InputError, match="references: none"):
        RandReferenceStyled("image", REFERENCES[:0])
