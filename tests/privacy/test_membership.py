"""The attack on a generator that has learnt its images by heart, and on one that has not."""

import numpy as np
import pytest
import torch

from alignflow.privacy.membership import auc, flow_losses, in_words, membership

SETTINGS = {"times": (0.3, 0.6, 0.9), "noises": 2, "seed": 0, "device": "cpu", "progress": False}


def memoriser(known):
    """The exact minimiser of the flow matching loss on `known`: E[x_1 - x_0 | x_t]."""

    def velocity(x, t, condition):
        t = t.view(-1, 1, 1, 1)
        squares = ((x[:, None] - t[:, None] * known[None]) ** 2).flatten(2).sum(dim=2)
        weights = torch.softmax(-squares / (2 * (1 - t.view(-1, 1)) ** 2), dim=1)
        data = torch.einsum("bn,ncxy->bcxy", weights, known)
        return data - (x - t * data) / (1 - t)

    return velocity


def losses(network, images, **changes):
    return flow_losses(network, images, torch.zeros(len(images), 3, 8, 8), **SETTINGS | changes)


def test_auc_is_the_share_of_pairs_in_order():
    random = np.random.default_rng(0)
    one, two = random.integers(0, 6, 40).astype(float), random.integers(0, 5, 23).astype(float)
    expected = np.mean([[(a > b) + 0.5 * (a == b) for b in two] for a in one])
    assert auc(one, two) == pytest.approx(expected)
    assert auc(one + 10, two) == 1 and auc(one - 10, two) == 0


def test_loss_of_a_network_that_answers_zero():
    images = torch.rand(5, 2, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = losses(lambda x, t, condition: torch.zeros_like(x), images, batch_size=2)
    generator = torch.Generator().manual_seed(0)
    noises = [torch.randn(2, 8, 8, generator=generator) for _ in range(6)]
    expected = [np.mean([((x - n) ** 2).mean().item() for n in noises]) for x in images]
    assert found == pytest.approx(np.array(expected), rel=1e-5)


def test_images_learnt_by_heart_are_recognised(pictures):
    members, others = pictures(30, 0, (8, 8)), pictures(30, 1, (8, 8))
    network = memoriser(members)
    scores = [-losses(network, images) for images in (members, others)]
    found = membership(*scores, *[[str(i) for i in range(30)]] * 2)
    assert found["auc"] > 0.99 and found["low"] > 0.95 and found["found_at_5%"] > 0.9
    assert "recognisable as such" in in_words("flow", found)


def test_images_that_were_not_trained_on_are_not_recognised(pictures):
    trained, *sides = pictures(30, 0, (8, 8)), pictures(60, 1, (8, 8)), pictures(60, 2, (8, 8))
    network = memoriser(trained)
    found = membership(*(-losses(network, s) for s in sides), *[[str(i) for i in range(60)]] * 2)
    assert 0.35 < found["auc"] < 0.65 and found["low"] < 0.5 < found["high"]
    assert "not recognised" in in_words("flow", found)


def test_images_of_one_patient_count_as_one_draw():
    random = np.random.default_rng(0)
    one, two = random.normal(0.3, 1, 30), random.normal(0, 1, 30)
    single = [str(i) for i in range(30)]
    alone = membership(one, two, single, single)
    thrice = membership(np.tile(one, 3), np.tile(two, 3), single * 3, single * 3)
    assert thrice["auc"] == pytest.approx(alone["auc"])
    width = alone["high"] - alone["low"]
    assert thrice["high"] - thrice["low"] == pytest.approx(width, rel=0.15)


def test_one_patient_has_no_interval():
    found = membership(np.ones(3), np.zeros(4), ["a"] * 3, ["b"] * 4)
    assert (found["auc"], found["low"], found["high"]) == (1.0, None, None)
    assert "too few" in in_words("flow", found)
