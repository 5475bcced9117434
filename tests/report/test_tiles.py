"""Pictures and outlines say what images and masks say."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Polygon
from PIL import Image

from alignflow.evaluation.sets import ImageSet
from alignflow.report.tiles import TileMaker, data_uri, outline_paths


def image_set(images, labels=None, given=None):
    given = [labels is not None] * len(images) if given is None else given
    empty = torch.empty(0, 1, *images.shape[2:], dtype=torch.uint8)
    return ImageSet(
        directory="",
        images=images,
        features=images.flatten(1).double(),
        masked=images[torch.tensor(given)],
        labels=empty if labels is None else labels,
        fingerprint="",
        names=[f"file{k}" for k in range(len(images))],
        given=given,
    )


def decode(uri):
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def polygons(path):
    """Even-odd filling of an SVG path of M, L, Z."""
    rings = [re.findall(r"[-\d.e]+ [-\d.e]+", ring) for ring in path.split("Z") if ring]
    return [Polygon([tuple(map(float, p.split())) for p in ring]) for ring in rings]


def maker(sets, **options):
    return TileMaker(sets, **({"y_up": False, "tile_size": 64, "file_names": False} | options))


def test_png_reads_back():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(decode(data_uri(picture)), picture)


def test_outline_holds_exactly_its_pixels():
    """Also at the border, around holes, and in several parts."""
    rng = np.random.default_rng(1)
    mask = (rng.random((12, 15)) > 0.5).astype(np.uint8) * rng.integers(1, 3, (12, 15))
    rows, columns = np.indices(mask.shape)
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    found = outline_paths(mask)
    assert len(found) == 2 and found[0][0] != found[1][0]
    for value, (_, path) in enumerate(found, start=1):
        inside = sum(ring.contains_points(centres) for ring in polygons(path)) % 2
        assert np.array_equal(inside.reshape(mask.shape).astype(bool), mask == value)


def test_a_picture_has_rows_down_and_columns_right():
    image = -torch.ones(1, 1, 8, 6)
    image[0, 0, 7, 0] = 1  # x = 7, y = 0: top right where y runs down
    label = (image > 0).to(torch.uint8)
    down = maker({"aligned": image_set(image, label)}).tile("aligned", 0)
    assert (down.width, down.height) == (8, 6)
    assert decode(down.png)[0, 7].tolist() == [255, 255, 255]
    assert [ring.contains_point((7.5, 0.5)) for ring in polygons(down.outlines[0][1])] == [True]
    up = maker({"aligned": image_set(image, label)}, y_up=True).tile("aligned", 0)
    assert decode(up.png)[5, 7].tolist() == [255, 255, 255]


def test_masks_go_to_their_images():
    """Only the second and fourth of four images have one."""
    labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    labels[1] = 1
    sets = {"aligned": image_set(torch.zeros(4, 1, 4, 4), labels, [False, True, False, True])}
    outlined = [bool(maker(sets).tile("aligned", k).outlines) for k in range(4)]
    assert outlined == [False, False, False, True]


def test_large_images_are_made_smaller_and_names_are_asked_for():
    sets = {"reference": image_set(torch.zeros(2, 1, 40, 20))}
    tile = maker(sets, tile_size=10).tile("reference", 1)
    assert (tile.width, tile.height) == (10, 5) and tile.name == "reference 2"
    assert maker(sets, file_names=True).tile("reference", 1).name == "reference 2, file1"


def test_nearest_pairs_find_a_copy():
    torch.manual_seed(0)
    known, target = torch.randn(20, 1, 4, 4), torch.randn(30, 1, 4, 4)
    made = torch.randn(10, 1, 4, 4)
    made[6] = known[11]
    sets = {"aligned": image_set(made), "reference": image_set(known), "target": image_set(target)}
    for view in ("pixels", "encoder"):
        first, second = maker(sets).nearest_pairs("reference", view, 2)
        assert (first.generated.name, first.known.name) == ("aligned 7", "reference 12")
        assert first.distance == pytest.approx(0, abs=1e-6) and second.distance > 0.3
    del sets["target"]
    single = sets | {"reference": image_set(known[:1])}
    assert maker(single).nearest_pairs("reference", "pixels", 1)[0].distance is None


def test_pairs_of_one_number_stand_side_by_side():
    """Also where some pairs of one set were taken away."""
    sets = {
        "aligned": image_set(torch.zeros(4, 1, 4, 4)),
        "unaligned": image_set(torch.zeros(5, 1, 4, 4)),
    }
    for images, numbers in ((sets["aligned"], (0, 2, 3, 9)), (sets["unaligned"], range(5))):
        images.names[:] = [f"pair_{k:05}.png" for k in numbers]
    for name in sets:
        assert [t.name for t in maker(sets).shown(name, 3)] == [f"{name} {k}" for k in (0, 2, 3)]
        assert len(maker(sets).shown(name, 8)) == 3
    strangers = {"aligned": image_set(torch.zeros(3, 1, 4, 4))}
    assert [t.name for t in maker(strangers).shown("aligned", 2)] == ["aligned 1", "aligned 3"]
