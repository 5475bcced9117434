import logging

import pytest
import torch

from alignflow.alignment.site import (
    MaskBank,
    NothingFound,
    augmented_references,
    require_structure,
    site_masks,
    site_record,
    split_references,
    spread_evenly,
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
    assert torch.equal(x[split.fitted_numbers], split.fitted)
    assert torch.equal(x[split.watched_numbers], split.watched)
    assert split.watched is (split.fitted if split.left_out is None else split.left_out)


def test_noise_of_views_has_the_deviation_asked_for():
    x = images(4).repeat(1, 1, 8, 8)
    noisy = augmented_references(x, 4, noise=0.1, seed=0)
    assert (noisy - x.repeat(4, 1, 1, 1)).std().item() == pytest.approx(0.1, rel=0.05)


def references(labels=None, given=None, n=3):
    x = -torch.ones(n, 1, 32, 32)
    x[:, :, 12:20, 12:20] = 1
    plain = {"shape": [32, 32], "affine": None}
    names = [str(i) for i in range(n)]
    return References(x, labels, given or [False] * n, names, [plain] * n)


def record_of(record, known, segmenter, anatomy):
    masks = site_masks(record, known, segmenter)
    return site_record(record, masks.labels, anatomy, 0.0)


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


def test_given_masks_are_certain_and_the_others_are_predicted(record, segmenter):
    large = torch.zeros(3, 1, 32, 32, dtype=torch.uint8)
    large[:, :, 4:28, 4:28] = 1
    masks = site_masks(record, references(large, [True, False, False]), segmenter)
    assert torch.equal(masks.labels[0], large[0]) and not torch.equal(masks.labels[1], large[1])
    assert (masks.confidence[0] == 1).all()


def test_a_site_in_which_nothing_is_found_is_refused(record, segmenter):
    dark = references()
    dark.images[:] = -1
    with pytest.raises(NothingFound, match="no structure in any of the 3 images.*annotate some"):
        require_structure(dark, site_masks(record, dark, segmenter))
    dark.given, dark.labels = [True] * 3, torch.zeros(3, 1, 32, 32, dtype=torch.uint8)
    with pytest.raises(InputError, match="all given masks are empty"):
        require_structure(dark, site_masks(record, dark, segmenter))


def test_references_without_a_structure_are_named(record, segmenter, caplog):
    known = references()
    known.images[1] = -1
    site_masks(record, known, segmenter)
    assert "finds nothing in 1 references, such as '1'" in caplog.text


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
