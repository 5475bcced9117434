import torch
from torch import nn

from alignflow.masks.postprocess import MaskPostprocess
from alignflow.segmentation.pseudo_masks import pseudo_masks


class Thresholds(nn.Module):
    """Sees class 1 where channel 0 is above 0, sure by how far; `lean` favours it on the left."""

    def __init__(self, lean=0.0):
        super().__init__()
        self.lean = lean

    def forward(self, x):
        logit = 4 * x[:, :1]
        half = x.shape[3] // 2
        logit[..., :half] += self.lean
        logit[..., half:] -= self.lean
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def rules(size=16):
    label = torch.zeros(4, 1, size, size, dtype=torch.uint8)
    label[:, :, 4:12, 4:12] = 1
    return MaskPostprocess.fit(label, 2)


def square():
    x = -torch.ones(3, 1, 16, 16)
    x[:, :, 4:12, 4:12] = 1
    return x


def test_masks_are_what_the_segmenter_sees():
    masks = pseudo_masks(Thresholds(), square(), rules(), batch_size=2)
    assert masks.labels.dtype == torch.uint8
    assert torch.equal(masks.labels.bool(), square() > 0)


def test_confidence_falls_with_the_entropy():
    x = square()
    x[0] = x[0] * 0.1
    confidence = pseudo_masks(Thresholds(), x, rules()).confidence
    assert confidence.shape == (3, 1, 16, 16)
    p = torch.tensor(4.0).sigmoid()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()) / torch.tensor(2.0).log()
    torch.testing.assert_close(confidence[1], (1 - entropy).expand(1, 16, 16), atol=1e-4, rtol=0)
    assert (confidence[0] < 0.1).all()


def test_flips_that_disagree_lower_the_confidence():
    """A segmenter that leans to one side cancels itself out over the flips."""
    sure, torn = (
        pseudo_masks(Thresholds(lean), 0.01 * square(), rules()).confidence for lean in (0.0, 8.0)
    )
    assert (sure < 0.01).all() and (torn < 0.05).all()
