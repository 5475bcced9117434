"""Training, then inference, on each format: what is written is what the source was."""

import json

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from datasets import slice_dataset
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from alignflow.data.datalist import build_datalist, stated_labels

PAIRS = [f"pair_{k:05d}" for k in range(4)]


@pytest.fixture
def round_trip(train, infer, tmp_path):
    """Train on a data set and sample from it: the folder of pairs."""

    def run(dataset_dir, **overrides):
        train(dataset_dir, tmp_path / "models", **overrides)
        infer(tmp_path / "models", tmp_path / "pairs")
        return tmp_path / "pairs"

    return run


def assert_is_a_dataset(pairs, labels, channels, **options):
    """The written folder can be trained on, and has the source's classes and channels."""
    cases = build_datalist(pairs)
    assert len(cases) == len(PAIRS)
    dataset = slice_dataset(cases, labels=stated_labels(pairs), **options)
    assert dataset.channels == channels
    assert list(dataset.spec.labels.values()) == labels
    return dataset


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_slices_of_nifti_volumes(round_trip, nifti_dataset):
    pairs = round_trip(nifti_dataset)
    assert names(pairs) == [
        "contact_sheet.png",
        "dataset.json",
        "images",
        "labels",
        "provenance.json",
    ]
    source = nib.load(nifti_dataset / "images/case0.nii.gz")
    origins = [(source.affine @ [0, 0, k, 1])[:3].tolist() for k in range(source.shape[2])]
    for kind, dtype in (("images", np.float32), ("labels", np.uint8)):
        assert names(pairs / kind) == [f"{name}.nii.gz" for name in PAIRS]
        for path in (pairs / kind).iterdir():
            written = nib.load(path)
            assert written.shape == (*source.shape[:2], 1)
            assert written.get_data_dtype() == dtype
            np.testing.assert_allclose(written.affine[:3, :3], source.affine[:3, :3], atol=1e-5)
            assert written.affine[:3, 3].tolist() in origins
            assert written.header.get_xyzt_units()[0] == "mm"
    assert set(np.unique(nib.load(pairs / "labels/pair_00000.nii.gz").dataobj)) <= {0, 1, 2}
    dataset = assert_is_a_dataset(pairs, [0, 1, 2], 1)
    assert list(dataset.spec.labels) == ["background", "ring", "core"]


def test_intensities_are_native(round_trip, three_class_dataset):
    pairs = round_trip(three_class_dataset, window=[100, 600])
    values = np.stack([np.asarray(nib.load(p).dataobj) for p in (pairs / "images").iterdir()])
    assert values.dtype == np.int16
    assert values.min() >= 100 and values.max() <= 600 and np.ptp(values) > 50
    assert_is_a_dataset(pairs, [0, 3, 7], 1)


def test_colour_png(round_trip, png_dataset):
    pairs = round_trip(png_dataset, validation_fraction=0.2)
    for name in PAIRS:
        image = Image.open(pairs / f"images/{name}.png")
        mask = Image.open(pairs / f"labels/{name}.png")
        assert (image.mode, image.size) == ("RGB", (32, 24))
        assert (mask.mode, mask.size) == ("L", (32, 24))
        assert set(np.unique(mask)) <= {0, 255}
    assert_is_a_dataset(pairs, [0, 255], 3)


def test_grey_jpeg_with_png_masks(round_trip, png_dataset):
    for path in (png_dataset / "images").iterdir():
        Image.open(path).convert("L").save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    pairs = round_trip(png_dataset, validation_fraction=0.2)
    for name in PAIRS:
        image = Image.open(pairs / f"images/{name}.jpg")
        mask = Image.open(pairs / f"labels/{name}.png")
        assert (image.format, image.mode, image.size) == ("JPEG", "L", (32, 24))
        assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (32, 24))
        assert set(np.unique(mask)) <= {0, 255}
    assert_is_a_dataset(pairs, [0, 255], 1)


@pytest.fixture
def oblique():
    """(spacing, origin, direction as 9 numbers) of a rotated grid, LPS and mm."""
    turn = np.deg2rad(30)
    direction = [np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1]
    return (0.8, 1.1, 3.0), (-40.0, 12.5, 7.0), direction


@pytest.fixture
def volumes():
    """(image, label) int16 and uint8 (Z, Y, X) = (4, 20, 24), HU-like, label 5 is foreground."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:20, :24]
    made = []
    for number in range(3):
        flat = 5 * (np.hypot(x - 11, y - 8 - number) < 6)
        label = np.repeat(flat[None], 4, axis=0).astype(np.uint8)
        image = (20 * label.astype(int) - 40 + rng.normal(0, 15, label.shape)).astype(np.int16)
        made.append((image, label))
    return made


def place(image, grid):
    """The SimpleITK image with spacing, origin and direction set."""
    spacing, origin, direction = grid
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


def assert_on_slice_of(written, source):
    """Same in-plane grid as `source`, and an origin on one of its slices (SimpleITK images)."""
    assert written.GetSize() == (*source.GetSize()[:2], 1)
    np.testing.assert_allclose(written.GetSpacing(), source.GetSpacing(), atol=1e-4)
    np.testing.assert_allclose(written.GetDirection(), source.GetDirection(), atol=1e-4)
    index = source.TransformPhysicalPointToContinuousIndex(written.GetOrigin())
    np.testing.assert_allclose(index, [0, 0, round(index[2])], atol=1e-3)
    assert 0 <= round(index[2]) < source.GetSize()[2]


def test_nrrd(round_trip, volumes, oblique, tmp_path):
    root = tmp_path / "nrrd"
    for folder, part in (("images", 0), ("labels", 1)):
        (root / folder).mkdir(parents=True)
        for number, pair in enumerate(volumes):
            volume = place(sitk.GetImageFromArray(pair[part]), oblique)
            sitk.WriteImage(volume, root / folder / f"case{number}.nrrd", True)
    pairs = round_trip(root, modality="CT")
    for folder, pixel in (("images", sitk.sitkInt16), ("labels", sitk.sitkUInt8)):
        source = sitk.ReadImage(root / folder / "case0.nrrd")
        for name in PAIRS:
            written = sitk.ReadImage(pairs / folder / f"{name}.nrrd")
            assert written.GetPixelID() == pixel
            assert_on_slice_of(written, source)
    assert json.loads((pairs / "dataset.json").read_text())["modality"] == {"0": "CT"}
    dataset = assert_is_a_dataset(pairs, [0, 5], 1)
    assert dataset.spec.window == (-200, 300)


def write_series(folder, volume, grid):
    """A CT series of (Z, Y, X) HU, stored with an intercept of -1024, one file per slice."""
    spacing, origin, direction = grid
    axes = np.array(direction).reshape(3, 3).T
    series = generate_uid()
    folder.mkdir(parents=True)
    for k, pixels in enumerate(volume):
        dataset = pydicom.Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.Modality, dataset.SeriesInstanceUID = "CT", series
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelSpacing = [spacing[1], spacing[0]]
        dataset.SliceThickness = spacing[2]
        position = np.array(origin) + k * spacing[2] * axes[2]
        dataset.ImagePositionPatient = position.round(6).tolist()
        dataset.ImageOrientationPatient = axes[:2].round(6).ravel().tolist()
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored = 1, 16, 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.PixelData = (pixels.astype(np.int16) + 1024).astype("<i2").tobytes()
        dataset.save_as(folder / f"slice{len(volume) - k}.dcm", enforce_file_format=True)


def test_dicom_series_are_answered_in_nifti(round_trip, volumes, oblique, tmp_path):
    root = tmp_path / "dicom"
    (root / "labels").mkdir(parents=True)
    for number, (image, label) in enumerate(volumes):
        write_series(root / f"images/case{number}", image, oblique)
        volume = place(sitk.GetImageFromArray(label), oblique)
        sitk.WriteImage(volume, root / f"labels/case{number}.nrrd")
    pairs = round_trip(root)
    source = place(sitk.GetImageFromArray(volumes[0][0]), oblique)
    for folder, pixel in (("images", sitk.sitkInt16), ("labels", sitk.sitkUInt8)):
        for name in PAIRS:
            written = sitk.ReadImage(pairs / folder / f"{name}.nii.gz")
            assert written.GetPixelID() == pixel
            assert_on_slice_of(written, source)
    values = sitk.GetArrayFromImage(sitk.ReadImage(pairs / "images/pair_00000.nii.gz"))
    assert values.min() >= -200 and values.max() <= 300
    dataset = assert_is_a_dataset(pairs, [0, 5], 1)
    assert (dataset.spec.modality, dataset.spec.window) == ("CT", (-200, 300))


def test_the_grid_of_the_generator_covers_the_same_field_of_view(
    three_class_models, infer, three_class_dataset, tmp_path
):
    infer(three_class_models, tmp_path, native_size=False)
    source = nib.load(three_class_dataset / "images/case0.nii.gz")
    written = nib.load(tmp_path / "images/pair_00000.nii.gz")
    assert written.shape == (16, 16, 1)
    outer = np.array([[-0.5, -0.5, 0, 1], [23.5, 19.5, 0, 1]]) @ source.affine.T
    ours = np.array([[-0.5, -0.5, 0, 1], [15.5, 15.5, 0, 1]]) @ written.affine.T
    np.testing.assert_allclose(ours[:, :2], outer[:, :2], atol=1e-4)


def test_provenance_tells_how_the_pairs_were_made(three_class_models, infer, tmp_path):
    infer(three_class_models, tmp_path, seed=7)
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert provenance["synthetic"] is True
    assert provenance["pairs"] == PAIRS
    assert provenance["seed"] == 7 and provenance["config"]["seed"] == 7
    assert provenance["config"]["masks"]["max_attempts"] == 2
    assert provenance["labels"] == {"background": 0, "class1": 3, "class2": 7}
    assert provenance["masks"]["drawn"] >= 4
    assert {"alignflow", "monai", "torch", "numpy"} <= provenance["versions"].keys()
    weights = provenance["weights_sha256"]
    assert weights.keys() == {"model.pt", "mask_model.pt", "segmenter.pt"}
    assert all(len(digest) == 64 for digest in weights.values())
    stage1 = json.loads((three_class_models / "stage1.json").read_text())
    assert stage1["weights"] == weights
