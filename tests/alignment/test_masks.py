import pytest
import torch
from torch import nn

from alignflow.alignment.masks import dice_loss, effective_size, site_descriptions
from alignflow.masks.conditions import describe


def discs(radii, size=64):
    x = torch.arange(size) - size / 2 + 0.5
    r = (x[:, None].square() + x[None].square()).sqrt()
    return torch.stack([(r < radius) for radius in radii])[:, None].to(torch.uint8)


def test_resampled_areas_move_to_those_of_the_site():
    generator = torch.Generator().manual_seed(0)
    bank = describe(discs(4 + 24 * torch.rand(200, generator=generator)), 2)
    site = discs([6.0, 7.0, 8.0, 6.5, 7.5, 9.0, 8.5, 5.5, 7.0, 6.0])
    target = describe(site, 2)[:, 1].mean()
    drawn = site_descriptions(bank, site, 2, prior=0.0)
    assert drawn.shape == (256, 4)
    assert abs(drawn[:, 1].mean() - target) < 0.35 * abs(bank[:, 1].mean() - target)
    shy = site_descriptions(bank, site, 2, prior=10.0)
    assert drawn[:, 1].mean() < shy[:, 1].mean() < bank[:, 1].mean()


def test_rows_come_from_the_bank():
    bank = describe(discs([5.0, 9.0, 14.0, 20.0, 25.0]), 2)
    drawn = site_descriptions(bank, discs([8.0]), 2)
    assert {tuple(row) for row in drawn.tolist()} <= {tuple(row) for row in bank.tolist()}
    assert 1 <= effective_size(drawn) <= len(bank)


def test_no_foreground_at_the_site_leaves_the_source_as_it_is():
    bank = describe(discs([5.0, 9.0, 14.0, 20.0]), 2)
    drawn = site_descriptions(bank, discs([0.0, 0.0]), 2, count=8)
    torch.testing.assert_close(drawn, bank.repeat_interleave(2, dim=0))


class Sees(nn.Module):
    """A segmenter whose logits are the image itself."""

    def forward(self, image):
        return torch.cat([-image, image], dim=1) * 20


def test_agreement_is_0_for_the_right_mask_and_1_for_the_wrong_one():
    label = discs([10.0])
    image = label.float() * 2 - 1
    assert float(dice_loss(Sees(), image, label, 2)) == pytest.approx(0, abs=1e-3)
    assert float(dice_loss(Sees(), -image, label, 2)) == pytest.approx(1, abs=1e-2)
