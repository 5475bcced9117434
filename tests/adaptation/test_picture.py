"""The picture has a row for each thing that there is to show."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from alignflow.adaptation import picture
from alignflow.data.references import References
from alignflow.pictures import COLOURS

SIZE = [80, 40]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """`drawn(labels, names)`: height of the picture in rows, and its pixels without the margin."""

    def call(labels, names, count=9):
        images = torch.zeros(count, 1, *SIZE)
        site = References(images, labels, [labels is not None] * count, [], [])
        stage1 = SimpleNamespace(
            image_size=SIZE, source=SimpleNamespace(geometries=[{"affine": None}])
        )
        record = SimpleNamespace(
            image_size=SIZE, inferer_mode="resize", build=lambda *_: torch.nn.Identity()
        )
        monkeypatch.setattr(picture, "replace", lambda record, **_: record)
        monkeypatch.setattr(picture, "load_references", lambda *_: site)
        monkeypatch.setattr(picture, "Stage1", SimpleNamespace(load=lambda _: stage1))
        monkeypatch.setattr(picture, "SegmenterRecord", SimpleNamespace(load=lambda _: record))
        monkeypatch.setattr(picture, "predict", lambda *_: disc(6)[:count])
        path = tmp_path / "verdict.png"
        picture.save_picture(
            path, tmp_path, tmp_path, dict.fromkeys(names, tmp_path), torch.device("cpu")
        )
        pixels = np.asarray(Image.open(path))
        tile = 2 * (SIZE[1] + 2)
        assert pixels.shape[0] % tile == 0
        return pixels.shape[0] // tile, pixels[:, -2 * min(count, 6) * (SIZE[0] + 2) :]

    return call


def disc(count):
    labels = torch.zeros(count, 1, *SIZE, dtype=torch.uint8)
    labels[:, :, 20:40, 10:30] = 1
    return labels


def test_four_rows_with_masks_three_without(drawn):
    names = ["source", "adapted\n(handed over)"]
    rows, pixels = drawn(disc(9), names)
    assert rows == 4
    image, *outlines = np.split(pixels, 4)
    assert image.max() < 200 and all((one == COLOURS[1]).all(-1).any() for one in outlines)
    assert drawn(None, names)[0] == 3
    assert drawn(None, names[:1], count=2)[0] == 2  # nothing was adapted


def test_images_with_a_structure_are_shown_evenly_spread():
    labels = torch.zeros(40, 1, 2, 2)
    labels[10:21] = 1
    assert picture.spread_out(labels, 40).tolist() == [10, 12, 14, 16, 18, 20]
    assert picture.spread_out(None, 11).tolist() == [0, 2, 4, 6, 8, 10]
    assert picture.spread_out(0 * labels, 3).tolist() == [0, 1, 2]
