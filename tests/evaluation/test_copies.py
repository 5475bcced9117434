"""Audits on sets with planted copies."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from alignflow.evaluation.copies import audit, exact_copies, nearest, pixels


def images(count, seed):
    values = np.random.default_rng(seed).uniform(-1, 1, (count, 1, 6, 5))
    return torch.as_tensor(values, dtype=torch.float32)


def test_distance_is_the_root_mean_square_difference():
    one, two = images(4, 0), images(30, 1)
    distance, index = nearest(pixels(one), pixels(two))
    for i, image in enumerate(one):
        expected = ((image - two) ** 2).mean(dim=(1, 2, 3)).sqrt()
        assert distance[i] == pytest.approx(float(expected.min()), rel=1e-5)
        assert index[i] == expected.argmin()


def test_copies_have_distance_zero_exactly():
    known = images(40, 0)
    distance, index = nearest(pixels(known[[7, 3]]), pixels(known))
    assert distance.tolist() == [0, 0] and index.tolist() == [7, 3]


def test_leave_one_out_does_not_find_the_image_itself():
    known = images(30, 0)
    distance, index = nearest(pixels(known), pixels(known), leave_one_out=True)
    assert (distance > 0).all() and (index != torch.arange(30)).all()


def test_planted_copies_are_found():
    known, real = pixels(images(20, 0)), pixels(images(50, 1))
    honest = audit(nearest(pixels(images(50, 2)), known)[0], nearest(real, known)[0])
    assert honest["ratio"]["low"] < 1 < honest["ratio"]["high"]
    assert honest["share_below_5%"] < 0.2
    near = known.repeat(2, 1) + 0.01 * pixels(images(40, 3))
    copied = audit(nearest(near, known)[0], nearest(real, known)[0])
    assert copied["ratio"]["high"] < 0.1
    assert copied["share_below_5%"] == 1
    assert copied["smallest"] < 0.02 < copied["smallest_real"]


def test_share_of_real_images_is_five_percent():
    real = np.arange(1, 201, dtype=float)
    found = audit(real, real)
    assert found["share_below_5%"] == pytest.approx(0.05)
    assert found["ratio"]["value"] == 1


@pytest.mark.parametrize("real", [[], [0.0, 0.0]])
def test_undefined(real):
    found = audit(np.array([1.0, 2.0]), np.array(real))
    assert found["ratio"] == {"value": None, "low": None, "high": None}
    assert found["share_below_5%"] is None
    assert found["median"] == 1.5


def test_a_single_image_has_no_interval():
    found = audit(np.array([1.0]), np.array([2.0, 2.0]))
    assert found["ratio"] == {"value": 0.5, "low": None, "high": None}


def test_exact_copies_of_real_tissue():
    """Resized, saved as JPEG, mirrored; no other part of the same picture passes for a copy."""
    picture = pytest.importorskip("skimage.data").immunohistochemistry()
    parts = [
        Image.fromarray(picture[x : x + 64, y : y + 64])
        for x in range(0, 512, 64)
        for y in range(0, 512, 64)
    ]
    known, others = parts[::2], parts[1::2]
    made = [
        known[3],
        known[4].resize((96, 96), Image.Resampling.BILINEAR).resize((64, 64)),
        known[5].transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    ]
    known[6].save(buffer := BytesIO(), "jpeg", quality=90)
    made.append(Image.open(buffer))
    stacked = [
        torch.as_tensor(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1
        for images in (made + others, known)
    ]
    assert exact_copies(*stacked).tolist() == [3, 4, 5, 6] + [-1] * len(others)
    # whatever their number, and with nothing to tell what is usual
    for count in range(1, 5):
        assert exact_copies(stacked[0][:count], stacked[1]).tolist() == [3, 4, 5, 6][:count]
    assert exact_copies(stacked[0][:1], stacked[1][3:4]).tolist() == [0]
    assert exact_copies(torch.zeros(2, 3, 64, 64), stacked[1]).tolist() == [-1, -1]
