"""The table's figures against plain numpy on made results."""

import json

import numpy as np
import pytest

from alignflow.errors import InputError

IMAGES = 40
GROUPS = [k // 4 for k in range(IMAGES)]


@pytest.fixture
def table(load_adaptation):
    return load_adaptation("table")


def write(folder, pair, arm, scores, seed=0, draw=None, n=None, test="t", settings="s"):
    """A result file as run.py writes it."""
    content = {"pair": pair, "arm": arm, "references": n, "seed": seed, "draw": draw}
    content["dice"] = [None if np.isnan(s) else round(float(s), 4) for s in scores]
    content |= {"hd95_mean": 4.0 + seed, "test_sha256": test, "pool": 50}
    content["settings_sha256"] = settings
    path = folder / pair / f"{arm}-{n}-{seed}-{draw}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def results(tmp_path):
    """Arms around .6, aligned above; 2 pairs, 3 seeds, 2 draws; image 0 has no foreground."""
    rng, root = np.random.default_rng(0), tmp_path / "results"
    for pair in ("a_b", "a_c"):
        base = rng.uniform(0.3, 0.9, IMAGES)
        base[0] = np.nan
        for seed in range(3):
            noise = base + rng.normal(0, 0.02, IMAGES)
            write(root, pair, "strong_aug", noise, seed)
            write(root, pair, "ceiling", noise + 0.1, seed)
            for draw in range(2):
                write(root, pair, "fda", noise - 0.1, seed, draw, 10)
                gain = 0.05 + 0.02 * draw + rng.normal(0, 0.03, IMAGES)
                write(root, pair, "aligned", noise + gain, seed, draw, 10)
        (root / pair / "test_set.json").write_text(json.dumps({"groups": GROUPS}))
    return root


def dice(folder, pair, arm):
    paths = sorted((folder / pair).glob(f"{arm}-*.json"))
    found = [json.loads(p.read_text())["dice"] for p in paths]
    return 100 * np.array(found, dtype=float)[:, 1:]


def test_means_and_gains_are_those_of_the_files(table, results, tmp_path):
    out = tmp_path / "out"
    summary = table.main(["--results", str(results), "--output", str(out)])
    assert json.loads((out / "summary.json").read_text()) == summary
    assert list(summary["a_b"]) == ["strong_aug", "fda", "aligned", "ceiling"]
    means = {arm: dice(results, "a_b", arm).mean() for arm in summary["a_b"]}
    for arm, mean in means.items():
        found = summary["a_b"][arm]
        assert found["dice"] == pytest.approx(mean)
        assert found["low"] < mean < found["high"]
        assert found["runs"] == (3 if arm in ("strong_aug", "ceiling") else 6)
        assert found["hd95"] == pytest.approx(5)
    less = summary["a_b"]["aligned"]["less"]
    assert set(less) == {"strong_aug", "fda", "ceiling"}
    for arm, gain in less.items():
        assert gain["value"] == pytest.approx(means["aligned"] - means[arm])
        assert gain["low"] < gain["value"] < gain["high"] and gain["runs"] == 6
    assert less["strong_aug"]["low"] > 4  # paired: images differ by far more
    assert summary["a_b"]["ceiling"]["less"]["strong_aug"]["value"] == pytest.approx(10, abs=0.01)
    assert (out / "gain.png").stat().st_size > 1000


def test_a_change_is_compared_with_ours_alone(table, results, tmp_path):
    base = json.loads((results / "a_b/aligned-10-1-1.json").read_text())["dice"]
    write(results, "a_b", "one_round", np.array(base, float) - 0.03, 1, 1, 10)
    summary = table.main(["--results", str(results), "--output", str(tmp_path / "out")])
    less = summary["a_b"]["one_round"]["less"]
    assert list(less) == ["aligned"] and less["aligned"]["value"] == pytest.approx(-3, abs=0.01)
    assert "one_round" not in summary["a_b"]["aligned"]["less"]
    assert "| one round | -3.0 (-3.0 to -3.0) |" in (tmp_path / "out/table.md").read_text()


def test_only_runs_of_both_arms_are_compared(table, results, tmp_path):
    write(results, "a_b", "aligned", np.r_[np.nan, np.ones(IMAGES - 1)], 7, 0, 10)
    summary = table.main(["--results", str(results), "--output", str(tmp_path / "out")])
    assert summary["a_b"]["aligned"]["runs"] == 7
    assert summary["a_b"]["aligned"]["less"]["fda"]["runs"] == 6
    alone = {(7, 0): np.ones(4)}
    assert table.gain(alone, {(0, None): np.ones(4)}, [0, 1, 2, 3]) is None


def test_labels_needed_lie_where_the_curve_of_the_others_reaches_ours(table, tmp_path):
    """Dice .5 with none, .6 with 10, .7 with all 50 annotated, .65 with 20 fine-tuned."""
    images = np.r_[np.nan, np.full(IMAGES - 1, 0.5)]
    root = tmp_path / "results"
    write(root, "a_b", "strong_aug", images)
    write(root, "a_b", "ceiling", images + 0.2)
    write(root, "a_b", "annotated_in_batch", images + 0.1, 0, 0, 10)
    write(root, "a_b", "annotated_in_batch", images + 0.12, 0, 0, 20)
    write(root, "a_b", "annotated_finetuned", images + 0.15, 0, 0, 20)
    write(root, "a_b", "aligned", images + 0.13, 0, 0, 10)
    write(root, "a_b", "aligned_annotated", images + 0.3, 0, 0, 10)
    (root / "a_b/test_set.json").write_text(json.dumps({"groups": GROUPS}))
    found = table.main(["--results", str(root), "--output", str(tmp_path / "out")])["a_b"]
    needed = found["aligned"]["labels_needed"]
    assert needed == {key: pytest.approx(16) for key in ("value", "low", "high")}
    assert set(found["aligned_annotated"]["labels_needed"].values()) == {None}
    text = (tmp_path / "out/table.md").read_text()
    assert "| annotated images that the best other needs | 16 (16 to 16) |" in text
    assert "more than all (more than all to more than all)" in text


def test_curve_is_drawn_where_there_are_several_counts(table, results, tmp_path):
    call = ["--results", str(results), "--output", str(tmp_path / "out")]
    table.main(call)
    assert not (tmp_path / "out/references.png").exists()
    for n in (1, 50):
        write(results, "a_b", "aligned", np.r_[np.nan, np.full(IMAGES - 1, 0.7)], 0, 0, n)
    few = table.main([*call, "--references", "1"])
    assert (tmp_path / "out/references.png").stat().st_size > 1000
    assert few["a_b"]["aligned"]["dice"] == pytest.approx(70)
    assert "fda" not in few["a_b"] and few["a_b"]["strong_aug"]["runs"] == 3


def test_bad_results_are_refused(table, results, tmp_path):
    write(results, "a_b", "gin", np.zeros(IMAGES), test="other")
    with pytest.raises(InputError, match="other test images"):
        table.read_results(results)
    write(results, "a_b", "gin", np.zeros(IMAGES), settings="other")
    with pytest.raises(InputError, match="other settings"):
        table.read_results(results)
    with pytest.raises(InputError, match="no results"):
        table.read_results(tmp_path / "nothing")
