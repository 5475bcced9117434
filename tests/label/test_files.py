"""Masks, images and data sets that the app writes, read by other libraries."""

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK
import torch
from PIL import Image

from alignflow.data.datalist import build_datalist
from alignflow.data.formats import load
from alignflow.data.references import load_references
from alignflow.errors import InputError
from alignflow.label.bundle import MaskToInputd, NativeValuesd
from alignflow.label.segment import segment_file
from alignflow.label.site import fingerprint, link_site
from alignflow.label.synthesize import synthesize_file
from alignflow.label.volumes import in_format
from alignflow.segmentation.data import read_labelled

LABELS = {"background": 0, "bright": 255}
TURN = np.array([[0.96, 0.0, -0.28], [0.0, 1.0, 0.0], [0.28, 0.0, 0.96]])
OBLIQUE = np.eye(4)
OBLIQUE[:3] = np.c_[TURN @ np.diag([1.5, 0.75, 3.0]), [-4, 7, 30]]


class Threshold(torch.nn.Module):
    """A segmenter that finds what is brighter than the middle of the window."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, images):
        level = images.mean(dim=1, keepdim=True) * self.scale
        return torch.cat([-level, level], dim=1)


class Painter(torch.nn.Module):
    """A sampler that paints the foreground of its condition white and the rest black."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        foreground = x[:, self.channels + 1 : self.channels + 2]
        return (2 * foreground - 1).repeat(1, self.channels, 1, 1) * self.scale


def bright_block(shape):
    """A block that is not symmetric along any axis."""
    inside = np.zeros(shape, dtype=bool)
    inside[shape[0] // 4 : shape[0] // 2, shape[1] // 2 : shape[1] * 7 // 8] = True
    return inside


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_the_mask_of_a_picture_lies_on_the_picture(tmp_path, stage1):
    inside = bright_block((40, 48))
    Image.fromarray(np.repeat(200 * inside[..., None], 3, axis=2).astype(np.uint8)).save(
        tmp_path / "a.png"
    )
    path = segment_file(tmp_path / "a.png", Threshold(), stage1(LABELS), tmp_path / "mask")
    mask = np.asarray(Image.open(path))
    assert path.name == "mask.png" and mask.shape == inside.shape
    assert set(np.unique(mask)) == {0, 1}
    assert overlap(mask == 1, inside) > 0.85


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_mask_of_an_oblique_volume_has_its_grid(tmp_path, stage1, axis):
    inside = np.zeros((24, 28, 20), dtype=bool)
    inside[4:12, 14:25, 6:18] = True
    nib.save(nib.Nifti1Image((900 * inside).astype(np.int16), OBLIQUE), tmp_path / "v.nii.gz")
    record = stage1({"background": 0, "bright": 1}, modality="CT", channels=1)
    record.reading["slice_axis"] = axis
    path = segment_file(tmp_path / "v.nii.gz", Threshold(), record, tmp_path / "mask", 3)
    mask = SimpleITK.ReadImage(str(path))
    image = SimpleITK.ReadImage(str(tmp_path / "v.nii.gz"))
    assert mask.GetSize() == image.GetSize()
    for fact in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(mask, fact)(), getattr(image, fact)(), atol=1e-5)
    found = SimpleITK.GetArrayFromImage(mask).transpose() == 1
    assert overlap(found, inside) > 0.85


def test_a_client_gets_the_format_that_it_asks_for(tmp_path):
    """Uncompressed NRRD of one byte a voxel, as OHIF reads it."""
    values = np.random.default_rng(0).integers(0, 3, (9, 7, 5)).astype(np.uint8)
    nib.save(nib.Nifti1Image(values, OBLIQUE), tmp_path / "m.nii.gz")
    assert in_format(tmp_path / "m.nii.gz", None) == tmp_path / "m.nii.gz"
    path = in_format(tmp_path / "m.nii.gz", ".nrrd")
    assert [p.name for p in tmp_path.iterdir()] == ["m.nrrd"]
    found, header = nrrd.read(str(path))
    assert header["encoding"] == "raw" and found.dtype == np.uint8
    np.testing.assert_array_equal(found, values)
    lps = np.diag([-1, -1, 1, 1]) @ OBLIQUE
    np.testing.assert_allclose(header["space directions"], lps[:3, :3].T, atol=1e-5)
    np.testing.assert_allclose(header["space origin"], lps[:3, 3], atol=1e-5)
    assert path.read_bytes().endswith(values.tobytes(order="F"))
    again = nib.load(in_format(path, ".nii.gz"))
    np.testing.assert_allclose(again.affine, OBLIQUE, atol=1e-5)
    with pytest.raises(InputError, match="result_extension '.png': cannot be sent"):
        in_format(tmp_path / "m.nii.gz", ".png")


def test_an_image_unlike_the_source_is_refused(tmp_path, stage1):
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "gray.png")
    with pytest.raises(InputError, match="'gray.png': 1 channels, but the source has 3"):
        segment_file(tmp_path / "gray.png", Threshold(), stage1(LABELS), tmp_path / "mask")


def test_an_image_is_drawn_where_the_mask_is(tmp_path, stage1):
    inside = bright_block((40, 48))
    for value in (1, 255):  # the tool's and the source's
        Image.fromarray((value * inside).astype(np.uint8)).save(tmp_path / "m.png")
        path = synthesize_file(tmp_path / "m.png", Painter(3), stage1(LABELS), tmp_path / "image")
        image = np.asarray(Image.open(path))
        assert image.shape == (40, 48, 3) and image.dtype == np.uint8
        assert overlap(image[..., 0] > 127, inside) > 0.85


def test_an_image_of_a_volume_has_the_grid_and_the_units(tmp_path, stage1):
    inside = np.zeros((24, 28, 5), dtype=np.uint8)
    inside[4:12, 14:25, 1:4] = 1
    nib.save(nib.Nifti1Image(inside, OBLIQUE), tmp_path / "m.nii.gz")
    record = stage1({"background": 0, "bright": 1}, modality="CT", channels=1)
    path = synthesize_file(tmp_path / "m.nii.gz", Painter(1), record, tmp_path / "image", 0, 2)
    image = nib.load(path)
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-5)
    values = image.get_fdata()
    assert values.shape == inside.shape and image.get_data_dtype() == np.int16
    assert values.min() >= 0 and values.max() <= 1000
    assert overlap(values > 500, inside == 1) > 0.85
    assert values[..., 0].max() == 0, "a slice without mask has no foreground"


def test_a_datastore_becomes_a_data_set_of_both_workflows(tmp_path, stage1):
    record = stage1({"background": 0.0, "bright": 255.0})
    rng = np.random.default_rng(0)
    images, masks = {}, {}
    for k, name in enumerate(("first.case", "second", "third")):
        images[name] = tmp_path / f"store/{name}.png"
        images[name].parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(images[name])
        if k < 2:  # once with the value of the tool, once with that of the source
            masks[name] = tmp_path / f"store/{name}_mask.png"
            mask = bright_block((20, 24)) * (1 if k else 255)
            Image.fromarray(mask.astype(np.uint8)).save(masks[name])
    site = load_references(link_site(tmp_path / "all", images, masks, record), record)
    assert site.names == ["first.case.png", "second.png", "third.png"]
    assert site.given == [True, True, False]
    assert torch.equal(site.labels[0], site.labels[1]) and site.labels[0].any()
    labelled = link_site(tmp_path / "labelled", {n: images[n] for n in masks}, masks, record)
    pairs = read_labelled(build_datalist(labelled), record, record.image_size)
    assert len(pairs) == 2 and all(pair["label"].unique().tolist() == [0, 1] for pair in pairs)


def test_masks_keep_the_grid_of_a_volume(tmp_path, stage1):
    record = stage1({"background": 0.0, "a": 3.0}, modality="CT", channels=1)
    volume = np.zeros((8, 9, 3), np.uint8)
    volume[2:5, 3:7, 1] = 1
    for name, values in (("v", 100 * volume.astype(np.int16) + 1), ("m", volume)):
        nib.save(nib.Nifti1Image(values, OBLIQUE), tmp_path / f"{name}.nii.gz")
    site = link_site(
        tmp_path / "site", {"v": tmp_path / "v.nii.gz"}, {"v": tmp_path / "m.nii.gz"}, record
    )
    written = load(site / "masks/v.nii.gz", is_mask=True)
    assert written.unique().tolist() == [0, 3]
    np.testing.assert_allclose(written.affine, OBLIQUE, atol=1e-5)


def test_no_images_is_an_input_error(tmp_path, stage1):
    with pytest.raises(InputError, match="datastore: no images"):
        link_site(tmp_path / "site", {}, {}, stage1(LABELS))


def test_a_fingerprint_tells_other_parts_and_other_orders():
    parts = [("model.pt", "aa"), "x", "y"]
    assert len({fingerprint(p) for p in (parts, parts[1:], parts[::-1], ["xy"])}) == 4


def test_the_bundle_app_gets_noise_and_condition_of_a_mask(tmp_path, stage1):
    record = stage1(LABELS)
    inside = bright_block((16, 16))
    Image.fromarray((255 * inside.T).astype(np.uint8)).save(tmp_path / "m.png")
    both = [
        MaskToInputd("image", record, seed)({"image": str(tmp_path / "m.png")})["image"]
        for seed in (0, 1)
    ]
    label = torch.from_numpy(inside.astype(np.uint8))[None, None]
    for x in both:
        assert x.shape == (6, 16, 16)
        torch.testing.assert_close(x[3:].as_tensor(), record.condition(label)[0])
    assert abs(float(both[0][:3].mean())) < 0.2 and not torch.equal(both[0][:3], both[1][:3])


def test_the_bundle_app_draws_no_volumes(tmp_path, stage1):
    volume = np.ones((8, 9, 3), np.uint8)
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii.gz")
    with pytest.raises(InputError, match="'v.nii.gz': a volume"):
        MaskToInputd("image", stage1(LABELS))({"image": str(tmp_path / "v.nii.gz")})


def test_the_bundle_app_gets_native_values(stage1):
    image = torch.tensor([-1.0, 0.0, 1.0, 3.0]).reshape(1, 2, 2)
    found = NativeValuesd("pred", stage1(LABELS))({"pred": image, "other": 1})
    assert found["pred"].flatten().tolist() == [0.0, 127.5, 255.0, 255.0]
    assert found["result_extension"] == ".nii.gz" and found["other"] == 1
    asked = {"pred": image, "result_extension": ".nrrd", "result_dtype": "uint8"}
    found = NativeValuesd("pred", stage1(LABELS))(asked)  # values above 255 would not fit
    assert found["result_extension"] == ".nrrd" and found["result_dtype"] is None
