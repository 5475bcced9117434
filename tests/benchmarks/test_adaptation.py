"""The driver of the adaptation benchmark: which runs there are, and all of them on tiny data."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_dilation

from alignflow.errors import InputError

FOLDER = Path(__file__).parents[2] / "benchmarks/adaptation"


@pytest.fixture
def run(load_adaptation):
    return load_adaptation("run")


def write_site(root, count, colour, seed):
    """RGB noise with a brighter disc, 32 pixels."""
    rng = np.random.default_rng(seed)
    i, j = np.indices((32, 32))
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        (x, y), r = rng.uniform(12, 20, 2), rng.uniform(5, 9)
        mask = np.hypot(i - x, j - y) <= r
        image = rng.integers(0, 60, (32, 32, 3)) + 100 * mask[..., None] + np.array(colour)
        Image.fromarray(image.astype(np.uint8)).save(root / f"images/{number:03d}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / f"masks/{number:03d}.png")
    return root


@pytest.fixture
def call(tmp_path):
    """Command line of a pair of sites; further arguments behind."""
    source = write_site(tmp_path / "source", 10, (10, 10, 10), 0)
    target = write_site(tmp_path / "target", 9, (80, 10, 40), 1)
    places = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    sites = ["--source", str(source), "--target", str(target), "--name", "a_b"]
    return lambda *more: [*sites, *places, "--quick", *more]


def test_runs_are_those_asked_for(run, call):
    numbers = ["--references", "1", "2", "--seeds", "0", "1", "--draws", "0", "1", "2"]
    args = run.arguments(call("--arms", "source", "fda", "aligned", *numbers))
    jobs = run.list_jobs(args)
    count = {arm: sum(job.arm == arm for job in jobs) for arm in ("source", "fda", "aligned")}
    assert count == {"source": 2, "fda": 4, "aligned": 12}
    assert len({job.name for job in jobs}) == len(jobs)
    assert run.list_jobs(run.arguments(call("--labelled", "4")))[0].name == "source-4-seed0"
    with pytest.raises(InputError, match="--labelled few"):
        run.list_jobs(run.arguments(call("--labelled", "few")))


def test_dry_run_lists_and_leaves_nothing(run, call, tmp_path, capsys):
    done = tmp_path / "results/a_b/source-all-seed0.json"
    done.parent.mkdir(parents=True)
    done.touch()
    assert run.main(call("--dry_run", "--arms", "source", "oracle", "--seeds", "0")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["done   a_b/source-all-seed0", "to do  a_b/oracle-all-seed0"]
    assert not (tmp_path / "work").exists()


def test_single_settings_are_set(run, call):
    given = ["--set", "segment.synthetic_share=0.25", "--set", 'align.anatomy="source"']
    settings = run.settings_of(run.arguments(call(*given)))
    assert settings["segment"]["synthetic_share"] == 0.25 and settings["segment"]["epochs"] == 1
    assert settings["align"]["anatomy"] == "source"
    for text in ("segment", "share=0.25", "segment.share=a"):
        with pytest.raises(InputError, match="give SECTION.KEY=JSON"):
            run.settings_of(run.arguments(call("--set", text)))


def test_scores_are_means_over_the_classes_of_an_image(run):
    images = {
        "a": {"dice": {"disc": 0.5, "cup": 0.7}, "iou": {"disc": 0.25, "cup": 0.35}},
        "b": {"dice": {"disc": 0.8, "cup": None}, "iou": {"disc": 0.5, "cup": None}},
        "c": {"dice": {"disc": None, "cup": None}, "iou": {"disc": None, "cup": None}},
    }
    found = run.read_scores({"images": images})
    assert found["dice"] == [pytest.approx(0.6), 0.8, None]
    assert found["dice_mean"] == pytest.approx(0.7)
    assert found["iou_mean"] == pytest.approx(0.4)


def test_generator_of_another_split_is_refused(run, call, tmp_path):
    model = tmp_path / "models"
    model.mkdir()
    args = run.arguments(call("--model_dir", str(model)))
    settings = run.settings_of(args)
    with pytest.raises(InputError, match=r"no train_config\.json"):
        run.make_bench(args, None, settings)
    config = {"dataset_dir": str(tmp_path / "source"), "validation_fraction": 0.2}
    config |= {"seed": 0, "group_column": None, "group_pattern": None}
    (model / "train_config.json").write_text(json.dumps(config))
    assert run.make_bench(args, None, settings).generator() == model
    with pytest.raises(InputError, match="leave it out"):
        run.make_bench(args, 4, settings)
    (model / "train_config.json").write_text(json.dumps(config | {"seed": 1}))
    with pytest.raises(InputError, match="leave it out"):
        run.make_bench(args, None, settings)


def test_masks_grow_in_all_eight_directions(load_adaptation):
    outlines = load_adaptation("outlines")
    masks = np.random.default_rng(0).random((3, 1, 20, 17)) < 0.02
    square = np.ones((1, 1, 3, 3), bool)
    for pixels in outlines.GROWTH:
        found = outlines.grown(torch.from_numpy(masks).byte(), pixels).numpy()
        expected = binary_dilation(masks, square, iterations=pixels) if pixels else masks
        np.testing.assert_array_equal(found, expected)


def test_outlines_without_results_are_refused(load_adaptation, call):
    with pytest.raises(InputError, match="a_b': none of these runs; call run.py"):
        load_adaptation("outlines").main(call())


@pytest.mark.slow
def test_every_arm_from_the_source_to_the_table(run, call, tmp_path, load_adaptation, capsys):
    options = ["--references", "2", "--seeds", "0", "--draws", "0"]
    assert run.main(call(*options)) == 0
    results = tmp_path / "results"
    found = {path.stem: json.loads(path.read_text()) for path in (results / "a_b").glob("*-*.json")}
    assert {result["arm"] for result in found.values()} == set(run.ARMS)
    for result in found.values():
        assert len(result["dice"]) == len(result["iou"]) == 6
        assert 0 <= result["dice_mean"] <= 1 and result["seconds"]["segmenter"] > 0
    capsys.readouterr()
    assert run.main(call(*options)) == 0
    assert capsys.readouterr().out == ""  # nothing was left to do
    table = load_adaptation("table")
    places = ["--results", str(results), "--output", str(tmp_path / "table")]
    assert len(table.main(places)["rows"][0]["arms"]) == len(run.ARMS)
    distances = load_adaptation("distances")
    distances.main(call("--references", "2", "--draws", "0"))
    measured = json.loads((results / "a_b/distances/all-n2-draw0.json").read_text())
    pairs = measured["metrics"]["kid"]
    assert set(pairs) == {"source", "reference", "unaligned", "aligned"}
    assert set(measured["at_home"]["kid"]) == {"source", "unaligned"}
    assert f"{pairs['aligned']['value']:.2f} (" in capsys.readouterr().out.splitlines()[-1]
    outlines = load_adaptation("outlines")
    outlines.main(call(*options, "--arms", "source", "aligned"))
    rows = json.loads((results / "a_b/outlines/outlines.json").read_text())["runs"]
    assert [row["arm"] for row in rows] == ["source", "aligned"]
    for name, row in zip(("source-all", "aligned-all-n2-draw0"), rows, strict=True):
        assert row["dice_grown_0"] == pytest.approx(found[f"{name}-seed0"]["dice_mean"], abs=1e-4)
    again = results / "a_b/source-all-seed0.json"
    before = json.loads(again.read_text())
    again.unlink()
    assert run.main(call(*options)) == 0
    after = json.loads(again.read_text())
    assert {k: after[k] for k in ("dice", "seconds")} == {k: before[k] for k in ("dice", "seconds")}


def listed(script, folder):
    """The runs that a script of the benchmark would make."""
    result = subprocess.run(
        [FOLDER / script, folder / "work", folder / "results", "--dry_run"],
        env=os.environ | {"ALIGNFLOW_DATA": str(folder), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split()[-1] for line in result.stdout.splitlines()]


@pytest.mark.slow  # seven times the imports
def test_everything_is_four_pairs_the_control_the_curve_and_few_labels(tmp_path):
    runs = listed("everything.sh", tmp_path)
    assert len(set(runs)) > 300
    for pair in ("kvasir_c1", "kvasir_c2", "kvasir_clinic", "clinic_kvasir", "rim_drishti"):
        arms = Counter(run.split("/")[1].split("-")[0] for run in runs if run.startswith(pair))
        assert arms["source"] >= 3 and arms["aligned"] >= 9 and arms["fda"] >= 3
    for n in (1, 2, 5, 10, 50):
        assert f"kvasir_c2/aligned-all-n{n}-draw0-seed2" in runs
    assert "kvasir_c2/aligned-100-n10-draw0-seed0" in runs


@pytest.mark.slow  # twelve times the imports
def test_each_variant_of_the_ablation_has_pairs_to_compare_with_what_there_is(tmp_path):
    runs = listed("ablation.sh", tmp_path)
    variants = {run.split("/")[0] for run in runs}
    assert len(set(runs)) == len(runs) and len(variants) == 12
    assert {f"as_it_is/source_aug-all-seed{seed}" for seed in range(3)} <= set(runs)
    for variant in variants:
        arms = {run.split("/")[1].split("-")[0] for run in runs if run.startswith(f"{variant}/")}
        assert "aligned" in arms
