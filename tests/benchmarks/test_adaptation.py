"""The driver of the adaptation benchmark: which runs there are, and all of them on tiny data."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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
def call(tmp_path, monkeypatch):
    """Command line of two pairs of sites; further arguments behind."""
    write_site(tmp_path / "data/source", 10, (10, 10, 10), 0)
    write_site(tmp_path / "data/target", 14, (80, 10, 40), 1)
    monkeypatch.setenv("ALIGNFLOW_DATA", str(tmp_path / "data"))
    pairs = {"source": {"directory": "source"}, "target": {"directory": "target"}}
    content = {"a_b": pairs, "a_c": pairs | {"train": {"mask_threshold": 0}}}
    (tmp_path / "pairs.json").write_text(json.dumps(content))
    places = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    pairs_file = ["--pairs_file", str(tmp_path / "pairs.json")]
    return lambda *more: [*pairs_file, *places, "--quick", *more]


def test_runs_are_those_asked_for(run, call):
    numbers = ["--references", "1", "2", "--seeds", "0", "1", "--draws", "0", "1", "2"]
    arms = ["--arms", "strong_aug", "fda", "aligned"]
    jobs = run.list_jobs(run.arguments(call("--pairs", "a_b", *arms, *numbers)))
    count = Counter(job.arm for job in jobs)
    assert count == {"strong_aug": 2, "fda": 12, "aligned": 12}
    assert len({job.name for job in jobs}) == len(jobs)
    both = run.list_jobs(run.arguments(call(*arms, *numbers)))
    assert Counter(job.pair for job in both) == {"a_b": 26, "a_c": 26}
    with pytest.raises(SystemExit):
        run.arguments(call("--pairs", "a_d"))


def test_dry_run_lists_and_leaves_nothing(run, call, tmp_path, capsys):
    done = tmp_path / "results/a_b/strong_aug-seed0.json"
    done.parent.mkdir(parents=True)
    done.touch()
    arms = ["--arms", "strong_aug", "ceiling", "--seeds", "0"]
    assert run.main(call("--dry_run", "--pairs", "a_b", *arms)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["done   a_b/strong_aug-seed0", "to do  a_b/ceiling-seed0"]
    assert not (tmp_path / "work").exists()


def test_pairs_of_the_benchmark_are_read(load_adaptation, run):
    sites = load_adaptation("splits").Site
    for pair in run.read_settings(FOLDER / "pairs.json").values():
        for name in ("source", "target"):
            assert sites(**pair[name]).directory


def test_single_settings_are_set(run, call):
    given = ["--set", "segment.synthetic_share=0.25", "--set", 'align.anatomy="source"']
    settings = run.settings_of(run.arguments(call(*given)), "a_c")
    assert settings["train"]["mask_threshold"] == 0
    assert settings["segment"]["synthetic_share"] == 0.25 and settings["segment"]["epochs"] == 1
    assert settings["align"]["anatomy"] == "source"
    for text in ("segment", "share=0.25", "segment.share=a"):
        with pytest.raises(InputError, match="give SECTION.KEY=JSON"):
            run.settings_of(run.arguments(call("--set", text)), "a_b")


def test_scores_are_means_over_the_classes_of_an_image(run):
    images = {
        "a": {"dice": {"disc": 0.5, "cup": 0.7}, "hd95": {"disc": 2.0, "cup": 4.0}},
        "b": {"dice": {"disc": 0.8, "cup": None}, "hd95": {"disc": 5.0, "cup": None}},
        "c": {"dice": {"disc": None, "cup": None}, "hd95": {"disc": None, "cup": None}},
    }
    found = run.read_scores({"images": images})
    assert found["dice"] == [pytest.approx(0.6), 0.8, None]
    assert found["dice_mean"] == pytest.approx(0.7)
    assert found["hd95"] == [3.0, 5.0, None] and found["hd95_mean"] == 4.0


def test_without_the_data_it_says_where_to_name_it(run, call, monkeypatch):
    monkeypatch.delenv("ALIGNFLOW_DATA")
    with pytest.raises(InputError, match="ALIGNFLOW_DATA: not set"):
        run.make_bench(run.arguments(call()), "a_b")


def test_carried_images_are_where_the_flow_ends(load_adaptation):
    """The flow of one image ends there from anywhere; a velocity of 0 leaves the noisy image."""
    carry = load_adaptation("to_source").carry
    image = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)

    def velocity(x, t, condition):
        assert condition.shape[1] == 3 and not condition.any()
        return (image - x) / (1 - t).clamp(min=0.05).view(-1, 1, 1, 1)

    given = torch.rand(5, 1, 8, 8) * 2 - 1
    carried = carry(given, velocity, 3, "cpu", start=0.5, steps=4)
    torch.testing.assert_close(carried, image.expand_as(given))
    noise = torch.randn(given.shape, generator=torch.Generator().manual_seed(0))
    expected = (0.1 * noise + 0.9 * given).clamp(-1, 1)
    still = carry(given, lambda x, t, condition: 0 * x, 3, "cpu", start=0.9, steps=4)
    torch.testing.assert_close(still, expected)


@pytest.mark.slow
def test_every_arm_from_the_source_to_the_table(run, call, tmp_path, load_adaptation, capsys):
    options = ["--pairs", "a_b", "--references", "2", "--seeds", "0", "--draws", "0", "--arms"]
    changes = {"one_round", "true_masks", "pseudo_in_batch", "no_style", "distance_alone"}
    options += [*run.ARMS, *changes]
    assert run.main(call(*options)) == 0
    results = tmp_path / "results"
    found = {path.stem: json.loads(path.read_text()) for path in (results / "a_b").glob("*-*.json")}
    assert {result["arm"] for result in found.values()} == set(run.ARMS) | changes
    for result in found.values():
        assert len(result["dice"]) == len(result["hd95"]) == 9
        assert 0 <= result["dice_mean"] <= 1
    capsys.readouterr()
    assert run.main(call(*options)) == 0
    assert capsys.readouterr().out == ""  # nothing was left to do
    table = load_adaptation("table")
    places = ["--results", str(results), "--output", str(tmp_path / "table"), "--references", "2"]
    assert set(table.main(places)["a_b"]) == set(run.ARMS) | changes
    distances = load_adaptation("distances")
    distances.main(call("--pairs", "a_b", "--references", "2", "--draws", "0"))
    measured = json.loads((results / "a_b/distances/aligned-n2-draw0.json").read_text())
    pairs = measured["metrics"]["kid"]
    assert set(pairs) == {"source", "reference", "unaligned", "aligned"}
    assert set(measured["at_home"]["kid"]) == {"source", "unaligned"}
    assert f"{pairs['aligned']['value']:.2f} (" in capsys.readouterr().out.splitlines()[-1]
    again = results / "a_b/strong_aug-seed0.json"
    before = json.loads(again.read_text())
    again.unlink()
    assert run.main(call(*options)) == 0
    assert json.loads(again.read_text())["dice"] == before["dice"]
