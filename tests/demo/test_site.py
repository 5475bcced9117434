import json
from dataclasses import asdict, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor

from alignflow.data.formats import load
from alignflow.data.intensity import scale
from alignflow.data.transforms import FindWindowd
from alignflow.demo.scanner import Scanner
from alignflow.demo.site import divide, write_site
from alignflow.demo.template import Slab
from alignflow.errors import InputError

BUNDLE = Path(__file__).parents[2] / "bundle"
PLAIN = Scanner(gamma=1.0, gain=1.0, offset=0.0, bias=((0.0,),), noise=0.0)


def slab(number):
    """12 x 10 x 4, each voxel with a value of its own within its slice."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (12, 10, 4)).astype(np.uint8)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = [-6, -5, 4 * number]
    return Slab(f"slab_{number:02d}", image, (image // 100).astype(np.uint8), affine)


@pytest.fixture
def slabs():
    return [slab(number) for number in range(7)]


def read(path):
    image = nib.load(path)
    return np.asanyarray(image.dataobj), image.affine


def test_no_slab_is_in_source_and_site(slabs):
    source, site = divide(slabs)
    assert [s.name for s in site] == ["slab_01", "slab_04"]
    assert {s.name for s in source} | {s.name for s in site} == {s.name for s in slabs}
    assert len(source) + len(site) == len(slabs)


def test_one_slab_cannot_be_divided(slabs):
    with pytest.raises(InputError, match="--thickness"):
        divide(slabs[:1])


def test_every_slice_is_a_reference_without_mask_or_a_test_slice_with_one(slabs, tmp_path):
    write_site(tmp_path, slabs[:3], 5, PLAIN)
    references = {p.name for p in (tmp_path / "references/images").iterdir()}
    tests = {p.name for p in (tmp_path / "test/images").iterdir()}
    assert len(references) == 5 and len(tests) == 7 and not references & tests
    assert tests == {p.name for p in (tmp_path / "test/labels").iterdir()}
    assert sorted(p.name for p in (tmp_path / "references").iterdir()) == ["dataset.json", "images"]


def test_a_plain_scanner_leaves_slices_labels_and_places_as_they_are(slabs, tmp_path):
    write_site(tmp_path, slabs[2:4], 2, PLAIN)
    for number in (2, 3):
        for k in range(4):
            name = f"slab_{number:02d}_{k:02d}.nii.gz"
            if not (path := tmp_path / f"test/images/{name}").exists():
                continue
            image, affine = read(path)
            label, _ = read(tmp_path / f"test/labels/{name}")
            np.testing.assert_array_equal(image[..., 0], slabs[number].image[..., k])
            np.testing.assert_array_equal(label[..., 0], slabs[number].label[..., k])
            assert affine[2, 3] == 4 * number + k


def test_dataset_json_declares_the_simulation(slabs, tmp_path):
    scanner = replace(PLAIN, noise=3.0)
    write_site(tmp_path, slabs[:2], 2, scanner)
    for folder in ("references", "test"):
        content = json.loads((tmp_path / folder / "dataset.json").read_text())
        assert content["simulated"] is True and "SIMULATED" in content["description"]
        stated = {k: v for k, v in content["simulation"].items() if k != "by"}
        assert stated == json.loads(json.dumps(asdict(scanner)))
        assert "McConnell Brain Imaging Centre" in content["licence"]


@pytest.mark.parametrize("references", [0, 8, 9])
def test_too_few_or_too_many_references(slabs, tmp_path, references):
    with pytest.raises(InputError, match=f"--references {references}: the site has 8"):
        write_site(tmp_path, slabs[:2], references, PLAIN)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("of_the_demo", [True, False])
def test_gain_and_offset_survive_the_window_of_the_demo_but_not_percentiles(
    slabs, tmp_path, of_the_demo
):
    write_site(tmp_path, slabs[:1], 1, replace(PLAIN, gain=0.5, offset=20.0))
    window = json.loads((BUNDLE / "configs/demo.json").read_text())["window"]
    find = FindWindowd("image", window=window if of_the_demo else None, percentiles=(0, 100))
    image = load(tmp_path / "test/images/slab_00_01.nii.gz")
    original = MetaTensor(slabs[0].image[None, ..., 1:2].astype(np.float32), meta={**image.meta})
    found = [find({"image": x})["image"] for x in (image, original)]
    site, source = (scale(x.numpy(), *x.meta["window"]) for x in found)
    assert (np.abs(site - source).mean() > 0.2) == of_the_demo
