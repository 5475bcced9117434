import pytest
import torch

from alignflow.alignment.matching import ReferenceMatching
from alignflow.segmentation.augmentation import BatchAugmentation
from alignflow.segmentation.pseudo_masks import ReferenceMasks


def matching(image, labels=None, confidence=None, **options):
    shape = (len(image), 1, *image.shape[2:])
    labels = torch.zeros(shape, dtype=torch.uint8) if labels is None else labels
    masks = ReferenceMasks(labels, torch.ones(shape) if confidence is None else confidence)
    options = {"batch_size": 16, "dropout": 0.0, "condition": lambda m: m.float()} | options
    return ReferenceMatching(image, masks, **options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_exact_velocity_of_one_reference_has_no_loss():
    """From one image the path through x_t has velocity (x_1 - x_t) / (1 - t)."""
    image = torch.rand(1, 2, 8, 8, generator=generator()) * 2 - 1

    def exact(x, t, condition):
        return (image - x) / (1 - t).view(-1, 1, 1, 1)

    assert matching(image)(exact, generator()) < 1e-6


def test_loss_is_that_of_the_best_constant():
    """A network that says 0 is off by x_1 - x_0: E|x_1|^2 + 1 at each pixel."""
    image = torch.full((3, 1, 32, 32), 0.5)
    loss = matching(image, batch_size=64)(lambda x, t, condition: 0 * x, generator())
    assert loss.item() == pytest.approx(1.25, rel=0.02)


def test_pixels_count_by_the_confidence_of_their_mask():
    image = torch.full((3, 1, 32, 32), 0.5)
    confidence = torch.zeros(3, 1, 32, 32)
    confidence[:, :, :8] = 0.5
    options = {"batch_size": 64, "confidence": confidence}
    zero = lambda x, t, condition: 0 * x  # noqa: E731
    assert matching(image, **options)(zero, generator()).item() == pytest.approx(1.25 / 8, rel=0.05)
    whole = matching(image, weigh=False, **options)(zero, generator())
    assert whole.item() == pytest.approx(1.25, rel=0.02)


@pytest.mark.parametrize("options", [{"flip": 0.5}, {"flip": 0.5, "rotate": 0.5, "zoom": 0.2}])
def test_masks_move_with_their_images(options):
    label = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    label[0, :, 2:8, 3:12] = 1
    label[1, :, 9:12, 1:6] = 1
    seen = []

    def network(x, t, condition):
        seen.append((x, t, condition))
        return 0 * x

    moving = BatchAugmentation(**options)
    term = matching(2.0 * label - 1, label, batch_size=4096, augmentation=moving)
    term(network, generator())
    [(x, t, condition)] = seen
    late = t > 0.97  # there x_t is nearly the image
    agree = ((x > 0) == (condition > 0)).float().mean(dim=(1, 2, 3))
    assert late.any() and (agree[late] > 0.9).all()
    assert len({c.numpy().tobytes() for c in condition}) >= 8


def test_masks_are_left_out_as_often_as_asked():
    image = torch.zeros(1, 1, 4, 4)
    dropped = []

    def network(x, t, condition):
        dropped.append((condition == 0).flatten(1).all(dim=1))
        return 0 * x

    one = torch.ones(1, 1, 4, 4, dtype=torch.uint8)
    matching(image, one, dropout=0.3, batch_size=2000)(network, generator())
    assert dropped[0].float().mean().item() == pytest.approx(0.3, abs=0.05)


def test_same_generator_same_loss():
    image = torch.rand(4, 1, 16, 16, generator=generator())
    term = matching(image, augmentation=BatchAugmentation(flip=0.5, rotate=0.2))
    zero = lambda x, t, condition: 0 * x  # noqa: E731
    assert term(zero, generator(3)) == term(zero, generator(3)) != term(zero, generator(4))
