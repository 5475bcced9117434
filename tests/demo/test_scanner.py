from pathlib import Path

import numpy as np
import pytest
from monai.transforms import RandBiasField

from alignflow.demo.scanner import Scanner

FLAT = {"bias": ((0.0,),), "noise": 0.0}


def ramp():
    return np.tile(np.arange(256, dtype=np.uint8), (4, 1))


def test_bias_field_is_the_exponential_of_legendre_polynomials():
    scanner = Scanner(bias=((0.1, 0.2, 0.3), (0.4, 0.5, 0.0), (0.6, 0.0, 0.0)))
    x, y = np.linspace(-1, 1, 12)[:, None], np.linspace(-1, 1, 9)[None]
    log = (
        0.1 + 0.2 * y + 0.3 * (3 * y**2 - 1) / 2 + 0.4 * x + 0.5 * x * y + 0.6 * (3 * x**2 - 1) / 2
    )
    np.testing.assert_allclose(scanner.bias_field((12, 9)), np.exp(log))


def test_bias_field_is_that_of_monai_for_its_coefficients():
    theirs = RandBiasField(degree=1, prob=1, coeff_range=(0.2, 0.4))
    theirs.set_random_state(0)
    field = theirs(np.ones((1, 10, 8)))[0]
    c00, c10, c11 = theirs._coeff
    ours = Scanner(bias=((c00, 0.0), (c10, c11))).bias_field((10, 8))
    np.testing.assert_allclose(np.asarray(field), ours, rtol=1e-5)


def test_contrast_curve_gain_and_offset():
    image = Scanner(gamma=2, gain=0.5, offset=20, **FLAT).render(ramp(), 0)
    expected = np.rint(255 * 0.5 * (np.arange(256) / 255) ** 2 + 20)
    np.testing.assert_array_equal(image, np.tile(expected, (4, 1)))
    assert image.dtype == np.uint8


def test_values_beyond_eight_bits_are_clipped():
    image = Scanner(gamma=1, gain=2.0, offset=0, **FLAT).render(ramp(), 0)
    np.testing.assert_array_equal(image[0], np.minimum(2 * np.arange(256), 255))


@pytest.mark.parametrize("signal", [0.0, 60.0])
def test_noise_has_the_second_moment_of_rices_distribution(signal):
    scanner = Scanner(gain=0, offset=signal, noise=8.0)
    image = scanner.render(np.zeros((300, 300), np.uint8), 0).astype(float)
    # rounding adds 1/12
    assert np.mean(image**2) == pytest.approx(signal**2 + 2 * 8.0**2 + 1 / 12, rel=0.02)


def test_noise_depends_on_seed_and_number_alone():
    black = np.zeros((20, 20), np.uint8)
    first = Scanner().render(black, 0)
    np.testing.assert_array_equal(first, Scanner().render(black, 0))
    for other in (Scanner().render(black, 1), Scanner(seed=1).render(black, 0)):
        assert (other != first).any()


def test_the_data_card_states_the_numbers():
    card = (Path(__file__).parents[2] / "bundle/docs/data_card.md").read_text()
    used = Scanner()
    assert f"255 * {used.gain} u^{used.gamma:g} * b(x, y) + {used.offset:g}" in card
    assert f"standard deviation {used.noise:g}," in card and f"seed {used.seed} |" in card
    field = used.bias_field((192, 192))
    assert f"from {field.min():.1f} to {field.max():.1f} |" in card
