import numpy as np
import pytest
import torch
from PIL import Image

from alignflow.inspection.duplicates import copies
from alignflow.inspection.files import read_facts


@pytest.fixture
def written(tmp_path):
    """`written(arrays)`: facts of grey images saved as PNG."""

    def write(arrays):
        cases = []
        for number, array in enumerate(arrays):
            path = tmp_path / f"{len(list(tmp_path.iterdir())):03d}_{number}.png"
            Image.fromarray(np.clip(array, 0, 255).astype(np.uint8)).save(path)
            cases.append({"image": str(path)})
        return read_facts(cases, None, "images")

    return write


def smooth(count, seed=0, size=48):
    """Random images with structure in common (a ramp) and of their own, 50 to 200."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(size=(count, 1, 6, 6)))
    own = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").numpy()[:, 0]
    ramp = np.linspace(0, 60, size)[:, None]
    return list(80 + ramp + 20 * own)


def test_different_images_are_no_copies(written):
    files = written(smooth(12))
    assert copies(files, files) == []


def test_an_exact_copy(written):
    images = smooth(8)
    files = written([*images, images[3]])
    assert copies(files, files) == [(3, 8, True)]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image + np.random.default_rng(1).normal(0, 2, image.shape),
        lambda image: 0.7 * image + 30,
        lambda image: np.array(
            Image.fromarray(image.astype(np.uint8)).resize((37, 41)).resize((48, 48))
        ),
    ],
    ids=["noise", "brightness", "resized"],
)
def test_a_changed_copy_is_a_near_one(written, change):
    images = smooth(8)
    files = written([*images, change(images[5])])
    assert copies(files, files) == [(5, 8, False)]


def test_copies_across_two_lists(written):
    images = smooth(8)
    first, second = written(images), written([*smooth(4, seed=9), images[2]])
    assert copies(first, second) == [(2, 4, True)]


def test_a_pair_alone_is_compared_too(written):
    one, other = smooth(2)
    files = written([one, other])
    assert copies(files, files) == []
    files = written([one, one + 1])
    assert copies(files, files) == [(0, 1, False)]
