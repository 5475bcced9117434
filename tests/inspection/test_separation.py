import numpy as np
import pytest
import torch
from scipy.stats import energy_distance

from alignflow.inspection.separation import features, separation


def images(count, seed, gain=1.0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, 16, 16, generator=generator)
    level = torch.randn(count, 3, 1, 1, generator=generator)
    return (gain * (0.2 * noise + 0.2 * level)).clamp(-1, 1)


def test_the_distance_in_one_dimension_is_scipys():
    rng = np.random.default_rng(0)
    source, site = rng.normal(0, 1, 400), rng.normal(1.5, 0.5, 300)
    made = {"appearance": torch.from_numpy(source)[:, None].float()}
    found = separation(made, {"appearance": torch.from_numpy(site)[:, None].float()}, draws=20)
    # scipy's is the root, and pairs each value with itself as well
    expected = energy_distance(source, site) ** 2 / source.std(ddof=1)
    assert found["spaces"]["appearance"]["value"] == pytest.approx(expected, abs=0.02)


def test_images_of_the_source_lie_at_the_floor():
    source = features(images(120, 0))
    apart = [separation(source, features(images(10, seed)), draws=100) for seed in range(1, 21)]
    assert sum(found["apart"] for found in apart) <= 4  # expected: 1 in 20


@pytest.mark.parametrize("count", [1, 2, 10])
def test_another_contrast_lies_apart(count):
    found = separation(features(images(120, 0)), features(images(count, 1, gain=2.5)), draws=100)
    assert found["apart"] and found["images"] == count
    one = found["spaces"]["colour"]
    assert one["floor"] < one["floor_high"] < one["value"]
    if count < 3:
        assert one["low"] is None
    else:
        assert 0 < one["low"] < one["high"]


def test_the_interval_holds_the_distance_of_the_whole_site():
    source, site = features(images(200, 0)), images(300, 1, gain=1.5)
    truth = separation(source, features(site), draws=10)["spaces"]["appearance"]["value"]
    inside = 0
    for k in range(15):
        few = features(site[20 * k : 20 * k + 20])
        one = separation(source, few, draws=200)["spaces"]["appearance"]
        inside += one["low"] <= truth <= one["high"]
    assert inside >= 11
