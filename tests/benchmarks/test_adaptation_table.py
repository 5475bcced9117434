"""The table's figures against plain numpy and scipy on made results."""

import json

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from alignflow.errors import InputError

IMAGES = 40


@pytest.fixture
def table(load_adaptation):
    return load_adaptation("table")


def write(folder, pair, arm, scores, seed=0, draw=None, n=None, labelled=None, test="t", beta=0.1):
    """A result file as run.py writes it."""
    content = {"pair": pair, "arm": arm, "labelled": labelled, "references": n, "seed": seed}
    content |= {"draw": draw, "test_sha256": test, "versions": {"commit": "c"}}
    content["settings"] = {"train": {}, "segment": {"epochs": 15}, "fda": {"beta": beta}}
    content["dice"] = [None if np.isnan(s) else round(float(s), 4) for s in scores]
    content["iou"] = [None if np.isnan(s) else round(float(s / (2 - s)), 4) for s in scores]
    path = folder / pair / f"{arm}-{labelled}-{n}-{seed}-{draw}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def results(tmp_path):
    """Arms around .6, aligned .05 above; 2 pairs, 3 seeds, 2 draws; image 0 has no foreground."""
    rng, root = np.random.default_rng(0), tmp_path / "results"
    for pair in ("a_b", "a_c"):
        base = rng.uniform(0.3, 0.9, IMAGES)
        base[0] = np.nan
        for seed in range(3):
            noise = rng.normal(0, 0.02, IMAGES)
            write(root, pair, "source", base + noise, seed)
            write(root, pair, "source_aug", base + noise + 0.02, seed)
            write(root, pair, "oracle", base + noise + 0.1, seed)
            write(root, pair, "ceiling", base + noise + 0.12, seed)
            write(root, pair, "fda", base + noise - 0.1, seed, 0, 10)
            for draw in range(2):
                gain = 0.05 + 0.02 * draw + rng.normal(0, 0.03, IMAGES)
                write(root, pair, "aligned", base + noise + gain, seed, draw, 10)
        (root / pair / "test_set.json").write_text(
            json.dumps({"groups": [str(k // 4) for k in range(IMAGES)]})
        )
    return root


def dice(folder, pair, arm):
    paths = sorted((folder / pair).glob(f"{arm}-*.json"))
    found = [json.loads(p.read_text())["dice"] for p in paths]
    return np.array(found, dtype=float)[:, 1:]


def test_means_and_gains_are_those_of_the_files(table, results, tmp_path):
    summary = table.main(["--results", str(results), "--output", str(tmp_path / "out")])
    row = summary["rows"][0]
    assert (row["pair"], row["references"], row["test_images"]) == ("a_b", 10, IMAGES - 1)
    source, aligned = dice(results, "a_b", "source"), dice(results, "a_b", "aligned")
    assert row["arms"]["source"]["dice"] == pytest.approx(100 * source.mean())
    assert row["arms"]["aligned"]["dice"] == pytest.approx(100 * aligned.mean())
    assert row["arms"]["aligned"]["runs"] == 6
    gain = row["gains"]["aligned - source"]
    assert gain["value"] == pytest.approx(100 * (aligned.mean() - source.mean()))
    assert gain["low"] < gain["value"] < gain["high"] and gain["low"] > 4
    assert not gain["is_best_baseline"] and row["gains"]["aligned - source_aug"]["is_best_baseline"]
    assert row["gains"]["ceiling - source_aug"]["value"] == pytest.approx(10, abs=0.01)
    mean = summary["mean_gain"]["aligned - source_aug, n = 10"]
    values = [r["gains"]["aligned - source_aug"]["value"] for r in summary["rows"]]
    assert mean == {"value": pytest.approx(np.mean(values)), "pairs": 2, "above_0": 2}


def test_variants_are_compared_with_one_baseline(table, results, tmp_path):
    places = ["--results", str(results), "--output", str(tmp_path / "out")]
    found = table.main([*places, "--baseline", "a_b"])["variants"]
    source_aug = dice(results, "a_b", "source_aug")
    for row in found:
        scores = dice(results, row["variant"], row["arm"])
        assert row["value"] == pytest.approx(100 * (scores.mean() - source_aug.mean()))
        assert row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9
    assert {(row["variant"], row["arm"]) for row in found} > {
        ("a_c", "aligned"),
        ("a_b", "ceiling"),
    }
    with pytest.raises(InputError, match="--baseline a_d"):
        table.main([*places, "--baseline", "a_d"])


def test_interval_over_images_is_scipys(table):
    gain = np.random.default_rng(1).normal(1, 3, (1, 60))
    low, high = table.bootstrap(gain, np.arange(60))
    expected = scipy_bootstrap(
        (gain[0],), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert low == pytest.approx(expected.low, abs=0.1)
    assert high == pytest.approx(expected.high, abs=0.1)


def test_seeds_and_groups_widen_the_interval_as_their_variance_says(table):
    rng = np.random.default_rng(0)
    seeds = rng.normal(0, 1, (8, 1)) + np.zeros((1, 50))
    low, high = table.bootstrap(seeds, np.arange(50))
    assert (high - low) / 2 == pytest.approx(1.96 * seeds[:, 0].std() / np.sqrt(8), rel=0.15)
    groups = np.repeat(np.arange(10), 5)
    by_group = rng.normal(0, 1, 10)[groups][None]
    low, high = table.bootstrap(by_group, groups)
    assert (high - low) / 2 == pytest.approx(1.96 * by_group.std() / np.sqrt(10), rel=0.15)
    narrow = table.bootstrap(by_group, np.arange(50))
    assert narrow[1] - narrow[0] < 0.6 * (high - low)


def test_text_names_tuning_control_and_what_is_mixed(table, results, tmp_path):
    write(results, "a_c", "aligned", np.full(IMAGES, 0.7), 0, 0, 10, labelled=100)
    path = results / "a_b/source-None-None-0-None.json"
    changed = json.loads(path.read_text()) | {"versions": {"commit": "other"}}
    path.write_text(json.dumps(changed))
    out = tmp_path / "out"
    call = ["--results", str(results), "--output", str(out), "--tuned_on", "a_b"]
    summary = table.main([*call, "--control", "a_c"])
    text = (out / "table.md").read_text()
    assert "Settings were chosen on: a_b" in text and "Control without a gap: a_c" in text
    assert "2 versions of the code" in text and "100 labelled" in text
    assert summary["mean_gain"]["aligned - source, n = 10"]["pairs"] == 1
    assert json.loads((out / "summary.json").read_text()) == json.loads(json.dumps(summary))


def test_settings_that_differ_are_told_where_they_matter(table, results):
    read = table.read_results
    assert table.mixed(read(results)) == []
    write(results, "a_b", "source", np.full(IMAGES, 0.7), 3, beta=0.2)
    assert table.mixed(read(results)) == []
    write(results, "a_b", "fda", np.full(IMAGES, 0.7), 3, 0, 10, beta=0.2)
    assert table.mixed(read(results)) == ["several settings of fda (a_b)"]


def test_curve_is_drawn_where_there_are_several_counts(table, results, tmp_path):
    out = tmp_path / "out"
    table.main(["--results", str(results), "--output", str(out)])
    assert not (out / "references.png").exists()
    for n in (1, 50):
        write(results, "a_b", "aligned", np.r_[np.nan, np.full(IMAGES - 1, 0.7)], 0, 0, n)
    summary = table.main(["--results", str(results), "--output", str(out)])
    assert (out / "references.png").stat().st_size > 1000
    counts = [row["references"] for row in summary["rows"] if row["pair"] == "a_b"]
    assert counts == [1, 10, 50]
    assert "aligned - source, n = 10" in summary["mean_gain"]


def test_bad_results_are_refused(table, results, tmp_path):
    write(results, "a_b", "tta_bn", np.zeros(IMAGES), 0, 0, 10, test="other")
    with pytest.raises(InputError, match="other test images"):
        table.read_results(results)
    with pytest.raises(InputError, match="no results"):
        table.read_results(tmp_path / "nothing")
    arms = [table.Arm({(seed, 0): np.ones(3)}, {}) for seed in (0, 1)]
    with pytest.raises(InputError, match="common seed"):
        table.difference(*arms)
