"""Segmenters' scores: pairing by image, seeds as one arm, what an arm learnt from."""

import json

import numpy as np
import pytest

from alignflow.errors import InputError
from alignflow.report.arms import difference, read_arms

METRICS = ("dice", "iou", "hd95")
NO_GENERATORS = {"unaligned": None, "aligned": None}


@pytest.fixture
def write_arm(tmp_path):
    """`write_arm(name, dice, synthetic=0, seed=0, ...)`: a folder as `run segment` leaves it."""

    def write(name, dice, synthetic=0, seed=0, images="all", pairs_dir=None, **settings):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rows = {f"case{k}.png": {m: {"class1": v} for m in METRICS} for k, v in enumerate(dice)}
        content = {"images": rows, "images_sha256": images, "segmenter_sha256": name}
        (folder / "scores.json").write_text(json.dumps(content))
        config = {"seed": seed, "output_dir": name, "pairs_dir": str(pairs_dir)} | settings
        made = {"weights_sha256": name, "synthetic": synthetic, "config": config}
        (folder / "segmenter.json").write_text(json.dumps({"provenance": made}))
        return str(folder)

    return write


def test_difference_is_paired(write_arm):
    """A constant gain has an interval of no width, however unlike the images are."""
    rng = np.random.default_rng(0)
    dice = rng.uniform(0.1, 0.8, 40)
    folders = [write_arm("without", dice), write_arm("with", dice + 0.125, synthetic=9)]
    base, arm = read_arms(folders, NO_GENERATORS)
    gain = difference(arm, base)
    assert gain["value"] == pytest.approx(12.5)
    assert gain["low"] == pytest.approx(12.5) and gain["high"] == pytest.approx(12.5)
    score = base.score()
    assert score["value"] == pytest.approx(100 * dice.mean())
    of_class = base.of_class("class1", "dice")
    assert of_class["value"] == pytest.approx(score["value"]) and of_class["low"] == score["low"]
    standard_error = 100 * dice.std() / 40**0.5
    assert score["high"] - score["low"] == pytest.approx(2 * 1.96 * standard_error, rel=0.15)


def test_images_without_foreground_are_left_out(write_arm):
    (arm,) = read_arms(write_arm("one", [0.5, None, 0.7]), NO_GENERATORS)
    assert arm.counted == 2 and arm.score()["value"] == pytest.approx(60)


def test_seeds_are_one_arm_and_other_settings_are_not(write_arm, tmp_path):
    write_arm("arms/plain_0", [0.2, 0.4], seed=0, augmentation="plain")
    write_arm("arms/plain_1", [0.4, 0.8], seed=1, augmentation="plain")
    write_arm("arms/strong_0", [0.1, 0.1], seed=0, augmentation="strong")
    arms = read_arms(str(tmp_path / "arms"), NO_GENERATORS)
    assert [(arm.name, arm.seeds) for arm in arms] == [("plain", 2), ("strong_0", 1)]
    plain = arms[0]
    assert plain.dice.tolist() == [[20, 40], [40, 80]]
    assert plain.score()["value"] == pytest.approx(45)
    gain = difference(plain, arms[1])  # of 2 trainings and of 1
    assert gain["value"] == pytest.approx(35) and gain["trainings"] == 1


def test_images_of_one_volume_count_together(write_arm, tmp_path):
    """As many images, in two volumes: the interval is that of two values."""
    for folder in ("images", "masks"):
        (tmp_path / "site" / folder).mkdir(parents=True)
        for k in range(20):
            (tmp_path / "site" / folder / f"case{k}.png").write_bytes(b"x")
    cases = [
        {"image": f"images/case{k}.png", "label": f"masks/case{k}.png", "group": f"p{k // 10}"}
        for k in range(20)
    ]
    gains = np.repeat([0.0, 0.1], 10)
    folders = [write_arm("a", 0.5 + 0 * gains), write_arm("b", 0.5 + gains, synthetic=1)]
    site = str(tmp_path / "site")
    alone = difference(*read_arms(folders, NO_GENERATORS, site)[::-1])
    (tmp_path / "site/dataset.json").write_text(json.dumps({"training": cases}))
    grouped = difference(*read_arms(folders, NO_GENERATORS, site)[::-1])
    assert (alone["groups"], grouped["groups"]) == (20, 2)
    assert grouped["low"] == pytest.approx(0) and grouped["high"] == pytest.approx(10)
    assert alone["low"] > 1 and alone["high"] < 9


def test_kind_follows_from_the_pairs_own_record(write_arm, tmp_path):
    for name, digest in (("before", "aa"), ("after", "bb"), ("other", "cc")):
        (tmp_path / name).mkdir()
        record = {"weights_sha256": {"model.pt": digest}}
        (tmp_path / name / "provenance.json").write_text(json.dumps(record))
    dice = [0.1, 0.2]
    folders = [
        write_arm("r", dice),
        write_arm("u", dice, synthetic=5, pairs_dir=tmp_path / "before"),
        write_arm("a", dice, synthetic=5, pairs_dir=tmp_path / "after"),
        write_arm("o", dice, synthetic=5, pairs_dir=tmp_path / "other"),
        write_arm("gone", dice, synthetic=5, pairs_dir=tmp_path / "gone_pairs"),
    ]
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/scores.json").write_bytes((tmp_path / "r/scores.json").read_bytes())
    arms = read_arms([*folders, str(tmp_path / "bare")], {"unaligned": "aa", "aligned": "bb"})
    kinds = {arm.name: arm.kind for arm in arms}
    assert kinds["r"] == "without" and kinds["u"] == "unaligned" and kinds["a"] == "aligned"
    assert kinds["bare"] == "unknown"
    assert [arm.kind for arm in arms].count("synthetic") == 1  # two folders of equal settings


def test_refusals(write_arm, tmp_path):
    one = write_arm("one", [0.1, 0.2])
    other = write_arm("other", [0.1, 0.2], images="else")
    with pytest.raises(InputError, match="different images; score both on one test_dir"):
        read_arms([one, other], NO_GENERATORS)
    with pytest.raises(InputError, match=r"no scores\.json in it; run segment with a test_dir"):
        read_arms(str(tmp_path / "nowhere"), NO_GENERATORS)
    with pytest.raises(InputError, match="fewer than two images"):
        read_arms(write_arm("empty", [0.5, None]), NO_GENERATORS)
    broken = tmp_path / "broken"
    broken.mkdir()
    for text in ("{", "[]", "{}", '{"images": [1], "images_sha256": "", "segmenter_sha256": ""}'):
        (broken / "scores.json").write_text(text)
        with pytest.raises(InputError, match="run segment with a test_dir"):
            read_arms(str(broken), NO_GENERATORS)
    assert read_arms(None, NO_GENERATORS) is None
