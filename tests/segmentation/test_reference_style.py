"""The random transform around the styles."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from alignflow.errors import InputError
from alignflow.segmentation.data import Pairs
from alignflow.segmentation.reference_style import RandReferenceStyled, has_same_contrast

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


def cells(foreground, background, count=4):
    """Images with a square of class 1, in noise of a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for k in range(count):
        label = torch.zeros(1, 16, 16, dtype=torch.uint8)
        label[:, 4 : 9 + k, 3:11] = 1
        noise = 0.1 * torch.randn(3, 16, 16, generator=generator)
        found.append(
            {"image": torch.where(label == 1, foreground, background) + noise, "label": label}
        )
    return found


def test_styles_of_references_need_the_same_contrast(caplog):
    """Fluorescence has bright nuclei, stained tissue dark ones: a style would swap them."""
    bright, brighter, dark = cells(0.5, -0.9), cells(0.9, 0.2), cells(-0.6, 0.4)
    assert has_same_contrast(bright, brighter) and not caplog.text
    assert not has_same_contrast(bright, dark)
    assert "opposite contrast" in caplog.text
    for site, left in ((brighter, ["histogram", "convolution"]), (dark, ["convolution"])):
        style = RandReferenceStyled("image", REFERENCES, ["histogram", "convolution"])
        Pairs(bright, site=site, style=style)
        assert style.styles == left
    style = RandReferenceStyled("image", REFERENCES, ["fourier"], prob=1.0)
    pairs = Pairs(bright, site=dark, style=style)
    assert torch.equal(pairs[0]["image"], bright[0]["image"])
