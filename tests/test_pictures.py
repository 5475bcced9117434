import numpy as np
import pytest
import torch
from monai.data import Dataset
from PIL import Image
from scipy.ndimage import binary_erosion

from alignflow.data.spec import SourceSpec
from alignflow.pictures import (
    COLOURS,
    class_colours,
    first_batch,
    image_tiles,
    mask_tiles,
    outline_tiles,
    save_rows,
    save_sheet,
    y_points_up,
)


@pytest.fixture
def labels():
    label = torch.zeros(2, 1, 12, 10, dtype=torch.uint8)
    label[0, 0, 2:8, 3:9] = 1
    label[1, 0, 1:6, 1:5] = 2
    return label


def test_gray_images_become_rgb():
    images = torch.tensor([-2.0, -1, 0, 1, 2]).view(1, 1, 5, 1)
    tiles = image_tiles(images)
    assert tiles.shape == (1, 5, 1, 3) and tiles.dtype == np.uint8
    assert tiles[0, :, 0].tolist() == [[v] * 3 for v in (0, 0, 128, 255, 255)]


def test_colour_images_keep_their_channels_and_others_show_the_first():
    images = torch.rand(2, 3, 4, 6) * 2 - 1
    expected = np.rint((images.numpy().transpose(0, 2, 3, 1) + 1) * 127.5)
    np.testing.assert_allclose(image_tiles(images), expected, atol=1)
    np.testing.assert_array_equal(image_tiles(images[:, :2]), image_tiles(images[:, :1]))
    assert image_tiles(images.bfloat16()).dtype == np.uint8


def test_classes_have_their_colours_and_background_is_black(labels):
    tiles = mask_tiles(labels)
    assert tiles.shape == (2, 12, 10, 3)
    assert (tiles[0, 2:8, 3:9] == COLOURS[1]).all() and (tiles[1, 1:6, 1:5] == COLOURS[2]).all()
    assert not tiles[0][labels[0, 0].numpy() == 0].any()


def test_colours_repeat_without_the_background():
    colours = class_colours(np.arange(12, dtype=np.uint8))
    assert len(np.unique(colours[:6], axis=0)) == 6
    np.testing.assert_array_equal(colours[6:11], colours[1:6])


def test_outline_is_the_inner_edge_and_the_rest_is_the_image(labels):
    images = torch.rand(2, 1, 12, 10) * 2 - 1
    tiles, plain = outline_tiles(images, labels), image_tiles(images)
    for k, colour in ((0, COLOURS[1]), (1, COLOURS[2])):
        inside = labels[k, 0].numpy() > 0
        edge = inside & ~binary_erosion(inside, border_value=1)
        assert (tiles[k][edge] == colour).all()
        np.testing.assert_array_equal(tiles[k][~edge], plain[k][~edge])
    assert not np.shares_memory(tiles, plain)


def read(path):
    return np.asarray(Image.open(path))


def test_sheet_holds_every_tile_in_its_place(tmp_path):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8) for _ in range(2)]
    save_sheet(tmp_path / "new/sheet.png", rows, columns=3, zoom=1)
    sheet = read(tmp_path / "new/sheet.png")
    assert sheet.shape == (2 * 2 * 8, 3 * 6, 3)  # two blocks of two rows; Y + 2 high, X + 2 wide
    for kind, tiles in enumerate(rows):
        for k, tile in enumerate(tiles):
            top, left = ((k // 3) * 2 + kind) * 8 + 1, (k % 3) * 6 + 1
            shown = sheet[top : top + 6, left : left + 4]
            np.testing.assert_array_equal(shown, tile.swapaxes(0, 1))
    assert not sheet[16:, 12:].any()


def test_y_up_turns_the_second_axis_round(tmp_path):
    tile = np.zeros((1, 4, 6, 3), np.uint8)
    tile[0, 1, 0] = 255
    for y_up, row in ((False, 1), (True, 6)):
        save_sheet(tmp_path / "sheet.png", [tile], columns=1, zoom=1, y_up=y_up)
        assert np.argwhere(read(tmp_path / "sheet.png")[..., 0]).tolist() == [[row, 2]]


def test_zoom_repeats_pixels(tmp_path):
    tiles = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    save_sheet(tmp_path / "one.png", [tiles], columns=2, zoom=1)
    save_sheet(tmp_path / "three.png", [tiles], columns=2, zoom=3)
    np.testing.assert_array_equal(
        read(tmp_path / "three.png")[1::3, 1::3], read(tmp_path / "one.png")
    )


def test_names_stand_left_of_their_rows(tmp_path):
    rows = [np.full((3, 30, 30, 3), 90, np.uint8)] * 2
    save_sheet(tmp_path / "plain.png", rows, columns=2, zoom=1)
    save_sheet(tmp_path / "named.png", rows, columns=2, zoom=1, names=["a", "b\nlonger"])
    plain, named = read(tmp_path / "plain.png"), read(tmp_path / "named.png")
    width = named.shape[1] - plain.shape[1]
    np.testing.assert_array_equal(named[:, width:], plain)
    assert all((one[:, :width] < 100).any() for one in np.split(named, 4))  # of two blocks


def test_named_rows_may_be_of_unequal_length(tmp_path):
    rows = {name: np.full((count, 80, 40, 3), 90, np.uint8) for name, count in (("a", 1), ("b", 3))}
    save_rows(tmp_path / "rows.png", rows, y_up=False)
    picture = read(tmp_path / "rows.png")[..., 0]
    assert picture.shape[0] == 2 * 2 * 42  # twice as large, so that 80 pixels become 160
    first, second = ((half == 90).sum() for half in np.split(picture, 2))
    assert second == pytest.approx(3 * first, rel=0.01)


def source(affine):
    return SourceSpec(
        channels=1,
        labels={"background": 0.0, "a": 1.0},
        modality="MR",
        window=(0.0, 1.0),
        image_suffix=".nii.gz",
        label_suffix=".nii.gz",
        image_dtype="float32",
        label_dtype="uint8",
        geometries=[{"shape": [4, 4], "affine": affine}],
    )


def test_y_points_up_where_it_runs_to_anterior_or_superior():
    assert not y_points_up(source(None))
    assert y_points_up(source(np.eye(4).tolist()))
    assert not y_points_up(source(np.diag([-1.0, -1, 1, 1]).tolist()))  # rows of an LPS image
    sagittal = np.eye(4)[:, [1, 2, 0, 3]]  # columns of a slice of (anterior, superior)
    assert y_points_up(source(sagittal.tolist()))
    oblique = [[1, 0, 0, 0], [0, -0.9, 0.4, 0], [0, 0.4, 0.9, 0], [0, 0, 0, 1.0]]
    assert not y_points_up(source(oblique))


@pytest.mark.parametrize(("size", "chosen"), [(3, [0, 5, 9]), (1, [0]), (20, list(range(10)))])
def test_first_batch_is_spread_over_the_dataset(size, chosen):
    dataset = Dataset([{"k": torch.tensor([float(k)])} for k in range(10)])
    batch = first_batch(dataset, size)["k"][:, 0].tolist()
    assert len(batch) == len(chosen)
    np.testing.assert_allclose(batch, chosen, atol=1)
