import pytest
import torch

from alignflow.alignment.statistics import colour, layout, texture

SPACES = [colour, texture, layout]


def images(n=4, channels=3, size=32, seed=0):
    return (
        torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    )


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_vectors_with_finite_gradients(space, channels):
    x = torch.cat([images(3, channels), torch.zeros(1, channels, 32, 32)]).requires_grad_()
    features = space(x)
    assert features.shape[0] == 4 and features.ndim == 2
    (gradient,) = torch.autograd.grad(features.sum(), x)
    assert torch.isfinite(features).all() and torch.isfinite(gradient).all()


def test_colour_holds_the_means_between_quantiles_whatever_the_place():
    x = images()
    shuffled = x.flatten(2)[..., torch.randperm(32 * 32)].view_as(x)
    torch.testing.assert_close(colour(x), colour(shuffled), atol=1e-4, rtol=1e-4)
    ordered = x[0, 0].flatten().sort().values
    torch.testing.assert_close(colour(x)[0, 0], ordered[: 1024 // 16].mean())


def test_colour_tells_correlated_channels_from_independent_ones():
    x = images(1)
    gray = x[:, :1].expand(-1, 3, -1, -1)
    assert colour(gray)[0, -3:].min() > 0.99
    assert colour(x)[0, -3:].abs().max() < 0.2


def test_texture_sees_a_wave_in_the_ring_of_its_frequency():
    x = torch.arange(32.0)
    for cycles, ring in ((2, 1), (7, 3), (13, 6)):
        wave = torch.sin(2 * torch.pi * cycles * x / 32)[None, None, :, None].expand(1, 1, 32, 32)
        assert texture(wave.contiguous())[0, :8].argmax() == ring


def test_texture_ignores_brightness_and_mirror_images():
    x = images()
    torch.testing.assert_close(texture(x), texture(x + 0.3), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(texture(x)[:, :24], texture(x.flip(3))[:, :24])


def test_layout_gives_block_means():
    x = images()
    torch.testing.assert_close(layout(x)[0, 0], x[0, 0, :8, :8].mean())


def test_colour_does_not_see_how_much_background_there_is():
    x = images(2)
    framed = x.clone()
    framed[:, :, :10] = -1
    torch.testing.assert_close(colour(framed), colour(x[:, :, 10:]), atol=1e-4, rtol=1e-3)


def test_colour_of_an_empty_image_is_finite():
    x = -torch.ones(1, 3, 8, 8, requires_grad=True)
    features = colour(x)
    (gradient,) = torch.autograd.grad(features.sum(), x)
    assert torch.isfinite(features).all() and torch.isfinite(gradient).all()
