"""The distance against scikit-image's template matching, and on copies of every kind."""

import pytest
import torch
from skimage.feature import match_template
from torch.nn.functional import interpolate

from alignflow.privacy.similarity import VIEWS, distances


def crop(images, share, x, y):
    size = round(share * images.shape[2])
    part = images[:, :, x : x + size, y : y + size]
    return interpolate(part, images.shape[2:], mode="bilinear", antialias=True)


def test_it_is_the_best_match_of_scikit_image(pictures):
    # 24 px and gray already: nothing is made smaller beforehand
    image, known = pictures(1, 0, (24, 24), 1), pictures(2, 1, (24, 24), 1)
    expected = []
    for other in known:
        best = -1.0
        for part, window in VIEWS:
            inner, size = round(part * 24), round(window * 24)
            start = (24 - inner) // 2
            middle = image[:, :, start : start + inner, start : start + inner]
            template = interpolate(middle, (size, size), mode="bilinear", antialias=True)[0, 0]
            for axes in ((), (0,), (1,), (0, 1)):
                found = match_template(other[0].numpy(), template.flip(axes).numpy())
                best = max(best, float(found.max()))
        expected.append(1 - best)
    assert distances(image, known)[0].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("axes", [(), (2,), (3,), (2, 3)])
def test_mirrored_copies_with_gain_and_offset_have_distance_zero(pictures, axes):
    known = pictures(6, 0)
    found = distances(0.5 * known[:3].flip(axes) - 0.2, known)
    assert found.diagonal().max() < 1e-5
    assert found.argmin(dim=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("shape", [(32, 32), (48, 36), (12, 12)])
def test_copies_are_nearer_than_anything_else(pictures, shape):
    known, random = pictures(20, 0, shape), torch.Generator().manual_seed(5)
    x, y = (n // 8 for n in shape)
    rows = (torch.arange(shape[0]) + x).clamp(max=shape[0] - 1)
    noise = 0.2 * torch.randn(known.shape, generator=random)
    copies = {
        "noise": known + noise,
        "shift": known[:, :, rows],
        "crop": interpolate(known[:, :, x // 2 : -x, y : -y // 2 or None], shape, mode="bilinear"),
    }
    stranger = distances(pictures(20, 1, shape), known).min()
    for name, images in copies.items():
        found = distances(images, known)
        assert (found.argmin(dim=1) == torch.arange(20)).all(), name
        assert found.diagonal().median() < stranger, name


def test_an_image_with_a_margin_around_it_is_found(pictures):
    known = pictures(20, 0)
    small = interpolate(known, (27, 27), mode="bilinear", antialias=True)
    margin = torch.nn.functional.pad(small, (2, 3, 2, 3), value=-1.0)
    found = distances(margin, known)
    assert (found.argmin(dim=1) == torch.arange(20)).all()


def test_the_chunk_does_not_matter(pictures):
    images, known = pictures(3, 0), pictures(7, 1)
    torch.testing.assert_close(distances(images, known, chunk=2), distances(images, known))


def test_a_constant_image_is_like_nothing(pictures):
    flat = torch.zeros(2, 3, 32, 32)
    assert distances(flat, pictures(3, 0)).min() > 0.99
    assert distances(pictures(3, 0), flat).min() > 0.99
