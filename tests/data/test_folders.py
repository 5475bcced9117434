"""Which files of a folder are images, and which mask is whose; mostly names matter here."""

import unicodedata

import numpy as np
import pytest

from alignflow.data.datalist import build_datalist, split_by_group
from alignflow.data.folders import short_names
from alignflow.data.formats import load
from alignflow.data.references import listed_files
from alignflow.errors import InputError


@pytest.fixture
def write(tmp_path):
    """`write(*names)`: a data set of files that hold nothing but a letter."""

    def call(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return tmp_path

    return call


def pairs(root, **options):
    """{image: mask}, relative to the folders of both."""
    return {
        case["image"].split("/images/")[1]: case["label"].split("/masks/")[1]
        for case in build_datalist(root, **options)
    }


def refused(root):
    with pytest.raises(InputError) as caught:
        build_datalist(root)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("case0.jpg", "case0_segmentation.png"),
        ("case0.jpg", "case0-mask.png"),
        ("case0.nrrd", "case0.seg.nrrd"),
        ("case0.nii.gz", "case0_labels.nii.gz"),
        ("case 0.png", "case 0 GT.png"),
        ("case (0).png", "case (0)__(mask) 1.png"),
        ("sub-01_T1w.nii.gz", "sub-01_T1w_desc-lesion_mask.nii.gz"),
        ("sub-01_T1w.nii.gz", "sub-01_dseg.nii.gz"),
        ("sub-01_ses-2_run-1_bold.nii.gz", "sub-01_ses-2_run-1_label-gm_probseg.nii.gz"),
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_space-orig_dseg.nii.gz"),
        ("case0.nii.gz", "case0/liver.nii.gz"),
    ],
)
def test_a_mask_begins_with_the_name_of_its_image(write, image, mask):
    root = write(f"images/{image}", "images/sub-02_T1w.nii.gz", f"masks/{mask}")
    write("masks/sub-02_T1w_desc-lesion_mask.nii.gz")
    assert pairs(root)[image] == mask


def test_the_longest_name_counts(write):
    root = write("images/a.png", "images/a_1.png", "masks/a_mask.png", "masks/a_1_mask.png")
    assert pairs(root) == {"a.png": "a_mask.png", "a_1.png": "a_1_mask.png"}


def test_a_mask_of_just_the_name_comes_first(write):
    root = write("images/a.png", "masks/a.png", "masks/a_mask_old.png")
    with pytest.warns(UserWarning, match=r"a_mask_old.png': no image of this name; it is not used"):
        assert pairs(root) == {"a.png": "a.png"}


def test_any_suffix_that_all_masks_share(write):
    names = [
        f"{kind}/{k}{end}.png" for k in "ab" for kind, end in (("images", ""), ("masks", "_x"))
    ]
    assert pairs(write(*names)) == {"a.png": "a_x.png", "b.png": "b_x.png"}


@pytest.mark.parametrize("mask", ["case_1_left", "case_1_2", "case_1_2_mask"])
def test_a_mask_of_another_image_is_not_taken(write, mask):
    """Of images case_1_left or case_1_2 that are missing."""
    root = write("images/case_1.png", "images/case_2.png", f"masks/{mask}.png", "masks/case_2.png")
    [line] = refused(root)
    assert f"case_1.png': no mask '{root}/masks/case_1.*'; add it (there: '{mask}.png')" in line


def test_two_masks_that_fit(write):
    root = write("images/a.png", "masks/a_mask.png", "masks/a_seg.tif")
    line = f"image '{root}/images/a.png': 2 masks fit, 'a_mask.png', 'a_seg.tif'; leave one"
    assert refused(root)[0].startswith(line)
    with pytest.raises(InputError, match="2 masks fit"):
        listed_files(root)


def test_one_mask_for_two_bids_images(write):
    root = write("images/sub-01_T1w.nii", "images/sub-01_FLAIR.nii", "masks/sub-01_dseg.nii")
    lines = refused(root)
    assert len(lines) == 2 and all("(there: 'sub-01_dseg.nii')" in line for line in lines)


def test_a_mask_of_another_contrast(write):
    root = write("images/sub-01_T1w.nii", "masks/sub-01_T2w_mask.nii")
    assert "no mask" in refused(root)[0]


def test_a_mask_whose_name_may_be_of_another_image(write):
    names = [
        f"{kind}/p{k}{end}.png"
        for k in (1, 2)
        for kind, end in (("images", ""), ("masks", "_mask"))
    ]
    with pytest.warns(UserWarning, match="'p3_s2_mask' end differently") as caught:
        pairs(write(*names, "images/p3.png", "masks/p3_s2_mask.png"))
    assert len(caught) == 1


def test_names_that_are_there(write):
    root = write("images/a.png", *(f"masks/m{k}.png" for k in range(5)))
    assert "(there: 'm0.png', 'm1.png', 'm2.png' and 2 more)" in refused(root)[0]
    for path in (root / "masks").iterdir():
        path.unlink()
    assert "(there: nothing)" in refused(root)[0]
    write("masks/a.gif")
    assert "(there: 'a.gif')" in refused(root)[0]


def test_folders_that_are_there(write):
    [line] = refused(write("images/a.png", "annotations/a.png"))
    assert "needs dataset.json, or images/ and either masks/ or labels/" in line
    assert "there: 'annotations', 'images'" in line


def test_folders_of_patients_are_groups(write):
    names = [f"{kind}/p{k // 2}/slice{k % 2}.png" for k in range(6) for kind in ("images", "masks")]
    root = write(*names)
    cases = build_datalist(root)
    assert [case["group"] for case in cases] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert all(case["image"].replace("/images/", "/masks/") == case["label"] for case in cases)
    training, validation = split_by_group(cases, 0.3)
    assert len(training) == 4 and len(validation) == 2
    assert {case["group"] for case in build_datalist(root, r"slice(\d)")} == {"0", "1"}
    (root / "index.csv").write_text("stem,site\nslice0,A\nslice1,B\np2/slice1,C\n")
    sites = [case["group"] for case in build_datalist(root, group_column="site")]
    assert sites == ["A", "B", "A", "B", "A", "C"]


def test_folders_of_patients_beside_masks_without(write):
    root = write("images/p0/study/a.png", "images/p1/b.png", "masks/a_mask.png", "masks/b_mask.png")
    assert pairs(root) == {"p0/study/a.png": "a_mask.png", "p1/b.png": "b_mask.png"}
    assert [case["group"] for case in build_datalist(root)] == ["p0", "p1"]


def test_masks_in_folders_of_patients_beside_images_without(write):
    root = write("images/a.png", "images/b.png", "masks/p0/a.png", "masks/p1/b.png")
    assert pairs(root) == {"a.png": "p0/a.png", "b.png": "p1/b.png"}


def test_masks_of_equal_names_need_the_folders_of_their_images(write):
    root = write("images/p0/a.png", "images/p1/a.png", "masks/a.png")
    assert all("(there: 'a.png')" in line for line in refused(root))


def test_what_systems_leave_is_passed_over(write):
    root = write("images/a.png", "masks/a.png", "images/p/b.png", "masks/p/b.png")
    for folder in ("images", "masks", "images/p"):
        write(
            f"{folder}/._a.png",
            f"{folder}/.DS_Store",
            f"{folder}/Thumbs.db",
            f"{folder}/desktop.ini",
        )
        write(f"{folder}/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", f"{folder}/__MACOSX/._a.png")
        write(f"{folder}/#recycle/old.png", f"{folder}/.Trash-0/old.png")
    assert pairs(root) == {"a.png": "a.png", "p/b.png": "p/b.png"}
    assert len(listed_files(root)) == 2 and len(listed_files(root / "images")) == 2


def test_composed_and_decomposed_letters(write):
    composed, decomposed = (unicodedata.normalize(form, "Müller_é") for form in ("NFC", "NFD"))
    assert composed != decomposed
    root = write(f"images/{decomposed}.png", f"masks/{composed}_mask.png")
    [case] = build_datalist(root)
    assert case["group"] == composed
    assert listed_files(root) == [(case["image"], case["label"])]
    (root / "index.csv").write_text(f"stem,site\n{decomposed},A\n", encoding="utf-8")
    assert build_datalist(root, group_column="site")[0]["group"] == "A"
    stated = [{"image": f"images/{composed}.png", "label": f"masks/{decomposed}_mask.png"}]
    (root / "dataset.json").write_text(f'{{"training": {stated}}}'.replace("'", '"'))
    assert build_datalist(root) == [case]


def test_a_link_to_a_folder_above(write):
    root = write("images/p/a.png", "masks/p/a.png")
    (root / "images/p/all").symlink_to(root / "images")
    assert len(build_datalist(root)) == 1


def test_references_of_patients(write):
    root = write("p0/a.png", "p0/b.png", "p1/a.png")
    images = [image for image, _ in listed_files(root)]
    assert short_names(images) == ["p0/a.png", "p0/b.png", "p1/a.png"]
    assert short_names(images[:2]) == ["a.png", "b.png"]


@pytest.mark.parametrize("mask", ["p0/a_mask.png", "p0/mask.png", "p0/a.seg.nrrd"])
def test_masks_among_references_are_no_images(write, mask):
    root = write("p0/a.png", mask)
    with pytest.raises(InputError, match="a mask by its name, among images; put masks into"):
        listed_files(root)


def test_references_with_a_suffix(write):
    root = write("images/a.png", "images/b.png", "masks/a_mask.png")
    assert listed_files(root) == [
        (f"{root}/images/a.png", f"{root}/masks/a_mask.png"),
        (f"{root}/images/b.png", None),
    ]


# -- DICOM ---------------------------------------------------------------------------------------


@pytest.fixture
def dicom_set(write_series, tmp_path):
    """`dicom_set(images, masks)`: series in folders of these names, and empty .dcm files."""

    def build(images, masks):
        for name in images:
            write_series(tmp_path / "images" / name, np.ones((4, 3, 2), np.int16))
        for name in masks:
            (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "masks" / name).write_bytes(b"x")
        return tmp_path

    return build


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("p0", "p0.dcm"),
        ("p0", "p0/1-1.dcm"),
        ("p0", "p0/study/seg/1-1.dcm"),
        ("p0/study/ct", "p0/1-1.dcm"),
        ("p0/1.2.3", "p0/1.2.3.4/1-1.dcm"),
        ("p0/study/ct", "p0.dcm"),
        ("p0/study/ct", "p0/study/ct/1-1.dcm"),
        ("p0", "p0_rtstruct_seg/1-1.dcm"),
    ],
)
def test_a_dicom_mask_in_a_folder_of_its_own(dicom_set, image, mask):
    root = dicom_set([image, "p1"], [mask, "p1/1-1.dcm"])
    assert pairs(root) == {image: mask, "p1": "p1/1-1.dcm"}
    assert [case["group"] for case in build_datalist(root)] == ["p0", "p1"]
    assert dict(listed_files(root)) == {c["image"]: c["label"] for c in build_datalist(root)}


def test_two_dicom_masks_of_an_image(dicom_set):
    [line] = refused(dicom_set(["p0"], ["p0/1-1.dcm", "p0/1-2.dcm"]))
    assert "images/p0': 2 masks fit, 'p0/1-1.dcm', 'p0/1-2.dcm'; leave one" in line


def test_a_dicom_mask_without_a_suffix(dicom_set):
    root = dicom_set(["p0"], ["p0/1-1"])
    (root / "masks/p0/1-1").write_bytes(bytes(128) + b"DICM")
    [case] = build_datalist(root)
    with pytest.raises(InputError, match="p0/1-1': DICOM without a suffix; rename it to '1-1.dcm'"):
        load(case["label"], is_mask=True)


def test_one_dicom_mask_of_two_series(dicom_set):
    lines = refused(dicom_set(["p0/ct", "p0/mr"], ["p0/1-1.dcm"]))
    assert len(lines) == 2 and all("(there: 'p0/1-1.dcm')" in line for line in lines)


def test_slices_without_suffix_beside_a_picture_are_a_series(write_series, tmp_path):
    for file in write_series(tmp_path / "p0", np.ones((4, 3, 2), np.int16)):
        file.rename(file.with_name(file.stem.replace(".", "_")))
    (tmp_path / "p0/preview.jpg").write_bytes(b"x")
    assert listed_files(tmp_path) == [(f"{tmp_path}/p0", None)]


def test_a_series_with_what_systems_leave(write_series, tmp_path):
    files = write_series(tmp_path / "p0", np.arange(24, dtype=np.int16).reshape(4, 3, 2))
    (tmp_path / "p0" / f"._{files[0].name}").write_bytes(b"x")
    (tmp_path / "p0/@eaDir").mkdir()
    assert load(tmp_path / "p0").shape == (1, 4, 3, 2)
