import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from alignflow.demo.prepare import prepare
from alignflow.demo.template import square_window, template_folder, tissue_labels
from alignflow.errors import InputError

nilearn_datasets = pytest.importorskip("nilearn.datasets")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, json.loads(prepare(folder).read_text())


def volumes(dataset, key):
    folder, description = dataset
    for case in description["training"]:
        image = nib.load(folder / case[key])
        yield image.affine, np.asanyarray(image.dataobj)


def world_coordinates(affine, shape):
    voxels = np.indices(shape).reshape(3, -1)
    return nib.affines.apply_affine(affine, voxels.T)


def values_at(template, world):
    """Template values at world points, through nilearn's own image and its inverse affine."""
    voxels = nib.affines.apply_affine(np.linalg.inv(template.affine), world).round().astype(int)
    return template.get_fdata()[tuple(voxels.T)]


def test_world_coordinates_point_to_the_same_template_value(dataset):
    template = nilearn_datasets.load_mni152_template(resolution=1)  # scaled to at most 1
    for affine, image in volumes(dataset, "image"):
        expected = values_at(template, world_coordinates(affine, image.shape))
        np.testing.assert_allclose(image.ravel() / 255, expected, atol=1e-5)


def test_labels_are_the_likelier_tissue_above_one_half(dataset):
    grey = nilearn_datasets.load_mni152_gm_template(resolution=1)
    white = nilearn_datasets.load_mni152_wm_template(resolution=1)
    for affine, label in volumes(dataset, "label"):
        world = world_coordinates(affine, label.shape)
        p_grey, p_white = values_at(grey, world), values_at(white, world)
        assert set(np.unique(label)) == {0, 1, 2}
        np.testing.assert_array_equal(label.ravel() > 0, np.maximum(p_grey, p_white) > 0.5)
        np.testing.assert_array_equal(label.ravel() == 2, (p_white > 0.5) & (p_white > p_grey))


def test_image_and_label_share_grid_and_units(dataset):
    folder, description = dataset
    for case in description["training"]:
        image, label = nib.load(folder / case["image"]), nib.load(folder / case["label"])
        assert image.shape == label.shape and image.shape[:2] == (192, 192)
        np.testing.assert_array_equal(image.affine, label.affine)
        np.testing.assert_array_equal(image.get_qform(), image.get_sform())
        assert image.header.get_xyzt_units()[0] == "mm"
        assert image.get_data_dtype() == np.uint8


def test_slabs_are_groups_that_do_not_overlap(dataset):
    _, description = dataset
    groups = [case["group"] for case in description["training"]]
    assert len(set(groups)) == len(groups) == description["numTraining"] > 5
    heights = [
        affine[2, 3] + np.arange(image.shape[2]) for affine, image in volumes(dataset, "image")
    ]
    all_heights = np.concatenate(heights)
    assert np.unique(all_heights).size == all_heights.size


def test_every_labelled_voxel_of_the_kept_slices_survives_the_crop(dataset):
    grey, white = (
        np.asanyarray(
            nib.load(
                template_folder() / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
            ).dataobj
        )
        for kind in ("gm", "wm")
    )
    per_slice = ((grey > 127) | (white > 127)).sum(axis=(0, 1))
    kept = per_slice[per_slice >= 2000].sum()
    assert sum((label > 0).sum() for _, label in volumes(dataset, "label")) == kept


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def test_same_bytes_again_and_nothing_else_left(dataset, tmp_path):
    folder, description = dataset
    before = digests(folder)
    prepare(folder)
    prepare(tmp_path)
    assert digests(folder) == before == digests(tmp_path)
    assert len(before) == 2 * description["numTraining"] + 1


def test_dataset_json_states_licence_and_classes(dataset):
    _, description = dataset
    assert description["labels"] == {"0": "background", "1": "grey matter", "2": "white matter"}
    assert description["modality"] == {"0": "MRI"}
    assert "McConnell Brain Imaging Centre" in description["licence"]


def test_tissue_labels_at_the_threshold():
    grey = np.array([0, 127, 128, 128, 200, 100], dtype=np.uint8)
    white = np.array([0, 127, 0, 128, 201, 155], dtype=np.uint8)
    np.testing.assert_array_equal(tissue_labels(grey, white), [0, 0, 1, 1, 2, 2])


def test_square_window_is_centred():
    brain = np.zeros((20, 30, 2), bool)
    brain[5:11, 10:20] = True
    assert square_window(brain, 12) == (slice(2, 14), slice(9, 21))


@pytest.mark.parametrize("bad", [{"side": 100}, {"side": 230}, {"thickness": 0}])
def test_bad_arguments_name_themselves_and_the_mend(tmp_path, bad):
    with pytest.raises(InputError, match=f"--{next(iter(bad))} .*take"):
        prepare(tmp_path, **bad)
    assert not list(tmp_path.rglob("*.json"))


def test_no_slice_with_so_much_tissue(tmp_path):
    with pytest.raises(InputError, match="--min_tissue 1000000"):
        prepare(tmp_path, min_tissue=1_000_000)


def test_with_a_site_the_slabs_are_divided_and_the_bytes_are_the_same_again(tmp_path):
    for folder in ("one", "two"):
        prepare(tmp_path / folder / "data", site_dir=tmp_path / folder / "site", references=6)
    first = digests(tmp_path / "one")
    assert first == digests(tmp_path / "two")
    slabs = [
        c["group"] for c in json.loads((tmp_path / "one/data/dataset.json").read_text())["training"]
    ]
    at_site = [name for name in first if name.startswith("site/") and "/images/" in name]
    assert not [name for name in at_site if any(slab in name for slab in slabs)]
    assert sum(name.startswith("site/references/images/") for name in first) == 6
    assert not any(name.startswith("site/references/labels/") for name in first)
