"""Scores against sets of pixels; weights that are kept."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist
from torch import nn

from alignflow.errors import InputError
from alignflow.segmentation.keep import KeepWeights
from alignflow.segmentation.record import SegmenterRecord, require_finite
from alignflow.segmentation.scoring import overlap_tables, predict


def hd95(p, y):
    """The larger of the 95th percentiles of distances from one outline to the other."""
    edges = [np.argwhere(m & ~binary_erosion(m)) for m in (p.numpy(), y.numpy())]
    distance = cdist(*edges)
    return max(np.percentile(distance.min(axis=axis), 95) for axis in (0, 1))


def test_tables_against_sets_of_pixels():
    generator = torch.Generator().manual_seed(0)
    predicted, labels = (
        torch.randint(0, 3, (70, 1, 6, 5), generator=generator).byte() for _ in range(2)
    )
    labels[4] = 0
    labels[5][labels[5] == 2] = 1
    predicted[6] = 0
    tables = overlap_tables(predicted, labels, 3)
    for i in range(70):
        for k in (1, 2):
            p = set(np.flatnonzero(predicted[i] == k))
            y = set(np.flatnonzero(labels[i] == k))
            found = {name: table[i, k - 1] for name, table in tables.items()}
            if not y:
                assert np.isnan(list(found.values())).all()
                continue
            expected = {
                "dice": 2 * len(p & y) / (len(p) + len(y)),
                "iou": len(p & y) / len(p | y),
                "sensitivity": len(p & y) / len(y),
                "precision": len(p & y) / len(p) if p else 0,
                "hd95": hd95(predicted[i, 0] == k, labels[i, 0] == k) if p else np.hypot(6, 5),
            }
            assert found == pytest.approx(expected, abs=1e-6)


def test_prediction_in_batches_is_that_of_all_at_once():
    torch.manual_seed(0)
    network, images = nn.Conv2d(2, 4, 3, padding=1), torch.randn(7, 2, 8, 8)
    predicted = predict(network, images, lambda x, net: net(x), batch_size=3)
    assert predicted.dtype == torch.uint8
    assert torch.equal(predicted, network(images).argmax(1, keepdim=True).byte())


def validation(dice, epoch):
    metrics = {"dice": dice, "iou": dice / 2}
    details = {name: torch.tensor([[value, float("nan")]]) for name, value in metrics.items()}
    return SimpleNamespace(
        state=SimpleNamespace(metrics=metrics, metric_details=details, epoch=epoch)
    )


@pytest.mark.parametrize(("keep", "expected"), [("last", 4), ("best", 2)])
def test_weights_kept(keep, expected):
    network = nn.Linear(1, 1)
    kept = KeepWeights(network, keep)
    for epoch, dice in enumerate((0.5, 0.8, 0.8, 0.6), start=1):
        nn.init.constant_(network.weight, epoch)
        kept(validation(dice, epoch))
    nn.init.zeros_(network.weight)
    assert kept.state["weight"].item() == kept.scores["epoch"] == expected
    assert kept.scores["dice"]["classes"][1] == -1  # no image has the class


def test_best_of_no_dice_at_all_is_the_first():
    network = nn.Linear(1, 1)
    kept = KeepWeights(network, "best")
    for epoch in (1, 2):
        kept(validation(float("nan"), epoch))
    assert kept.state and json.dumps(kept.scores, allow_nan=False)


def test_weights_that_are_not_finite():
    require_finite({"a": torch.ones(2), "steps": torch.tensor(3)})
    with pytest.raises(InputError, match="'a' are not finite.*learning_rate"):
        require_finite({"a": torch.tensor([1.0, float("nan")])})


CONFIG = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}


@pytest.fixture
def saved(tmp_path):
    network = nn.Conv2d(1, 2, 1)
    kept = KeepWeights(network)
    kept(validation(0.7, 1))
    record = SegmenterRecord(
        CONFIG, 1, {"background": 0.0, "a": 1.0}, [8, 8], [0.0, 1.0], {}, "resize", {"real": 3}
    )
    record.save(tmp_path, kept, {"seed": 1})
    return tmp_path, record, network


def test_record_round_trip(saved):
    folder, record, network = saved
    loaded = SegmenterRecord.load(folder)
    assert loaded == record and loaded.provenance["real"] == 3
    assert loaded.validation["dice"]["mean"] == 0.7
    torch.testing.assert_close(
        loaded.build(folder, "cpu").state_dict(), network.state_dict(), rtol=0, atol=0
    )


def test_records_that_are_refused(saved):
    folder = saved[0]
    (folder / "segmenter.pt").write_bytes(b"other")
    with pytest.raises(InputError, match="not the file that segmenter.json was written with"):
        SegmenterRecord.load(folder)
    (folder / "segmenter.json").write_text("{}")
    with pytest.raises(InputError, match="damaged or of another version.*network"):
        SegmenterRecord.load(folder)
    (folder / "segmenter.json").unlink()
    with pytest.raises(InputError, match="segmenter.json': no such file; run segment"):
        SegmenterRecord.load(folder)
