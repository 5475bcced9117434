"""Which mask belongs to which reference."""

import numpy as np
import pytest
from PIL import Image

from alignflow.data.references import listed_files
from alignflow.errors import InputError


@pytest.fixture
def site(tmp_path):
    """`site(*files)`: a folder with small pictures of these names."""

    def build(*files):
        for name in files:
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
        return tmp_path

    return build


def test_some_references_have_masks(site):
    root = site("images/a.png", "images/b.png", "masks/b.tif")
    found = listed_files(root)
    assert found == [
        (str(root / "images/a.png"), None),
        (str(root / "images/b.png"), str(root / "masks/b.tif")),
    ]


@pytest.mark.parametrize(
    "files",
    [
        ("images/a.png", "images/a.bmp", "masks/a.png"),
        ("a.png", "a.bmp", "masks/a.png"),
        ("images/a.png", "masks/a.png", "masks/a.tif"),
    ],
)
def test_one_mask_for_two_images_or_two_masks_for_one(site, files):
    with pytest.raises(InputError, match="has the same stem; rename one"):
        listed_files(site(*files))


def test_a_mask_without_an_image_is_named(site):
    with pytest.warns(UserWarning, match="b.png': no image of this name"):
        assert listed_files(site("images/a.png", "masks/b.png"))[0][1] is None
