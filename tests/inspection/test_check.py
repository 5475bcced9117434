"""Each defect is planted once, alone, and must be found; a whole data set has none."""

import json
import shutil

import datasets
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from alignflow.inspection.check import Check
from alignflow.inspection.reading import Reading
from alignflow.inspection.text import lines

TRAIN = datasets.TRAIN | {"image_size": [16, 16], "validation_fraction": 0.25, "batch_size": 8}


def write(folder, name, image, mask=None):
    for part, array in (("images", image), ("masks", mask)):
        if array is not None:
            (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(array, 0, 255).astype(np.uint8)).save(folder / part / name)


def picture(seed, gain=1.0):
    """(24, 32, 3) of smooth colour patches, and the mask of a bright ellipse in it."""
    rng = np.random.default_rng(seed)
    patches = rng.normal(90, 25, (4, 4, 3)).clip(0, 255).astype(np.uint8)
    image = np.array(Image.fromarray(patches).resize((32, 24), Image.Resampling.BICUBIC), float)
    x, y = np.mgrid[:24, :32]
    inside = ((x - rng.uniform(8, 16)) / 5) ** 2 + ((y - rng.uniform(10, 22)) / 7) ** 2 < 1
    return gain * (image + 60 * inside[..., None]), 255 * inside


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "source"
    for k in range(12):
        write(root, f"{k:02d}.png", *picture(k))
    return root


def checked(root, references=None, test=None, **train):
    check = Check(Reading.of(TRAIN | train))
    files = check.source(root)
    known = check.site(references, "references", files) if references else []
    if test:
        check.leaks(known, check.site(test, "test", files))
    if references:
        check.separation(references)
    return check


def site(folder, count, gain, first=100, masks=False):
    for k in range(count):
        image, mask = picture(first + k, gain)
        write(folder, f"s{k:02d}.png", image, mask if masks else None)
    return folder


def test_a_sound_data_set(dataset):
    check = checked(dataset)
    assert check.problems == check.warnings == []
    found = check.result["source"]
    assert found["images"] == found["groups"] == 12
    assert (found["training"], found["validation"]) == (9, 3)
    assert found["formats"] == {".png": 12} and found["channels"] == {"3": 12}
    assert found["sizes"]["common"] == [32, 24] and found["sizes"]["share"] == 1
    assert len(found["intensity"]) == 3 and found["intensity"][0]["lowest"] >= 0
    assert found["masks"]["classes"].keys() == {"255"}
    share = np.mean([(picture(k)[1] > 0).mean() for k in range(12)])
    assert found["masks"]["classes"]["255"]["area"]["median"] == pytest.approx(share, rel=0.2)
    json.dumps(check.result, allow_nan=False)


def test_a_batch_needs_as_many_training_slices(dataset, nifti_dataset):
    words = "batch_size: 10, but there are only 9 training images; set batch_size to at most 9"
    assert checked(dataset, batch_size=10).problems == [words]
    assert checked(dataset, batch_size=9).problems == []
    two = {"validation_fraction": 0.34}  # volumes of 6 slices
    assert checked(nifti_dataset, batch_size=12, **two).problems == []
    assert len(checked(nifti_dataset, batch_size=13, **two).problems) == 1


def test_spacing_and_classes_of_volumes(nifti_dataset):
    check = checked(nifti_dataset, validation_fraction=0.34)
    found = check.result["source"]
    assert found["spacing_mm"]["common"] == [1.5, 1.5, 3.0]
    assert found["sizes"]["common"] == [24, 20, 6]
    assert found["masks"]["classes"].keys() == {"1", "2"}
    assert found["modalities"] == {"not stated": 3} or found["modalities"] == {"MRI": 3}
    assert check.problems == []


def test_what_readers_warn_of(dataset):
    image, mask = picture(3)
    write(dataset, "03.png", image, np.where(np.arange(32) < 2, 7, mask))
    [warning] = checked(dataset).warnings
    assert "value 7 is in" in warning and "03.png' alone, of 9 masks" in warning


def test_inverted_masks(dataset):
    write(dataset, "03.png", picture(3)[0], 255 - picture(3)[1])
    [warning] = checked(dataset).warnings
    assert warning.startswith("source: most of '03.png' is foreground")


def cut_off(root):
    path = root / "images/03.png"
    path.write_bytes(path.read_bytes()[:100])


def empty_file(root):
    (root / "images/03.png").write_bytes(b"")


def constant(root):
    write(root, "03.png", np.full((24, 32, 3), 7))


def not_finite(root):
    for folder in ("images", "masks"):
        (root / folder / "03.png").unlink()
    volume = np.ones((24, 20, 2), np.float32)
    volume[3, 3] = np.nan
    nib.save(nib.Nifti1Image(volume, np.eye(4)), root / "images/03.nii.gz")
    label = np.zeros((24, 20, 2), np.uint8)
    nib.save(nib.Nifti1Image(label, np.eye(4)), root / "masks/03.nii.gz")


def no_mask(root):
    (root / "masks/03.png").unlink()


def other_size(root):
    write(root, "03.png", picture(3)[0], picture(3)[1][:20])


def one_channel(root):
    write(root, "03.png", picture(3)[0][..., 0])


def soft_masks(root):
    write(root, "03.png", *(a for a in (picture(3)[0], np.add.outer(np.arange(24), np.arange(32)))))


def no_foreground(root):
    for path in (root / "masks").iterdir():
        write(root, path.name, picture(3)[0], np.zeros((24, 32)))


@pytest.mark.parametrize(
    ("defect", "words"),
    [
        (cut_off, ["03.png", "cannot be read"]),
        (empty_file, ["03.png", "empty"]),
        (constant, ["03.png", "every pixel is 7"]),
        (not_finite, ["03.nii.gz", "NaN"]),
        (no_mask, ["03.png", "no mask"]),
        (other_size, ["03.png", "32x20", "32x24"]),
        (one_channel, ["03.png", "1 channels", "3"]),
        (soft_masks, ["mask_threshold"]),
        (no_foreground, ["none of 9 has foreground"]),
    ],
)
def test_what_stops_training_is_a_problem(dataset, defect, words):
    defect(dataset)
    problems = checked(dataset).problems
    assert [p for p in problems if all(word in p for word in words)], problems


def test_several_problems_are_told_at_once(dataset):
    cut_off(dataset)
    (dataset / "masks/05.png").unlink()
    problems = checked(dataset).problems
    assert len(problems) == 2 and checked(dataset).result["source"]["unreadable"] == 1


def test_a_label_that_is_not_stated(dataset):
    stated = {"labels": {"background": 0, "polyp": 1}}
    check = checked(dataset, labels=stated["labels"])
    assert "value 255 is not in labels" in check.problems[0]


def test_regions_of_nnunet(dataset):
    for old, new in (("images", "imagesTr"), ("masks", "labelsTr")):
        (dataset / old).rename(dataset / new)
    for path in list((dataset / "imagesTr").iterdir()):
        path.rename(path.with_name(f"{path.stem}_0000.png"))
    content = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "file_ending": ".png"}
    labels = {"background": 0, "whole": [127, 255], "core": 255}
    (dataset / "dataset.json").write_text(json.dumps(content | {"labels": labels}))
    [problem] = checked(dataset).problems
    assert "labels has 'whole': [127, 255], a region of several values" in problem
    stated = checked(dataset, labels={"background": 0, "core": 255})
    assert stated.problems == stated.warnings == []
    assert stated.result["source"]["channels"] == {"3": 12}


def test_images_of_one_name_are_told_apart(dataset):
    for k in range(12):
        for folder in ("images", "masks"):
            path = dataset / folder / f"p{k}/slice.png"
            path.parent.mkdir()
            (dataset / folder / f"{k:02d}.png").rename(path)
    write(dataset, "p3/slice.png", picture(3)[0][..., 0])
    [problem] = checked(dataset).problems
    assert "image 'p3/slice.png': 1 channels" in problem
    assert checked(dataset).result["source"]["groups"] == 12


def test_a_split_that_divides_a_group(dataset):
    cases = [
        {"image": f"images/{k:02d}.png", "label": f"masks/{k:02d}.png", "group": f"p{k // 2}"}
        for k in range(12)
    ]
    content = {"training": cases[:9], "validation": cases[9:]}
    (dataset / "dataset.json").write_text(json.dumps(content))
    assert "group 'p4' stands in training and in validation" in checked(dataset).problems[0]


def copied(root, source, target, change=lambda image: image):
    image = np.array(Image.open(root / f"images/{source}.png"), float)
    mask = np.array(Image.open(root / f"masks/{source}.png"))
    write(root, f"{target}.png", change(image), mask)


def test_exact_copies(dataset):
    copied(dataset, "03", "20")
    check = checked(dataset, validation_fraction=0)
    assert check.problems == [] and check.result["duplicates"]["exact"] == 1
    assert "'03.png' and '20.png': exact copies" in check.warnings[0]


def test_copies_with_unequal_masks(dataset):
    copied(dataset, "03", "20")
    write(dataset, "20.png", np.array(Image.open(dataset / "images/03.png")), picture(9)[1])
    warnings = checked(dataset, validation_fraction=0).warnings
    assert any("unequal masks" in text for text in warnings)


def test_near_copies_in_other_groups_but_not_in_one(dataset):
    copied(dataset, "03", "20", lambda image: 0.8 * image + 20)
    check = checked(dataset, validation_fraction=0)
    assert check.result["duplicates"]["near_in_other_groups"] == 1
    assert "group_pattern" in check.warnings[0]
    rows = "".join(f"{k:02d},{'x' if k in (3, 20) else k}\n" for k in [*range(12), 20])
    (dataset / "index.csv").write_text("stem,patient\n" + rows)
    check = checked(dataset, validation_fraction=0, group_column="patient")
    assert check.result["duplicates"]["near"] == 1 and check.warnings == []


def test_a_leak_between_training_and_validation(dataset):
    found = 0
    for seed in range(12):  # whichever side the copies fall on
        copied(dataset, "03", "20")
        check = checked(dataset, seed=seed)
        leaks = check.result["duplicates"]["leaks"]
        assert leaks == any("validation shows training data" in w for w in check.warnings)
        found += leaks
    assert 0 < found < 12


def test_empty_masks_and_masks_without_image(dataset):
    write(dataset, "03.png", picture(3)[0], np.zeros((24, 32)))
    shutil.copy(dataset / "masks/04.png", dataset / "masks/other.png")
    check = checked(dataset)
    assert check.problems == [] and check.result["source"]["masks"]["empty"] == 1
    assert any("1 of 12 masks are empty" in text for text in check.warnings)
    assert any("other.png" in text and "not used" in text for text in check.warnings)


def test_references_apart_and_at_the_floor(dataset, tmp_path):
    far = checked(dataset, site(tmp_path / "far", 6, gain=0.4))
    assert far.result["separation"]["apart"] and far.warnings == []
    assert "apart: align" in " ".join(lines(far.result | {"problems": [], "warnings": []}))
    near = checked(dataset, site(tmp_path / "near", 6, gain=1.0))
    assert not near.result["separation"]["apart"]
    assert any("nothing to align" in text for text in near.warnings)


def test_references_of_another_kind(dataset, tmp_path):
    folder = tmp_path / "grey"
    for k in range(6):
        write(folder, f"{k}.png", picture(100 + k)[0][..., 0])
    check = checked(dataset, folder)
    assert "1 channels, but the source has 3" in check.problems[0]
    assert "separation" not in check.result


def test_few_references_and_references_of_the_source(dataset, tmp_path):
    folder = site(tmp_path / "few", 2, gain=0.4)
    shutil.copy(dataset / "images/05.png", folder / "images/x.png")
    warnings = checked(dataset, folder).warnings
    assert any("'x.png' is a copy of '05.png' of the source" in text for text in warnings)
    assert any("fewer than 5" in text for text in warnings)


def test_a_test_image_that_is_a_reference(dataset, tmp_path):
    references = site(tmp_path / "refs", 6, gain=0.4)
    labelled = site(tmp_path / "test", 3, gain=0.4, first=200, masks=True)
    assert checked(dataset, references, labelled).problems == []
    image, mask = picture(102, gain=0.4)
    write(labelled, "leak.png", image, mask)
    problems = checked(dataset, references, labelled).problems
    assert problems == [
        "test 'leak.png': a copy of reference 's02.png'; remove it from one of them"
    ]
    (labelled / "masks/leak.png").unlink()
    assert any("'leak.png': no mask" in p for p in checked(dataset, references, labelled).problems)


def test_an_empty_folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    check = checked(tmp_path)
    assert len(check.problems) == 1 and "no image in it" in check.problems[0]
    assert lines(check.result | {"problems": check.problems, "warnings": check.warnings})
