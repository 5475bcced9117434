import logging
from dataclasses import replace

import pytest
import torch
from monai.data import Dataset

from alignflow.alignment.gap import appearance_gap, source_appearance
from alignflow.data.references import References


def images(n, seed, brightness=0.0):
    generator = torch.Generator().manual_seed(seed)
    return (0.3 * torch.randn(n, 3, 16, 16, generator=generator) + brightness).clamp(-1, 1)


def references(pixels):
    plain = {"shape": [16, 16], "affine": None}
    names = [str(i) for i in range(len(pixels))]
    return References(pixels, None, [False] * len(pixels), names, [plain] * len(pixels))


@pytest.fixture
def source(record):
    items = [{"image": image} for image in images(60, 0)]
    return replace(record, appearance=source_appearance(Dataset(items), most=40))


def test_bundle_remembers_as_many_images_as_asked(source):
    assert len(source.appearance) == 40
    assert len({len(row) for row in source.appearance}) == 1


@pytest.mark.parametrize("n", [1, 3, 10])
def test_another_site_is_told_from_the_source(source, caplog, n):
    with caplog.at_level(logging.WARNING):
        found = appearance_gap(source, references(images(n, 1, brightness=0.3)))
    assert found["gap"] > 2 * found["floor"] and "nothing to align" not in caplog.text


@pytest.mark.parametrize("n", [1, 10])
def test_source_images_as_references_are_noticed(source, caplog, n):
    """Most draws of them: the floor is a 95% quantile."""
    draws = [references(part) for part in images(60, 0).split(n)]
    with caplog.at_level(logging.WARNING):
        found = [appearance_gap(source, one) for one in draws]
    below = [one["gap"] <= one["floor"] for one in found]
    assert sum(below) >= 0.8 * len(draws) and caplog.text.count("nothing to align") == sum(below)
