"""Masks from segmentations and structure sets, laid on the grid of their image."""

import nibabel as nib
import nrrd
import numpy as np
import pydicom
import pytest
import torch
from datasets import slice_dataset
from monai.data import MetaTensor
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from alignflow.data.collect import collect
from alignflow.data.dicom import find_series
from alignflow.data.dicom_masks import read_mask_on_planes
from alignflow.data.formats import load
from alignflow.data.spec import SourceSpec
from alignflow.data.structures import Structures
from alignflow.errors import InputError

highdicom = pytest.importorskip("highdicom")

VOLUME = np.random.default_rng(0).integers(-500, 900, (16, 14, 5)).astype(np.int16)


@pytest.fixture
def series(tmp_path, write_series):
    """(files in spatial order, the image as `load` gives it) of an oblique series."""
    files = write_series(tmp_path / "case1", VOLUME, PatientSex="", PatientBirthDate="")
    return files, load(tmp_path / "case1")


def segment(number, name):
    tissue = codes.cid7150.Tissue
    return highdicom.seg.SegmentDescription(number, name, tissue, codes.SCT.Liver, "MANUAL")


@pytest.fixture
def write_seg(tmp_path, series):
    """Write a segmentation (Z, Y, X[, segments]) of the slices `which` of the series."""

    def write(array, names=("liver",), which=slice(None), kind="BINARY"):
        files = series[0][which] if isinstance(which, slice) else [series[0][k] for k in which]
        images = [pydicom.dcmread(file) for file in files]
        for image in images:
            image.FrameOfReferenceUID, image.PositionReferenceIndicator = "1.2.3.9", ""
            for name in ("PatientID", "PatientName", "StudyID", "AccessionNumber"):
                setattr(image, name, "")
            for name in ("StudyDate", "StudyTime", "ReferringPhysicianName"):
                setattr(image, name, "")
        made = highdicom.seg.Segmentation(
            images,
            array,
            kind,
            [segment(k, name) for k, name in enumerate(names, start=1)],
            series_instance_uid=generate_uid(),
            series_number=2,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="m",
            manufacturer_model_name="m",
            software_versions="1",
            device_serial_number="1",
        )
        made.save_as(tmp_path / "case1_seg.dcm")
        return tmp_path / "case1_seg.dcm"

    return write


def boxes():
    """Labels 0, 1, 2 (X, Y, Z); slices 0 and 3 are empty."""
    label = np.zeros(VOLUME.shape, np.uint8)
    label[2:9, 3:6, 1:3] = 1
    label[10:14, 7:12, 2] = 2
    label[4:6, 1:13, 4] = 2
    return label


def test_segments_land_on_their_voxels(series, write_seg):
    path = write_seg(boxes().transpose(2, 1, 0), ("liver", "spleen"))
    mask = load(path, is_mask=True, image=series[1])
    np.testing.assert_array_equal(mask[0], boxes())
    np.testing.assert_allclose(mask.affine, series[1].affine)
    assert mask.meta["native_dtype"] == "uint8"


def test_a_segmentation_of_some_slices_only(series, write_seg):
    path = write_seg(boxes().transpose(2, 1, 0)[1:3], ("liver", "spleen"), which=slice(1, 3))
    expected = boxes()
    expected[..., 4] = 0
    np.testing.assert_array_equal(load(path, is_mask=True, image=series[1])[0], expected)


def dataset(cases, labels=None, **options):
    cases = [{"image": str(image), "label": str(label)} for image, label in cases]
    return slice_dataset(cases, labels=labels, **options)


def test_a_class_is_its_name_in_every_file(tmp_path, series, write_seg, write_rtstruct):
    image = series[0][0].parent
    first = write_seg(boxes().transpose(2, 1, 0), ("Liver", "Spleen")).rename(tmp_path / "a.dcm")
    turned = (3 - boxes()) * (boxes() > 0)
    second = write_seg(turned.transpose(2, 1, 0), ("spleen", "liver ")).rename(tmp_path / "b.dcm")
    read = dataset([(image, first), (image, second)])
    assert read.spec.labels == {"background": 0, "Liver": 1, "Spleen": 2}
    expected = boxes()[..., [1, 2, 4]].transpose(2, 0, 1)
    np.testing.assert_array_equal(read.label_stack[:, 0], np.concatenate([expected, expected]))
    drawn = write_rtstruct({"BODY": [box((0, 15), (0, 13), 1)], "LIVER": [box((2, 8), (3, 5), 1)]})
    read = dataset([(image, first), (image, drawn)], {"organ": "Liver"})
    assert read.spec.labels == {"background": 0, "organ": 1}
    np.testing.assert_array_equal(read.label_stack[-1, 0], boxes()[..., 1] == 1)


def test_structures_are_merged_and_others_left_out(series, write_rtstruct, caplog):
    shapes = {"Lung_L": (0, 3), "Lung_R": (8, 11), "PTV": (2, 9), "Heart": (5, 6)}
    drawn = write_rtstruct({n: [box(x, (3, 5), 1)] for n, x in shapes.items()})
    labels = {"heart": "Heart", "lung": ["Lung_L", "lung_r"]}
    with caplog.at_level("INFO"):
        read = dataset([(series[0][0].parent, drawn)], labels)
    assert "structures 'PTV' are not in labels and left out" in caplog.text
    expected = np.zeros(VOLUME.shape[:2])
    expected[5:7, 3:6], expected[0:4, 3:6], expected[8:12, 3:6] = 1, 2, 2
    np.testing.assert_array_equal(read.label_stack[0, 0], expected)
    again = SourceSpec.from_dict(read.spec.to_dict())
    mask = load(drawn, True, series[1], Structures.of("disjoint", again.labels, again.structures))
    np.testing.assert_array_equal(mask[0, ..., 1], expected)


def test_labels_that_name_no_structure(tmp_path, series, write_seg):
    path = write_seg(boxes().transpose(2, 1, 0), ("liver", "spleen"))
    with pytest.raises(InputError, match="none of Leber is a structure .*'liver', 'spleen'; set"):
        dataset([(series[0][0].parent, path)], {"Leber": 1})
    nib.save(nib.Nifti1Image(boxes(), series[1].affine.numpy()), tmp_path / "b.nii")
    pairs = [(series[0][0].parent, path), (series[0][0].parent, tmp_path / "b.nii")]
    with pytest.raises(InputError, match="names its structures, others have values; state which"):
        dataset(pairs)
    read = dataset(pairs, {"liver": 1, "spleen": 2})
    np.testing.assert_array_equal(read.label_stack[:3], read.label_stack[3:])


def test_overlap_is_refused(series, write_seg):
    both = np.stack([boxes() > 0, boxes() == 2], axis=-1).astype(np.uint8)
    path = write_seg(both.transpose(2, 1, 0, 3), ("liver", "lesion"))
    with pytest.raises(InputError, match="'lesion' and 'liver' overlap"):
        load(path, is_mask=True, image=series[1])


def test_nested_regions_may_overlap_and_the_later_label_is_on_top(series, write_seg, caplog):
    both = np.stack([boxes() == 2, boxes() > 0], axis=-1).astype(np.uint8)
    path = write_seg(both.transpose(2, 1, 0, 3), ("lesion", "liver"))
    with caplog.at_level("INFO"):
        rules = Structures({"liver": 2, "lesion": 1}, nested=True)
        mask = load(path, is_mask=True, image=series[1], structures=rules)
    lesion_on_top = np.where(boxes() == 2, 1, 2) * (boxes() > 0)
    np.testing.assert_array_equal(mask[0], lesion_on_top)
    pixels = int((boxes() == 2).sum())
    assert f"'lesion' lies on 'liver' in {pixels} pixels" in caplog.text
    for names in ({"lesion": 1, "liver": 2}, {}):  # as labels say, and by value
        rules = Structures(names, nested=True)
        mask = load(path, is_mask=True, image=series[1], structures=rules)
        np.testing.assert_array_equal(mask[0], 2 * (boxes() > 0))


def test_training_on_nested_regions(series, write_seg):
    both = np.stack([boxes() > 0, boxes() == 2], axis=-1).astype(np.uint8)
    path = write_seg(both.transpose(2, 1, 0, 3), ("liver", "lesion"))
    case = [(series[0][0].parent, path)]
    found = dataset(case, {"liver": 5, "lesion": 2}, scheme="nested").label_stack
    np.testing.assert_array_equal(found[:, 0], boxes()[..., [1, 2, 4]].transpose(2, 0, 1))
    with pytest.raises(InputError, match="which of lesion, liver lies within which is not stated"):
        dataset(case, scheme="nested")
    with pytest.raises(InputError, match="'lesion' and 'liver' overlap.*\"mask_scheme\" nested"):
        dataset(case, {"liver": 5, "lesion": 2})


def test_fractions_are_refused(series, write_seg):
    path = write_seg((boxes() > 0).transpose(2, 1, 0) / 2, kind="FRACTIONAL")
    with pytest.raises(InputError, match="fractional.*binary"):
        load(path, is_mask=True, image=series[1])


def test_a_mask_of_another_image_is_refused(series, write_seg):
    path = write_seg(boxes().transpose(2, 1, 0), ("liver", "spleen"))
    for shift, reason in ((0.3, "not those of its image"), (40, "beyond the image")):
        affine = series[1].affine.clone()
        affine[:3, 3] += shift * affine[:3, 0]
        moved = MetaTensor(series[1].as_tensor(), affine=affine)
        with pytest.raises(InputError, match=reason):
            load(path, is_mask=True, image=moved)


@pytest.fixture
def write_rtstruct(tmp_path, series):
    """Write structures {name: [polygon (n, 3) of voxel indices, ...]} as a structure set."""

    def write(structures, kind="CLOSED_PLANAR"):
        affine = np.diag([-1, -1, 1, 1]) @ series[1].affine.numpy()
        made = Dataset()
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = RTStructureSetStorage
        made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
        made.Modality = "RTSTRUCT"
        made.StructureSetROISequence, made.ROIContourSequence = [], []
        for number, (name, polygons) in enumerate(structures.items(), start=1):
            roi, contours = Dataset(), Dataset()
            roi.ROINumber, roi.ROIName = number, name
            contours.ReferencedROINumber, contours.ContourSequence = number, []
            for polygon in polygons:
                contour = Dataset()
                contour.ContourGeometricType = kind
                points = np.c_[polygon, np.ones(len(polygon))] @ affine.T
                contour.ContourData = [f"{x:.6f}" for x in points[:, :3].ravel()]
                contours.ContourSequence.append(contour)
            made.StructureSetROISequence.append(roi)
            made.ROIContourSequence.append(contours)
        made.save_as(tmp_path / "rt.dcm", enforce_file_format=True)
        return tmp_path / "rt.dcm"

    return write


def box(x, y, k):
    """Contour around the voxels of two ranges (first, last) in slice k."""
    (a, b), (c, d) = (np.array(r) + [-0.4, 0.4] for r in (x, y))
    return [(a, c, k), (b, c, k), (b, d, k), (a, d, k)]


def test_structures_are_filled_and_holes_stay_open(series, write_rtstruct):
    ring = [box((2, 10), (3, 11), 1), box((5, 7), (6, 8), 1)]
    path = write_rtstruct({"organ": ring, "node": [box((12, 13), (1, 2), 3)]})
    expected = np.zeros(VOLUME.shape)
    expected[2:11, 3:12, 1] = 1
    expected[5:8, 6:9, 1] = 0
    expected[12:14, 1:3, 3] = 2
    mask = load(path, is_mask=True, image=series[1])
    np.testing.assert_array_equal(mask[0], expected)
    assert torch.equal(mask.affine, series[1].affine)


def test_structures_that_overlap(series, write_rtstruct):
    path = write_rtstruct({"organ": [box((2, 10), (3, 11), 1)], "core": [box((5, 7), (6, 8), 1)]})
    with pytest.raises(InputError, match="'core' and 'organ' overlap"):
        load(path, is_mask=True, image=series[1])
    mask = load(path, is_mask=True, image=series[1], structures=Structures(nested=True))
    expected = np.zeros(VOLUME.shape)
    expected[2:11, 3:12, 1] = 1
    expected[5:8, 6:9, 1] = 2
    np.testing.assert_array_equal(mask[0], expected)


def test_masks_of_a_series_with_a_gap(tmp_path, series, write_seg, write_rtstruct):
    label = np.repeat(boxes()[..., 2:3], 5, axis=2)
    kept = [0, 1, 3, 4]
    write_seg(label[..., kept].transpose(2, 1, 0), ("liver", "spleen"), which=kept)
    series[0][2].unlink()
    collect(str(tmp_path), str(tmp_path / "out"), "resample")
    image = load(tmp_path / "out/images/series_001.nii.gz")
    mask = load(tmp_path / "out/masks/series_001.nii.gz", is_mask=True)
    np.testing.assert_array_equal(mask[0], label)
    np.testing.assert_allclose(mask.affine, series[1].affine, atol=1e-4)
    np.testing.assert_allclose(image.affine, series[1].affine, atol=1e-4)

    polygons = [box((2, 10), (3, 11), k) for k in kept]
    planes = find_series(tmp_path / "case1", regular=False).planes
    found = read_mask_on_planes(write_rtstruct({"a": polygons}), VOLUME.shape[:2], planes, [])
    whole = load(tmp_path / "rt.dcm", is_mask=True, image=series[1])
    np.testing.assert_array_equal(found, whole[..., kept])
    assert found.any(axis=(0, 1, 2)).all()
    between = write_rtstruct({"a": [box((2, 10), (3, 11), 2)]})
    with pytest.raises(InputError, match="'a': contours beyond the image or between its slices"):
        read_mask_on_planes(between, VOLUME.shape[:2], planes, [])


def test_what_is_no_closed_contour_of_the_image_is_refused(series, write_rtstruct):
    image = series[1]
    path = write_rtstruct({"organ": [box((2, 10), (3, 11), 1)]})
    with pytest.raises(InputError, match="no grid of its own; give its image"):
        load(path, is_mask=True)
    path = write_rtstruct({"organ": [box((2, 10), (3, 11), 9)]})
    with pytest.raises(InputError, match="'organ': contours beyond the image"):
        load(path, is_mask=True, image=image)
    path = write_rtstruct({"organ": [[(2, 2, 0), (9, 2, 0), (9, 2, 3), (2, 2, 3)]]})
    with pytest.raises(InputError, match="across the slices"):
        load(path, is_mask=True, image=image)
    path = write_rtstruct({"point": [[(2, 2, 0)]]}, kind="POINT")
    with pytest.raises(InputError, match="no region in it"):
        load(path, is_mask=True, image=image)


def rt_mask(series, write_rtstruct, polygons, **options):
    return load(write_rtstruct({"a": polygons}, **options), is_mask=True, image=series[1])[0]


def test_contours_twice_between_slices_and_side_by_side(series, write_rtstruct):
    once = rt_mask(series, write_rtstruct, [box((2, 8), (3, 9), 1)])
    twice = [box((2, 8), (3, 9), 1)] * 2
    np.testing.assert_array_equal(rt_mask(series, write_rtstruct, twice), once)
    half = [box((2, 8), (3, 9), 1), box((2, 9), (3, 9), 1.4), box((2, 8), (3, 9), 0.6)]
    np.testing.assert_array_equal(rt_mask(series, write_rtstruct, half)[..., 1], once[..., 1])
    pair = rt_mask(series, write_rtstruct, [box((2, 6), (3, 9), 1), box((5, 9), (3, 9), 1)])
    expected = np.zeros(VOLUME.shape[:2])
    expected[2:10, 3:10] = 1
    np.testing.assert_array_equal(pair[..., 1], expected)
    island = [box((1, 12), (1, 12), 1), box((3, 10), (3, 10), 1), box((5, 7), (5, 7), 1)]
    expected = np.zeros(VOLUME.shape[:2])
    expected[1:13, 1:13], expected[3:11, 3:11], expected[5:8, 5:8] = 1, 0, 1
    np.testing.assert_array_equal(rt_mask(series, write_rtstruct, island)[..., 1], expected)


def test_names_that_labels_get_wrong(tmp_path, series, write_rtstruct):
    shapes = {"Tumor": [box((1, 4), (1, 4), 1)], "Tumor_final": [box((8, 12), (8, 12), 1)]}
    case = [(series[0][0].parent, write_rtstruct(shapes))]
    read = dataset(case, {"tumor": "Tumor final"})
    assert read.label_stack.sum() == 25  # Tumor_final alone
    with pytest.raises(
        InputError, match="no mask has a structure 'tumour'; the masks have 'Tumor'"
    ):
        dataset(case, {"tumor": ["Tumour", "Tumor"]})
    with pytest.raises(InputError, match="structure 'tumor' is in two classes"):
        dataset(case, {"one": "Tumor", "two": ["tumor", "Tumor_final"]})
    nameless = [(series[0][0].parent, write_rtstruct({"": shapes["Tumor"]}))]
    with pytest.raises(InputError, match="a structure without a name"):
        dataset(nameless)
    nib.save(nib.Nifti1Image(boxes(), series[1].affine.numpy()), tmp_path / "b.nii")
    with pytest.raises(InputError, match="the masks have values alone"):
        dataset([(series[0][0].parent, tmp_path / "b.nii")], {"liver": "Liver"})


def test_structures_beyond_the_image_that_no_class_needs(series, write_rtstruct):
    shapes = {"BODY": [box((2, 10), (3, 11), 9)], "Liver": [box((2, 4), (3, 5), 1)]}
    case = [(series[0][0].parent, write_rtstruct(shapes))]
    assert dataset(case, {"liver": "Liver"}).label_stack.sum() == 9


def write_slicer(folder, series, *files):
    """Pairs of the series with .seg.nrrd files, each of {name: value} for what `boxes` draws."""
    affine = np.diag([-1, -1, 1, 1]) @ series[1].affine.numpy()
    space = {"space": "LPS", "space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
    for k, segments in enumerate(files):
        names = {f"Segment{j}_Name": name for j, name in enumerate(segments)}
        codes = {f"Segment{j}_LabelValue": str(v) for j, v in enumerate(segments.values())}
        label = np.array([0, *segments.values()], np.uint8)[boxes()]
        nrrd.write(str(folder / f"{k}.seg.nrrd"), label, space | names | codes)
    return [(series[0][0].parent, folder / f"{k}.seg.nrrd") for k in range(len(files))]


def test_names_misspelt_in_some_files(tmp_path, series, caplog):
    right, wrong = {"Liver": 1, "Spleen": 2}, {"Livr": 1, "Spleen": 2}
    pairs = write_slicer(tmp_path, series, right, wrong, right)
    with pytest.raises(InputError, match="'Liver' in .*0.seg.*, .*2.seg.* and 'Livr' in .*1.seg"):
        dataset(pairs)
    both = dataset(pairs, {"liver": ["Liver", "Livr"], "spleen": "Spleen"})
    assert both.spec.labels == {"background": 0, "liver": 1, "spleen": 2}
    assert "is missing" not in caplog.text
    read = dataset(pairs, {"liver": "Liver"})
    assert len(read) == 4  # of the slices with a liver by name, none by number
    assert "'Livr' is not in labels, and a class is missing in '" in caplog.text
    assert "1.seg.nrrd'; if" in caplog.text


def test_segments_of_slicer_by_name(tmp_path, series):
    pairs = write_slicer(tmp_path, series, {"Liver": 1, "Spleen": 2}, {"Liver": 2, "Spleen": 1})
    read = dataset(pairs)
    assert read.spec.labels == {"background": 0, "Liver": 1, "Spleen": 2}
    expected = boxes()[..., [1, 2, 4]].transpose(2, 0, 1)
    np.testing.assert_array_equal(read.label_stack[:, 0], np.concatenate([expected, expected]))
