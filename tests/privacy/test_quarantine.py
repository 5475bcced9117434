"""Pairs in quarantine: whole, once, and wherever a run was stopped."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from alignflow.data.datalist import build_datalist
from alignflow.errors import InputError
from alignflow.privacy.quarantine import (
    find_pairs,
    name_quarantined,
    quarantine_pair,
    remove_partial,
)


@pytest.fixture
def folder(tmp_path):
    """Four pairs as `infer` writes them."""
    for number in range(4):
        for kind in ("images", "labels"):
            path = tmp_path / f"pairs/{kind}/pair_{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4), 10 * number, np.uint8)).save(path)
    (tmp_path / "pairs/dataset.json").write_text('{"synthetic": true, "labels": {"a": 0, "b": 1}}')
    return tmp_path / "pairs"


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def take(folder, number):
    pair = find_pairs(folder, folder / "quarantine")[number]
    name_quarantined(folder, [pair.name])
    quarantine_pair(pair, {"why": "near"}, folder / "quarantine")


def test_a_pair_is_moved_and_no_longer_part_of_the_data_set(folder):
    before = files(folder)
    take(folder, 2)
    after = files(folder)
    for kind in ("images", "labels"):
        name = f"{kind}/pair_00002.png"
        assert name not in after and after[f"quarantine/{name}"] == before[name]
    assert json.loads(after["quarantine/pair_00002.json"]) == {"why": "near"}
    description = json.loads(after["dataset.json"])
    assert description["synthetic"] and description["quarantined"] == ["pair_00002"]
    assert len(build_datalist(folder)) == 3
    assert len(find_pairs(folder, folder / "quarantine")) == 4


def test_the_second_time_changes_nothing(folder):
    take(folder, 1)
    before = files(folder)
    take(folder, 1)
    assert files(folder) == before


@pytest.mark.parametrize("stopped_after", ["image copied", "image moved", "label copied"])
def test_what_was_stopped_is_ended(folder, tmp_path, stopped_after):
    shutil.copytree(folder, tmp_path / "whole")
    take(tmp_path / "whole", 3)
    inside = folder / "quarantine"
    for kind in ("images", "labels"):
        (inside / kind).mkdir(parents=True)
    name_quarantined(folder, ["pair_00003"])
    shutil.copyfile(folder / "images/pair_00003.png", inside / "images/pair_00003.png")
    if stopped_after != "image copied":
        (folder / "images/pair_00003.png").unlink()
    if stopped_after == "label copied":
        shutil.copyfile(folder / "labels/pair_00003.png", inside / "labels/pair_00003.png")
    take(folder, 3)
    assert files(folder) == files(tmp_path / "whole")


def test_parts_of_files_are_removed(folder):
    take(folder, 0)
    before = files(folder)
    parts = ["quarantine/.partial-1-a.png", "quarantine/images/.partial-1-b.png", ".partial-1-c"]
    for name in parts:
        (folder / name).write_bytes(b"half")
    remove_partial(folder, folder / "quarantine")
    assert files(folder) == before


def test_a_list_of_pairs_loses_them(folder):
    cases = [
        {"image": f"images/pair_{k:05d}.png", "label": f"labels/pair_{k:05d}.png"} for k in range(4)
    ]
    (folder / "dataset.json").write_text(json.dumps({"synthetic": True, "training": cases}))
    take(folder, 0)
    assert json.loads((folder / "dataset.json").read_text())["training"] == cases[1:]
    assert len(build_datalist(folder)) == 3


def test_refused(folder, tmp_path):
    with pytest.raises(InputError, match="no images/ in it"):
        find_pairs(tmp_path / "nowhere", tmp_path / "nowhere/quarantine")
    (folder / "labels/pair_00001.png").unlink()
    with pytest.raises(InputError, match="'pair_00001' has an image or a label"):
        find_pairs(folder, folder / "quarantine")
