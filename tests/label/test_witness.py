import itertools
import json
import math

import pytest
import torch

from alignflow.alignment.distance import energy, linear, mmd2, rbf, witness
from alignflow.alignment.reward import SetReward
from alignflow.label.witness import file_scores, save_witness, site_witness


def gaussian(a, b, width=1.5):
    return math.exp(-sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / (2 * width**2))


def double_loop(site, synthetic, kernel):
    """mean_k(x, other site images) - mean_k(x, synthetic), written out."""
    scores = []
    for i, x in enumerate(site):
        own = [kernel(x, y) for j, y in enumerate(site) if j != i]
        drawn = [kernel(x, y) for y in synthetic]
        scores.append(sum(own) / len(own) - sum(drawn) / len(drawn))
    return scores


def test_the_witness_is_the_difference_of_mean_kernels():
    torch.manual_seed(0)
    site, synthetic = torch.randn(7, 3).double(), torch.randn(5, 3).double() + 0.5
    expected = double_loop(site.tolist(), synthetic.tolist(), gaussian)
    found = witness(site, synthetic, rbf([1.5]))
    torch.testing.assert_close(found, torch.tensor(expected).double())


@pytest.mark.parametrize("kernel", [rbf([0.5, 2.0]), linear, energy])
def test_its_means_over_both_sets_differ_by_the_squared_mmd(kernel):
    torch.manual_seed(1)
    x, y = torch.randn(9, 4).double(), torch.randn(6, 4).double() + 1
    both = witness(x, y, kernel).mean() + witness(y, x, kernel).mean()
    torch.testing.assert_close(both, mmd2(x, y, kernel))


def brightness(images):
    return images.mean(dim=(2, 3))


@pytest.fixture
def reward():
    """Fitted to a dark generator, and a site of which a third is bright."""

    def fit(synthetic, site, kernels=("rbf", "linear")):
        reward = SetReward({"brightness": brightness}, kernels=kernels, queue_size=0)
        reward.fit(synthetic, site)
        return reward

    return fit


@pytest.fixture
def dark_and_bright():
    torch.manual_seed(0)
    synthetic = -0.5 + 0.1 * torch.randn(40, 3, 8, 8)
    site = -0.5 + 0.1 * torch.randn(12, 3, 8, 8)
    site[8:] += 0.9
    return synthetic, site


def test_images_that_the_generator_does_not_draw_score_highest(reward, dark_and_bright):
    synthetic, site = dark_and_bright
    scores = site_witness(reward(synthetic, site), synthetic, site, noise=0.05, seed=0)
    assert set(scores.topk(4).indices.tolist()) == {8, 9, 10, 11}


def test_terms_count_by_their_weights_in_units_of_their_spread(reward, dark_and_bright):
    synthetic, site = dark_and_bright
    fitted = reward(synthetic, site)
    total = torch.zeros(len(site))
    for term in fitted.terms.values():
        values = witness(term.features(site), term.features(synthetic), term.kernel)
        total += 0.5 * values / values.std()
    torch.testing.assert_close(fitted.witness(site, synthetic), total)


def test_order_of_the_images_does_not_matter(reward, dark_and_bright):
    synthetic, site = dark_and_bright
    fitted = reward(synthetic, site)
    order = torch.randperm(len(site))
    found = fitted.witness(site[order], synthetic)
    torch.testing.assert_close(found, fitted.witness(site, synthetic)[order])


def test_a_single_image_and_equal_images_have_finite_scores(reward, dark_and_bright):
    synthetic, site = dark_and_bright
    fitted = reward(synthetic, site)
    assert site_witness(fitted, synthetic, site[:1], noise=0.05, seed=0).tolist() == [0.0]
    equal = site[:1].repeat(3, 1, 1, 1)
    assert fitted.witness(equal, synthetic).isfinite().all()


def test_slices_of_a_volume_count_as_one_file(tmp_path):
    names = ["a.nii.gz[0]", "b.png", "a.nii.gz[2]", "c[1].png"]
    scores = torch.tensor([1.0, 2.0, 4.0, -1.0])
    assert file_scores(names, scores) == {"a.nii.gz": 2.5, "b.png": 2.0, "c[1].png": -1.0}
    save_witness(tmp_path / "witness.json", names, scores)
    written = json.loads((tmp_path / "witness.json").read_text())
    assert all(a >= b for a, b in itertools.pairwise(written.values())) and len(written) == 3
