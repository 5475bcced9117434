"""Fourier domain adaptation against numpy's spectra."""

import numpy as np
import pytest
import torch

from alignflow.errors import InputError
from alignflow.segmentation.fourier_style import fourier_style, low_frequencies, swap_low_amplitude


def pictures(shape=(3, 16, 12)):
    generator = torch.Generator().manual_seed(0)
    dark = torch.rand(shape, generator=generator) * 0.4 - 0.9
    bright = torch.rand(shape, generator=generator) * 0.4 + 0.3
    return dark, bright


def spectrum(image):
    return np.fft.fft2((image.double().numpy() + 1) / 2)


def test_strength_0_is_the_identity():
    dark, bright = pictures()
    assert torch.allclose(fourier_style(dark, bright, 0), dark, atol=1e-6)


def test_low_band_has_the_references_amplitude_and_the_rest_the_images_own():
    dark, bright = pictures()
    beta = 0.13
    changed = spectrum(swap_low_amplitude(dark, bright, beta))
    x, y = np.fft.fftfreq(16) * 16, np.fft.fftfreq(12) * 12
    low = (np.abs(x) <= beta * 16)[:, None] & (np.abs(y) <= beta * 12)[None]
    assert low.sum() == 5 * 3
    for found, expected, where in ((changed, bright, low), (changed, dark, ~low)):
        amplitude = np.abs(spectrum(expected))
        np.testing.assert_allclose(np.abs(found)[:, where], amplitude[:, where], atol=1e-4)
    phase = np.exp(1j * np.angle(spectrum(dark)))
    np.testing.assert_allclose(changed, np.abs(changed) * phase, atol=1e-3)
    assert np.array_equal(low_frequencies(16, 12, beta).numpy(), low)


@pytest.mark.parametrize("swap", [False, True])
def test_smallest_strength_gives_the_mean_colour(swap):
    image, reference = pictures()[::-1] if swap else pictures()
    changed = swap_low_amplitude(image, reference, 0.01)
    assert torch.allclose(changed.mean((1, 2)), reference.mean((1, 2)), atol=1e-5)
    assert torch.allclose(changed.std((1, 2)), image.std((1, 2)), atol=1e-5)


def test_all_amplitudes_of_an_image_itself_change_nothing():
    dark, _ = pictures((1, 15, 16))
    assert torch.allclose(fourier_style(dark, dark, 0.5), dark, atol=1e-6)


def test_result_stays_in_the_window():
    dark, bright = pictures()
    assert swap_low_amplitude(bright, 2 * bright, 0.01).max() > 1
    assert fourier_style(bright, 2 * bright, 0.01).abs().max() <= 1


def test_bad_input_is_refused():
    dark, bright = pictures()
    with pytest.raises(InputError, match="from 0 to 0.5"):
        fourier_style(dark, bright, 0.6)
    with pytest.raises(InputError, match="same size"):
        fourier_style(dark, bright[:, :8], 0.1)
