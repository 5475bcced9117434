import torch

from alignflow.segmentation.random_convolution import random_convolution


def image(seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(channels, 24, 20, generator=generator) * 2 - 1


def test_image_keeps_its_shape_and_range_and_the_draws_follow_the_generator():
    for channels in (1, 3):
        x = image(channels=channels)
        found = [random_convolution(x, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
        assert found[0].shape == x.shape and found[0].abs().max() <= 1
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_norm_is_that_of_the_image_but_for_what_is_clipped():
    x = 0.2 * image()
    norms = [random_convolution(x, torch.Generator().manual_seed(s)).norm() for s in range(20)]
    assert max(norms) <= x.norm() * 1.001 and sorted(norms)[10] > 0.98 * x.norm()


def test_structure_stays_where_it_is():
    """Far from an edge of the image's parts each part stays flat."""
    x = -torch.ones(1, 32, 32) * 0.5
    x[:, 8:24, 8:24] = 0.5
    for seed in range(10):
        found = random_convolution(x, torch.Generator().manual_seed(seed))
        assert found[:, 13:19, 13:19].std() < 1e-5
