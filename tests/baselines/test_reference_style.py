"""The random transform around the styles."""

from functools import partial

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose

from alignflow.baselines.fda import fourier_style
from alignflow.baselines.reference_style import RandReferenceStyled
from alignflow.errors import InputError

REFERENCES = torch.stack([torch.full((1, 4, 4), value) for value in (-0.5, 0.0, 0.5)])


def replace(image, reference):
    return reference


def items(transform, count=200):
    item = {"image": torch.ones(1, 4, 4), "label": torch.ones(1, 4, 4)}
    return [transform(item) for _ in range(count)]


def test_each_reference_is_drawn_and_labels_stay():
    transform = RandReferenceStyled("image", REFERENCES, replace)
    transform.set_random_state(seed=0)
    changed = items(transform)
    values = torch.tensor([item["image"].mean() for item in changed])
    counts = [int((values == value).sum()) for value in (-0.5, 0.0, 0.5)]
    assert sum(counts) == 200 and min(counts) > 40
    assert all(torch.equal(item["label"], torch.ones(1, 4, 4)) for item in changed)


def test_prob_is_the_share_that_is_changed():
    transform = RandReferenceStyled("image", REFERENCES, replace, prob=0.25)
    transform.set_random_state(seed=0)
    kept = sum(item["image"].mean() == 1 for item in items(transform, 400))
    assert 0.68 < kept / 400 < 0.82


def test_changed_and_unchanged_items_collate():
    transform = RandReferenceStyled("image", MetaTensor(REFERENCES), replace, prob=0.5)
    transform.set_random_state(seed=0)
    found = [transform({"image": MetaTensor(torch.ones(1, 4, 4))})["image"] for _ in range(8)]
    assert {type(image) for image in found} == {torch.Tensor}
    assert 0 < sum(bool(image.mean() == 1) for image in found) < 8


def test_seed_of_a_compose_fixes_the_draws():
    transform = Compose([RandReferenceStyled("image", REFERENCES, replace, prob=0.5)])
    runs = []
    for _ in range(2):
        transform.set_random_state(seed=3)
        runs.append(torch.stack([item["image"] for item in items(transform, 20)]))
    assert torch.equal(*runs)


def test_config_gives_the_style_its_strength():
    parser = ConfigParser(
        {
            "references": REFERENCES,
            "transform": {
                "_target_": "alignflow.baselines.reference_style.RandReferenceStyled",
                "keys": "image",
                "references": "@references",
                "style": {
                    "_target_": "alignflow.baselines.fda.fourier_style",
                    "_mode_": "callable",
                    "beta": 0.01,
                },
            },
        }
    )
    transform = parser.get_parsed_content("transform")
    assert isinstance(transform.style, partial) and transform.style.func is fourier_style
    transform.set_random_state(seed=0)
    image = transform({"image": torch.ones(1, 4, 4)})["image"]
    assert torch.allclose(image, REFERENCES[transform.chosen], atol=1e-6)


def test_no_reference_is_refused():
    with pytest.raises(InputError, match="references: none"):
        RandReferenceStyled("image", REFERENCES[:0], replace)
