import pytest
import torch

from alignflow.alignment.matching import ReferenceMatching


def matching(image, maps=None, **options):
    maps = torch.zeros(len(image), 3, *image.shape[2:]) if maps is None else maps
    return ReferenceMatching(image, maps, **{"batch_size": 16, "dropout": 0.0} | options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_exact_velocity_of_one_reference_has_no_loss():
    """From one image the path through x_t has velocity (x_1 - x_t) / (1 - t)."""
    image = torch.rand(1, 2, 8, 8, generator=generator()) * 2 - 1

    def exact(x, t, condition):
        return (image - x) / (1 - t).view(-1, 1, 1, 1)

    assert matching(image)(exact, generator()) < 1e-6


def test_loss_is_that_of_the_best_constant():
    """A network that says 0 is off by x_1 - x_0: E|x_1|^2 + 1 at each pixel."""
    image = torch.full((3, 1, 32, 32), 0.5)
    loss = matching(image, batch_size=64)(lambda x, t, condition: 0 * x, generator())
    assert loss.item() == pytest.approx(1.25, rel=0.02)


@pytest.mark.parametrize(("flip_x", "flip_y"), [(True, False), (False, True), (True, True)])
def test_masks_are_mirrored_with_their_images(flip_x, flip_y):
    image = torch.rand(2, 1, 6, 6, generator=generator())
    seen = []

    def network(x, t, condition):
        seen.append((x, t, condition))
        return 0 * x

    maps = image.expand(-1, 3, -1, -1)
    matching(image, maps, flip_x=flip_x, flip_y=flip_y, batch_size=256)(network, generator())
    [(x, t, condition)] = seen
    late = t > 0.9  # there x_t is nearly the image
    error = (x - condition[:, :1]).abs().amax((1, 2, 3))
    assert late.any() and (error[late] < 5 * (1 - t[late])).all()
    dims = [d for d, allowed in ((2, flip_x), (3, flip_y)) if allowed]
    views = {v.numpy().tobytes() for v in condition[:, :1]}
    for mirrored in [image.flip(d) for d in dims] + [image]:
        assert {v.numpy().tobytes() for v in mirrored} <= views
    assert len(views) == 2 * 2 ** len(dims)


def test_masks_are_left_out_as_often_as_asked():
    image = torch.zeros(1, 1, 4, 4)
    dropped = []

    def network(x, t, condition):
        dropped.append((condition == 0).all(dim=3).all(dim=2).all(dim=1))
        return 0 * x

    term = matching(image, torch.ones(1, 3, 4, 4), dropout=0.3, batch_size=2000)
    term(network, generator())
    assert dropped[0].float().mean().item() == pytest.approx(0.3, abs=0.05)
