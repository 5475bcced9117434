"""Views of a batch against MONAI's transforms, SciPy's filter and plain geometry."""

import math

import numpy as np
import pytest
import torch
from monai.transforms import AdjustContrast, Affine, ShiftIntensity
from scipy.ndimage import gaussian_filter

from alignflow.segmentation.augmentation import BatchAugmentation


def batch(size=16, shape=(12, 10), channels=3):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(size, channels, *shape, generator=generator) * 2 - 1
    label = (image[:, :1] > 0.2).to(torch.uint8)
    return image, label


def seeded(seed=0, **options):
    made = BatchAugmentation(**{"flip": 0.0, "prob": 1.0} | options)
    made.set_random_state(seed)
    return made


def test_nothing_asked_for_changes_nothing():
    image, label = batch()
    same, mask = seeded()(image, label)
    torch.testing.assert_close(same, image, rtol=0, atol=1e-6)
    assert torch.equal(mask, label)


def test_a_flip_mirrors_image_and_mask_of_some():
    image, label = batch(size=64)
    seen = set()
    for new, mask, old, old_mask in zip(*seeded(flip=0.5)(image, label), image, label, strict=True):
        views = {(): old, (1,): old.flip(1), (2,): old.flip(2), (1, 2): old.flip(1, 2)}
        axes = [a for a, view in views.items() if torch.allclose(view, new, atol=1e-6)]
        assert len(axes) == 1
        assert torch.equal(mask, old_mask.flip(axes[0]))
        seen.add(axes[0])
    assert len(seen) == 4


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.8])
def test_gamma_is_that_of_monai(gamma):
    image, label = batch()
    bent, mask = seeded(gamma=(gamma, gamma))(image, label)
    expected = torch.stack([AdjustContrast(gamma)(one) for one in image])
    torch.testing.assert_close(bent, torch.as_tensor(expected), rtol=1e-4, atol=1e-4)
    assert torch.equal(mask, label)


def test_each_channel_has_a_scale_and_an_offset_of_its_own():
    image, label = batch(size=200, shape=(4, 4))
    changed, _ = seeded(scale=0.2, shift=0.3)(image, label)
    flat, new = image.flatten(2), changed.flatten(2)
    slope = (new - new.mean(2, keepdim=True)).std(2) / (flat - flat.mean(2, keepdim=True)).std(2)
    offset = new.mean(2) - slope * flat.mean(2)
    torch.testing.assert_close(flat * slope[..., None] + offset[..., None], new, atol=1e-4, rtol=0)
    assert 0.8 <= slope.min() < 0.82 and 1.18 < slope.max() <= 1.2001
    assert -0.3001 <= offset.min() < -0.28 and 0.28 < offset.max() <= 0.3001
    assert slope.unique().numel() > 500  # 600 channels
    one = ShiftIntensity(offset[0, 0].item())(flat[0, 0] * slope[0, 0])
    torch.testing.assert_close(torch.as_tensor(one), new[0, 0], atol=1e-4, rtol=0)


def test_half_of_the_images_stay():
    image, label = batch(size=2000, shape=(2, 2))
    changed, _ = seeded(prob=0.5, shift=0.3)(image, label)
    stay = (changed - image).abs().flatten(1).amax(1) < 1e-6
    assert abs(stay.float().mean() - 0.5) < 0.05


def test_a_turn_is_that_of_monai():
    x, y = np.mgrid[:40, :24]
    smooth = torch.from_numpy(np.cos(x / 6) * np.sin(y / 5)).float()[None]
    label = torch.zeros(1, 1, 40, 24)
    turned = seeded(rotate=0.4)(smooth[None], label)[0][0]
    # The angle is the only unknown: the one with which MONAI's turn agrees.
    angles = np.linspace(-0.4, 0.4, 161)
    inner = (slice(None), slice(12, 28), slice(6, 18))
    errors = [
        (Affine(rotate_params=a, padding_mode="border", image_only=True)(smooth) - turned)[inner]
        .abs()
        .max()
        for a in angles
    ]
    assert min(errors) < 0.01 < max(errors)


def test_the_mask_moves_with_the_image():
    x, y = np.mgrid[:48, :32]
    disc = torch.from_numpy((np.hypot(x - 20, y - 18) < 9).astype(np.uint8))[None, None]
    discs = disc.expand(32, -1, -1, -1)
    image, mask = seeded(rotate=0.5, zoom=0.3, flip=0.5)(discs.float(), discs)
    assert mask.dtype == torch.uint8 and set(mask.unique().tolist()) == {0, 1}
    agree = ((image > 0.5) == mask.bool()).float().flatten(1).mean(1)
    assert agree.min() > 0.98
    growth = mask.flatten(1).sum(1) / disc.sum()
    assert 0.7**2 - 0.03 < growth.min() < 0.8 and 1.3 < growth.max() < 1.3**2 + 0.05


def test_blur_is_that_of_scipy():
    image, label = batch(size=4, shape=(20, 20), channels=2)
    blurred = seeded(blur=1.5)(image, label)[0]
    for one, smooth in zip(image, blurred, strict=True):
        sigmas = np.linspace(0.01, 1.5, 300)
        errors = [
            np.abs(
                gaussian_filter(one.numpy(), (0, s, s), mode="nearest", radius=5) - smooth.numpy()
            ).max()
            for s in sigmas
        ]
        assert min(errors) < 0.02


def test_noise_has_at_most_the_asked_deviation():
    image, label = torch.zeros(300, 1, 16, 16), torch.zeros(300, 1, 16, 16)
    deviation = seeded(noise=0.2)(image, label)[0].flatten(1).std(1)
    assert 0.18 < deviation.max() < 0.24  # 256 pixels
    assert math.isclose(deviation.mean(), 0.1, abs_tol=0.01)


def test_a_crop_cuts_image_and_mask_alike_and_reaches_the_corners():
    x, y = torch.meshgrid(torch.arange(6), torch.arange(5), indexing="ij")
    code = (10 * x + y).float()[None, None].expand(200, -1, -1, -1)
    image, label = seeded(crop=(4, 3))(code, code)
    assert image.shape == (200, 1, 4, 3)
    torch.testing.assert_close(image, label, atol=1e-4, rtol=0)
    assert set(label[:, 0, 0, 0].int().tolist()) == {10 * i + j for i in range(3) for j in range(3)}


def test_draws_follow_the_seed():
    image, label = batch()
    options = {"flip": 0.5, "gamma": (0.5, 2), "scale": 0.3, "rotate": 0.3, "noise": 0.1, "blur": 1}
    first, again = (seeded(3, **options)(image, label) for _ in range(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], seeded(4, **options)(image, label)[0])


def test_settings_are_the_arguments():
    options = {"flip": 0.1, "prob": 0.2, "gamma": (0.5, 2), "crop": [4, 4]}
    settings = BatchAugmentation(**options).settings
    assert options.items() <= settings.items()
    assert BatchAugmentation(**settings).settings == settings
