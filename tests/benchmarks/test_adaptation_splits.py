"""Splits of the adaptation benchmark: disjoint, whole groups, the same at every call."""

import csv
import json

import pytest
from PIL import Image

from alignflow.data.datalist import build_datalist, split_by_group
from alignflow.errors import InputError


@pytest.fixture
def splits(load_adaptation):
    return load_adaptation("splits")


@pytest.fixture
def site(tmp_path, splits):
    """Two centres of 12 images, 3 in each sequence."""
    root = tmp_path / "site"
    rows = []
    for k in range(24):
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), k).save(root / f"{folder}/{k:02d}.png")
        rows.append({"stem": f"{k:02d}", "center": f"C{k // 12}", "sequence": str(k // 3)})
    with (root / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return splits.Site(root, "center", "C1", "sequence")


def stems(splits, cases):
    return {splits.stem(case) for case in cases}


def test_rows_of_one_centre_are_chosen(splits, site):
    assert stems(splits, site.cases()) == {f"{k:02d}" for k in range(12, 24)}
    with pytest.raises(InputError, match="no image with center 'C9'"):
        splits.Site(site.directory, "center", "C9").cases()
    with pytest.raises(InputError, match="no column 'hospital'"):
        splits.Site(site.directory, "hospital", "C1").cases()


def test_pool_and_test_are_a_third_and_two_thirds_in_whole_sequences(splits, site):
    split = splits.split_target(site.cases())
    pool, test = stems(splits, split.pool), stems(splits, split.test)
    assert not pool & test and len(pool | test) == 12 and 7 <= len(test) <= 9
    assert not {c["group"] for c in split.pool} & {c["group"] for c in split.test}
    again = splits.split_target(list(reversed(site.cases())))
    assert stems(splits, again.test) == test


def test_groups_may_come_from_names(splits, site):
    named = splits.Site(site.directory, group_pattern=r"^(\d)")
    split = splits.split_target(named.cases())
    pool, test = stems(splits, split.pool), stems(splits, split.test)
    assert {name[0] for name in pool}.isdisjoint(name[0] for name in test)
    assert len(pool | test) == 24


def test_few_references_are_among_many_and_draws_differ(splits, site):
    pool = site.cases()
    draws = [stems(splits, splits.references(pool, 4, draw)) for draw in range(3)]
    assert len({frozenset(draw) for draw in draws}) == 3
    assert stems(splits, splits.references(pool, 2, 0)) < draws[0]
    with pytest.raises(InputError, match="pool has 12"):
        splits.references(pool, 13, 0)


def test_source_split_is_that_of_stage_1(splits, site):
    cases = site.cases()
    whole = splits.split_source(cases, 0.25)
    assert (whole.train, whole.validation) == split_by_group(cases, 0.25, 0)


def test_linked_pairs_are_read_back_with_their_split(splits, site, tmp_path):
    split = splits.split_source(site.cases(), 0.25)
    folder = splits.link_pairs(tmp_path / "linked", split.train, split.validation, site.directory)
    splits.link_pairs(folder, split.train, split.validation, site.directory)  # again: no change
    train, validation = split_by_group(build_datalist(folder), 0.5, 7)
    assert stems(splits, train) == stems(splits, split.train)
    assert stems(splits, validation) == stems(splits, split.validation)
    assert splits.fingerprint(train) == splits.fingerprint(split.train)
    assert all((folder / "images" / f"{s}.png").is_symlink() for s in stems(splits, train))


def test_references_come_without_masks(splits, site, tmp_path):
    splits.link_images(tmp_path / "references", site.cases()[:3])
    assert [p.name for p in (tmp_path / "references").iterdir()] == ["images"]


def test_labels_and_modality_travel_along(splits, site, tmp_path):
    facts = {"labels": {"0": "background", "1": "polyp"}, "modality": {"0": "MRI"}}
    (site.directory / "dataset.json").write_text(json.dumps(facts))
    folder = splits.link_pairs(tmp_path / "linked", site.cases()[:2], (), site.directory)
    assert build_datalist(folder)[0]["modality"] == "MRI"


def test_two_files_of_one_name_are_refused(splits, site, tmp_path):
    path = tmp_path / "12.png"
    Image.new("L", (4, 4)).save(path)
    splits.link_images(tmp_path / "linked", [{"image": str(path)}])
    with pytest.raises(InputError, match="another file named so"):
        splits.link_images(tmp_path / "linked", site.cases()[:1])
