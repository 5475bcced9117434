import pytest
import torch

from alignflow.data.mirroring import mirror_at_random


def sample_pairs(count=400):
    image = torch.arange(12.0).view(1, 1, 3, 4).expand(count, 1, 3, 4)
    return image, (10 * image).to(torch.uint8)


@pytest.mark.parametrize("dims", [[2], [3], [2, 3], []])
def test_image_and_mask_are_flipped_together_along_the_dims_asked_for(dims):
    image, mask = sample_pairs()
    generator = torch.Generator().manual_seed(0)
    seen, seen_mask = mirror_at_random([image, mask], dims, generator)
    assert torch.equal(seen_mask, (10 * seen).to(torch.uint8))
    views, counts = seen.flatten(1).unique(dim=0, return_counts=True)
    assert len(views) == 2 ** len(dims)
    assert counts.tolist() == pytest.approx([len(image) / len(views)] * len(views), rel=0.2)


def test_probability_and_seed():
    image, _ = sample_pairs()
    draws = [
        mirror_at_random([image], (2,), torch.Generator().manual_seed(7), probability)[0]
        for probability in (0.0, 1.0, 0.3, 0.3)
    ]
    assert torch.equal(draws[0], image)
    assert torch.equal(draws[1], image.flip(2))
    assert torch.equal(draws[2], draws[3])
