"""Pairs, groups and splits."""

import json

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignflow.data.datalist import build_datalist, dataset_json, split_by_group, stated_labels
from alignflow.errors import InputError


@pytest.fixture
def folders(tmp_path):
    """images/ and masks/ with files p1_a, p1_b, p2_a; only names matter here."""
    for folder, suffix in (("images", ".jpg"), ("masks", ".png")):
        (tmp_path / folder).mkdir()
        for stem in ("p1_a", "p1_b", "p2_a"):
            (tmp_path / folder / f"{stem}{suffix}").write_bytes(b"x")
    return tmp_path


def describe(root, **content):
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def pairs_of(datalist):
    return [(c["image"].split("/")[-1], c["label"].split("/")[-1], c["group"]) for c in datalist]


def test_folders_and_stem_as_group(folders):
    assert pairs_of(build_datalist(folders))[0] == ("p1_a.jpg", "p1_a.png", "p1_a")


def test_group_pattern(folders):
    datalist = build_datalist(folders, group_pattern=r"^(p\d)_")
    assert [case["group"] for case in datalist] == ["p1", "p1", "p2"]


def test_group_column(folders):
    (folders / "index.csv").write_text("stem,centre\np1_a,A\np1_b,B\np2_a,A\n")
    datalist = build_datalist(folders, group_column="centre")
    assert [case["group"] for case in datalist] == ["A", "B", "A"]


def test_dicom_series_folder_with_nrrd_label(tmp_path):
    (tmp_path / "images" / "case.1").mkdir(parents=True)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "case.1.nrrd").write_bytes(b"x")
    assert pairs_of(build_datalist(tmp_path)) == [("case.1", "case.1.nrrd", "case.1")]


def test_companions_and_hidden_files_are_no_images(folders):
    for name in ("a.raw", ".DS_Store", "Thumbs.db", ".hidden.png"):
        (folders / "images" / name).write_bytes(b"x")
    assert len(build_datalist(folders)) == 3


def test_msd_dataset(nifti_dataset):
    datalist = build_datalist(nifti_dataset)
    assert [case["group"] for case in datalist] == ["patient0", "patient1", "patient2"]
    assert {case["modality"] for case in datalist} == {"MRI"}
    assert dataset_json(nifti_dataset) == {
        "modality": "MRI",
        "labels": {"background": 0.0, "ring": 1.0, "core": 2.0},
    }
    assert stated_labels(nifti_dataset) == {"background": 0.0, "ring": 1.0, "core": 2.0}


def test_stated_validation_is_honoured(folders):
    cases = [{"image": f"images/{s}.jpg", "label": f"masks/{s}.png"} for s in ("p1_a", "p2_a")]
    describe(folders, training=cases[1:], validation=cases[:1])
    training, validation = split_by_group(build_datalist(folders), 0.9)
    assert [case["group"] for case in training] == ["p2_a"]
    assert [case["group"] for case in validation] == ["p1_a"]


def test_stated_validation_that_leaks_is_refused(folders):
    cases = [{"image": f"images/{s}.jpg", "label": f"masks/{s}.png"} for s in ("p1_a", "p1_b")]
    describe(folders, training=cases[1:], validation=cases[:1])
    datalist = build_datalist(folders, group_pattern="^(p.)")
    with pytest.raises(InputError, match="group 'p1' stands in training and in validation"):
        split_by_group(datalist, 0.5)


def test_json_may_only_describe_the_folders(folders):
    describe(folders, labels={"background": 0, "polyp": 255}, modality={"0": "endoscopy"})
    assert len(build_datalist(folders)) == 3
    assert dataset_json(folders)["labels"] == {"background": 0.0, "polyp": 255.0}


def test_no_json_states_nothing(folders):
    assert dataset_json(folders) == {}
    assert stated_labels(folders) is None


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=2).filter(lambda g: len(set(g)) > 1),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_groups_never_leak(groups, fraction, seed):
    datalist = [{"image": str(i), "label": str(i), "group": g} for i, g in enumerate(groups)]
    training, validation = split_by_group(datalist, fraction, seed)
    assert training and validation
    assert not {c["group"] for c in training} & {c["group"] for c in validation}
    assert sorted(training + validation, key=lambda c: int(c["image"])) == datalist
    assert split_by_group(datalist, fraction, seed) == (training, validation)
    reordered, _ = split_by_group(datalist[::-1], fraction, seed)
    assert {c["image"] for c in reordered} == {c["image"] for c in training}


def test_a_list_whose_rows_slipped(png_dataset):
    a, b = sorted(path.name for path in (png_dataset / "images").iterdir())[:2]
    cases = [{"image": f"images/{a}", "label": f"masks/{b}"}]
    cases += [{"image": f"images/{b}", "label": f"masks/{a}"}]
    (png_dataset / "dataset.json").write_text(json.dumps({"training": cases}))
    with pytest.warns(UserWarning, match="listed for an image, but called as another image"):
        build_datalist(png_dataset)


def test_single_images_are_split_at_the_fraction():
    datalist = [{"image": str(i), "label": str(i), "group": str(i)} for i in range(40)]
    assert len(split_by_group(datalist, 0.2, 3)[1]) == 8
    assert split_by_group(datalist, 0.2, 3) != split_by_group(datalist, 0.2, 4)


def refuse(root, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        build_datalist(root, **options)
    assert "\n" not in str(caught.value)


def test_dataset_dir_itself(tmp_path):
    refuse(tmp_path / "none", "none': no such folder")
    refuse(tmp_path, "empty; put images/ and masks/ into it")
    (tmp_path / "file").write_text("x")
    refuse(tmp_path / "file", "file': not a folder")
    refuse(tmp_path, "needs dataset.json, or images/ and either masks/ or labels/")


def test_missing_mask_is_named(folders):
    (folders / "masks" / "p1_b.png").unlink()
    refuse(folders, r"image '.*p1_b.jpg': no mask '.*masks/p1_b.\*'; add it")


def test_mask_without_an_image_is_a_warning(folders):
    (folders / "images" / "p1_b.jpg").unlink()
    with pytest.warns(UserWarning, match="p1_b.png': no image of this name"):
        assert len(build_datalist(folders)) == 2


def test_no_images(folders):
    for path in (folders / "images").iterdir():
        path.unlink()
    refuse(folders, "images': no image in it")


def test_two_images_of_one_stem(folders):
    (folders / "images" / "p1_a.png").write_bytes(b"x")
    refuse(folders, r"p1_a.png': 'p1_a.jpg' has the same stem")


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        (r"^q(\d)", "no match in 'p1_a'"),
        (r"p\d", "0 groups; put exactly one pair of"),
        (r"(p", "correct the expression"),
    ],
)
def test_bad_patterns(folders, pattern, match):
    refuse(folders, match, group_pattern=pattern)


def test_bad_columns(folders):
    refuse(folders, "group_column 'centre': no file", group_column="centre")
    (folders / "index.csv").write_text("stem,sequence\np1_a,1\n")
    refuse(folders, "no column 'centre'; it has stem, sequence", group_column="centre")
    refuse(folders, "no 'sequence' for stem 'p1_b'", group_column="sequence")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"training": []}', "no case in 'training'"),
        ('{"training": [{"image": "a.png"}]}', 'needs "image" and "label"'),
        ('{"training": ["a.png"]}', 'needs "image" and "label"'),
        ('{"training": [{"image": "a.png", "label": "b.png"}]}', "image '.*a.png': listed in"),
        ('{"training": [], "labels": {"whole": [1, 2]}}', "labels has 'whole': \\[1, 2\\]"),
    ],
)
def test_bad_json(folders, content, match):
    (folders / "dataset.json").write_text(content)
    with pytest.raises(InputError, match=match):
        stated_labels(folders)
        build_datalist(folders)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_as_windows_writes_it(folders, encoding):
    case = {"image": r"images\p1_a.jpg", "label": r".\masks\p1_a.png"}
    content = json.dumps({"labels": {"background": 0, "Tumör": 255}, "training": [case]})
    (folders / "dataset.json").write_text(content, encoding=encoding)
    assert pairs_of(build_datalist(folders)) == [("p1_a.jpg", "p1_a.png", "p1_a")]
    assert stated_labels(folders) == {"background": 0.0, "Tumör": 255.0}


def test_a_backslash_that_is_part_of_a_name(folders):
    name = r"images\p1_a.jpg"
    (folders / name).write_bytes(b"x")
    describe(folders, training=[{"image": name, "label": "masks/p1_a.png"}])
    assert build_datalist(folders)[0]["image"] == str(folders / name)


def test_one_group_cannot_be_split():
    datalist = [{"image": "a", "label": "a", "group": "g"}] * 3
    with pytest.raises(InputError, match="1 group, .* set group_pattern or group_column"):
        split_by_group(datalist, 0.2)


def test_fraction_zero_trains_on_all_and_says_so():
    datalist = [{"image": "a", "label": "a", "group": "g"}]
    with pytest.warns(UserWarning, match="held-out figures are of training data"):
        assert split_by_group(datalist, 0) == (datalist, datalist)


def test_all_missing_masks_are_named(folders):
    for path in (folders / "masks").iterdir():
        path.unlink()
    with pytest.raises(InputError) as caught:
        build_datalist(folders)
    lines = str(caught.value).split("\n")
    assert all(s in line for s, line in zip(("p1_a", "p1_b", "p2_a"), lines, strict=True))


@pytest.mark.parametrize("fraction", [1, -0.5, 2])
def test_bad_fraction(fraction):
    with pytest.raises(InputError, match="validation_fraction: .*; set it between 0 and 1"):
        split_by_group([{"image": "a", "label": "a", "group": "g"}], fraction)


def with_patients(folder, write_series, patients):
    for k, patient in enumerate(patients):
        files = write_series(folder / f"images/case{k}", np.full((6, 5, 2), k), PatientID=patient)
        assert len(files) == 2
        nib.save(nib.Nifti1Image(np.ones((6, 5, 2), np.uint8), np.eye(4)), folder / f"{k}.nii")
        (folder / "masks").mkdir(exist_ok=True)
        (folder / f"{k}.nii").rename(folder / f"masks/case{k}.nii")


def test_images_of_one_patient_stay_together(tmp_path, write_series):
    with_patients(tmp_path, write_series, ["Smith", "Jones", "Smith", "Miller"])
    groups = [case["group"] for case in build_datalist(tmp_path)]
    assert groups == ["dicom_001", "dicom_002", "dicom_001", "dicom_003"]
    with pytest.raises(InputError, match="case.': of one patient with '.*case.', by their headers"):
        for seed in range(9):
            split_by_group(build_datalist(tmp_path, group_pattern="(.*)"), 0.5, seed)
    lists = {
        part: [{"image": f"images/case{k}", "label": f"masks/case{k}.nii"} for k in numbers]
        for part, numbers in (("training", [0, 1]), ("validation", [2, 3]))
    }
    (tmp_path / "dataset.json").write_text(json.dumps(lists))
    cases = [{k: v for k, v in c.items() if k != "group"} for c in build_datalist(tmp_path)]
    with pytest.raises(InputError, match="of one patient|stands in training and in validation"):
        split_by_group([c | {"group": c["image"]} for c in cases], 0.5)


def test_a_column_of_patients_is_the_group(png_dataset):
    stems = sorted(path.stem for path in (png_dataset / "images").iterdir())
    rows = "".join(f"{stem},p{k // 2}\n" for k, stem in enumerate(stems))
    (png_dataset / "index.csv").write_text(f"stem,patient\n{rows}")
    groups = [case["group"] for case in build_datalist(png_dataset)]
    assert groups == [f"p{k // 2}" for k in range(len(stems))]
