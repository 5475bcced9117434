import pytest
import torch

from alignflow.alignment.distance import linear, mmd2
from alignflow.alignment.reward import SetReward
from alignflow.alignment.statistics import colour, layout
from alignflow.errors import InputError


def images(n, seed, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 16, 16, generator=generator) * 0.2 + mean


def fitted(n=6, **options):
    reward = SetReward({"colour": colour, "layout": layout}, **options)
    reward.fit(images(24, 0), images(n, 1, mean=0.3))
    return reward


def test_every_term_is_1_at_the_start():
    reward = fitted(queue_size=0)
    values = reward.distance(images(24, 0), images(6, 1, mean=0.3))
    assert values.keys() == {"colour_rbf", "colour_linear", "layout_rbf", "layout_linear"}
    assert all(v == pytest.approx(1.0, abs=1e-4) for v in values.values())
    assert reward.total(values) == pytest.approx(1.0, abs=1e-4)


def test_distance_falls_to_about_0_at_the_references_distribution():
    reward = fitted()
    near = reward.distance(images(24, 5, mean=0.3), images(24, 6, mean=0.3))
    assert all(abs(v) < 0.05 for v in near.values())


def test_following_the_gradient_moves_images_to_the_references():
    reward = fitted(queue_size=0)
    x = images(8, 3).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(30):
        loss, _ = reward(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert x.mean().item() == pytest.approx(0.3, abs=0.1)
    assert reward.total(reward.distance(x.detach(), images(6, 1, mean=0.3))) < 0.2


def test_single_reference_takes_the_linear_term_alone():
    reward = fitted(n=1)
    assert reward.terms.keys() == {"colour_linear", "layout_linear"}
    x = images(4, 3).requires_grad_()
    loss, values = reward(x)
    loss.backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    first = reward.distance(images(24, 0), images(1, 1, mean=0.3))
    assert all(v == pytest.approx(1.0, abs=1e-4) for v in first.values())


def test_weights_are_shares():
    reward = fitted(weights={"colour": 3.0}, kernels=["linear"])
    assert reward.terms["colour_linear"].weight == 0.75
    assert reward.total({"colour_linear": 2.0, "layout_linear": 1.0}) == 1.75


def test_space_of_weight_0_is_left_out():
    assert fitted(weights={"layout": 0.0}).terms.keys() == {"colour_rbf", "colour_linear"}


def test_queue_keeps_the_newest_features():
    reward = fitted(queue_size=10, kernels=["linear"])
    x = images(4, 7, mean=1.0)
    reward(x)
    term = reward.terms["colour_linear"]
    torch.testing.assert_close(term.queue.content[-4:], term.features(x))
    assert len(term.queue.content) == 10


def test_value_is_the_u_statistic_over_batch_and_queue():
    reward = fitted(queue_size=5, kernels=["linear"])
    term = reward.terms["colour_linear"]
    seen, x = term.queue.content.clone(), images(4, 7)
    _, values = reward(x)
    expected = mmd2(torch.cat([term.features(x), seen]), term.references, linear) / term.unit
    assert values["colour_linear"] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    "options", [{"kernels": ["cubic"]}, {"kernels": []}, {"weights": {"a": 1}}]
)
def test_bad_settings_are_refused(options):
    with pytest.raises(InputError, match="reward"):
        SetReward({"colour": colour}, **options)
