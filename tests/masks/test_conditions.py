"""Descriptions against closed forms and scipy's centre of mass."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from alignflow.errors import InputError
from alignflow.masks.conditions import describe, jitter


def test_quarter_of_the_image():
    label = torch.zeros(1, 1, 40, 20, dtype=torch.uint8)
    label[..., :20, 10:] = 1
    expected = torch.tensor([[1.0, 1 + np.log10(0.25) / 2, -0.5, 0.5]]).float()
    assert torch.allclose(describe(label, 2), expected)


def test_scale_of_the_area():
    label = torch.zeros(3, 1, 100, 100)
    label[0] = 1
    label[1, :, 45:55, 45:55] = 1
    label[2, :, 0, 0] = 1
    area = describe(label, 2)[:, 1]
    assert torch.allclose(area, torch.tensor([1.0, 0.0, -1.0]), atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    npst.arrays(
        np.uint8,
        st.tuples(st.just(2), st.just(1), st.integers(1, 9), st.integers(1, 9)),
        elements=st.integers(0, 3),
    )
)
def test_description_is_that_of_scipy(values):
    fields = describe(torch.as_tensor(values), 4).view(2, 3, 4).numpy()
    assert np.isfinite(fields).all()
    for one, mask in zip(fields, values[:, 0], strict=True):
        for j in range(1, 4):
            region = mask == j
            if not region.any():
                assert (one[j - 1] == 0).all()
                continue
            centre = (2 * np.array(ndimage.center_of_mass(region)) + 1) / region.shape - 1
            area = 1 + np.log10(region.mean()) / 2
            np.testing.assert_allclose(one[j - 1], [1, area, *centre], atol=1e-6)


def test_jitter_moves_only_what_is_present():
    label = torch.zeros(500, 1, 16, 16)
    label[..., 6:10, 6:10] = 1
    clean = describe(label, 3)
    noisy = jitter(clean, torch.Generator().manual_seed(0), 0.05)
    assert torch.equal(noisy[:, 0], clean[:, 0])
    assert torch.equal(noisy[:, 4:], clean[:, 4:])
    moved = (noisy - clean)[:, 1:4]
    assert moved.std(dim=0).sub(0.05).abs().max() < 0.006
    assert moved.mean(dim=0).abs().max() < 0.01


def test_jitter_keeps_a_ring_around_what_it_encloses():
    label = torch.zeros(5, 1, 16, 16)
    label[..., 4:12, 4:12], label[..., 6:10, 6:10] = 1, 2
    noisy = jitter(describe(label, 3), torch.Generator().manual_seed(0), 0.05).unflatten(1, (2, 4))
    torch.testing.assert_close(noisy[:, 0, 2:], noisy[:, 1, 2:])


def test_jitter_repeats_keeps_its_input_and_its_range():
    clean = describe(torch.ones(50, 1, 4, 4), 2)
    kept = clean.clone()
    first = jitter(clean, torch.Generator().manual_seed(3), 2.0)
    assert torch.equal(first, jitter(clean, torch.Generator().manual_seed(3), 2.0))
    assert torch.equal(clean, kept)
    assert first[:, 1].max() <= 1 and first[:, 2:].abs().max() <= 1
    assert torch.equal(jitter(clean, None, 0.0), clean)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="batch"):
        describe(torch.zeros(1, 4, 4), 2)
    with pytest.raises(InputError, match="values 3..3"):
        describe(torch.full((1, 1, 4, 4), 3), 2)
    with pytest.raises(InputError, match="scale"):
        jitter(torch.zeros(1, 4), None, -1.0)
    with pytest.raises(InputError, match="describe"):
        jitter(torch.zeros(1, 5), None, 1.0)
