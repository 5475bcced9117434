import logging

import pytest
import torch

from alignflow.alignment.site import (
    MaskBank,
    reference_masks,
    site_record,
    split_references,
    spread_evenly,
    views,
)
from alignflow.data.references import References
from alignflow.errors import InputError
from alignflow.masks.conditions import describe


def images(n, seed=0):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("n", "left_out"), [(1, 0), (4, 0), (5, 2), (10, 3), (50, 15)])
def test_left_out_references_are_no_fitted_ones(n, left_out):
    x = images(n)
    split = split_references(x, 0.3, seed=0)
    parts = [split.fitted] if split.left_out is None else [split.fitted, split.left_out]
    assert (0 if split.left_out is None else len(split.left_out)) == left_out
    both = torch.cat(parts)
    assert {t.numpy().tobytes() for t in both} == {t.numpy().tobytes() for t in x}
    assert torch.equal(x[split.chosen], split.fitted)


def test_views_are_mirror_images_where_allowed():
    x = images(3)
    same = views(x, 2, flip_x=False, flip_y=False, noise=0.0, seed=0)
    torch.testing.assert_close(same, x.repeat(2, 1, 1, 1))
    mirrored = views(x, 20, flip_x=True, flip_y=False, noise=0.0, seed=0)
    kinds = [torch.equal(v, x[i % 3]) for i, v in enumerate(mirrored)]
    flipped = [torch.equal(v, x[i % 3].flip(1)) for i, v in enumerate(mirrored)]
    assert all(a != b for a, b in zip(kinds, flipped, strict=True)) and any(kinds) and any(flipped)


def test_noise_of_views_has_the_deviation_asked_for():
    x = images(4).repeat(1, 1, 8, 8)
    noisy = views(x, 4, flip_x=False, flip_y=False, noise=0.1, seed=0)
    assert (noisy - x.repeat(4, 1, 1, 1)).std().item() == pytest.approx(0.1, rel=0.05)


def references(labels=None, given=None, n=3):
    x = -torch.ones(n, 1, 32, 32)
    x[:, :, 12:20, 12:20] = 1
    plain = {"shape": [32, 32], "affine": None}
    names = [str(i) for i in range(n)]
    return References(x, labels, given or [False] * n, names, [plain] * n)


def record_of(record, known, segmenter, anatomy):
    masks = reference_masks(record, known, segmenter, "cpu")
    return site_record(record, masks, anatomy, 0.0)


def test_anatomy_of_the_source_stays_when_asked(record, segmenter):
    assert record_of(record, references(), segmenter, "source") is record


def test_anatomy_follows_what_the_segmenter_sees(record, segmenter, caplog):
    with caplog.at_level(logging.INFO):
        site = record_of(record, references(), segmenter, "references")
    assert "of 3 references" in caplog.text
    square = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    square[..., 12:20, 12:20] = 1
    seen = describe(square, 2)[0, 1]
    before = torch.tensor(record.descriptions)[:, 1]
    after = torch.tensor(site.descriptions)[:, 1]
    assert (after.mean() - seen).abs() < (before.mean() - seen).abs()


def test_given_masks_come_before_predicted_ones(record, segmenter):
    large = torch.zeros(3, 1, 32, 32, dtype=torch.uint8)
    large[:, :, 4:28, 4:28] = 1
    predicted = record_of(record, references(), segmenter, "references")
    known = references(large, [True] * 3)
    given = record_of(record, known, segmenter, "references")
    areas = [torch.tensor(s.descriptions)[:, 1].mean() for s in (predicted, given)]
    assert areas[1] > areas[0]


def test_unknown_anatomy_is_refused(record, segmenter):
    with pytest.raises(InputError, match="anatomy"):
        record_of(record, references(), segmenter, "mars")


def test_bank_holds_masks_and_their_condition(record):
    class Squares:
        def __call__(self, indices):
            label = torch.zeros(len(indices), 1, 32, 32, dtype=torch.uint8)
            label[:, :, 8:16, 8:16] = 1
            return label

    bank = MaskBank(Squares(), 5, record, batch_size=2)
    assert len(bank) == 5
    item = bank[4]
    assert item["condition"].shape == (3, 32, 32)
    assert torch.equal(item["condition"][1], item["label"][0].float())
    labels, maps = spread_evenly(bank, 3)
    assert labels.shape == (3, 1, 32, 32) and maps.shape == (3, 3, 32, 32)
