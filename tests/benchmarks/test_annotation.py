"""The benchmark of annotation strategies: orders on pools whose right order is known; its table."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from alignflow.alignment.reward import SetReward
from alignflow.label.witness import site_witness


@pytest.fixture
def annotation(load_benchmark):
    return load_benchmark("annotation")


def cluster(count, level):
    return level + 0.03 * torch.randn(count, 3, 8, 8)


@pytest.fixture
def pool():
    """Images 0 to 9 as the generator draws them, 10 to 14 brighter, 15 to 19 darker."""
    torch.manual_seed(0)
    samples = cluster(30, 0.0)
    images = torch.cat([cluster(10, 0.0), cluster(5, 0.7), cluster(5, -0.7)])
    brightness = {"brightness": lambda x: x.mean(dim=(2, 3))}
    reward = SetReward(brightness, kernels=["rbf"], bandwidths=[0.5], queue_size=0)
    reward.fit(samples, images)
    found = SimpleNamespace(
        names=[f"{k}.png" for k in range(20)], images=images, samples=samples, reward=reward, seed=3
    )
    found.witness = lambda others: site_witness(reward, others, images, 0.01, 3)
    return found


@pytest.mark.parametrize("order", ["witness", "covered", "farthest"])
def test_what_the_generator_does_not_draw_comes_first(annotation, pool, order):
    assert set(annotation.ORDERS[order](pool, 4)) <= set(range(10, 20))


@pytest.mark.parametrize("order", ["covered", "farthest"])
def test_what_is_annotated_counts_as_covered(annotation, pool, order):
    chosen = annotation.ORDERS[order](pool, 4)
    assert {k < 15 for k in chosen} == {True, False}, "both kinds that the generator lacks"
    assert len(set(chosen)) == 4


@pytest.mark.parametrize("order", ["random", "witness", "covered", "farthest"])
def test_more_images_hold_the_fewer(annotation, pool, order):
    fewer, more = (annotation.ORDERS[order](pool, count) for count in (5, 12))
    assert more[:5] == fewer and len(set(more)) == 12


def test_random_choice_goes_by_the_seed(annotation, pool):
    expected = random.Random(3).sample(range(20), 5)
    assert annotation.by_random(pool, 5) == expected


def result(order, count, seed, dice):
    return {"order": order, "count": count, "seed": seed, "dice": dice}


def test_differences_are_between_runs_of_one_seed(annotation):
    results = [
        result("random", 10, 0, [0.5, 0.7, None]),
        result("random", 10, 1, [0.4, 0.6, None]),
        result("witness", 10, 1, [0.5, 0.7, None]),
        result("witness", 20, 1, [0.9, 0.9, None]),
    ]
    rows = annotation.table(results).splitlines()
    assert rows[0] == "| order | 10 annotated | 20 annotated |"
    assert rows[2].startswith("| random | 55.0 (2) |")
    assert "60.0 (1), +10.0 (+10.0 to +10.0)" in rows[3] and rows[3].endswith("| 90.0 (1) |")


@pytest.mark.slow
def test_runs_are_done_once_and_summed_up(annotation, distilled, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "site" / folder).mkdir(parents=True)
    for k in range(12):
        mask = np.zeros((16, 16), np.uint8)
        mask[3:9, 2 + k // 2 : 9] = 1
        image = rng.integers(0, 99, (16, 16, 3)) + 100 * mask[..., None]
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"site/images/{k}.png")
        Image.fromarray(mask).save(tmp_path / f"site/masks/{k}.png")
    quick = {"mask_steps": 2, "solver_steps": 2, "views": 2}
    (tmp_path / "settings.json").write_text(
        json.dumps({"align": quick | {"masks::max_attempts": 2, "device": "cpu"}})
    )
    line = ["--target", "site", "--model_dir", distilled, "--name", "pair", "--work", "work"]
    line += ["--results", "results", "--settings", "settings.json", "--counts", "2", "3"]
    line += ["--seeds", "0", "--epochs", "1", "--steps_per_epoch", "2", "--samples", "4"]
    paths = {"site", "work", "results", "settings.json"}
    call = [str(tmp_path / word) if word in paths else str(word) for word in line]
    assert annotation.main(call) == 0
    files = sorted((tmp_path / "results/pair").glob("*.json"))
    assert len(files) == 8
    written = {path: path.read_bytes() for path in files}
    for content in map(json.loads, written.values()):
        assert len(set(content["images"])) == content["count"] and content["steps"] == 2
        assert 0 <= content["dice_mean"] <= 1
    assert annotation.main(call) == 0
    assert {path: path.read_bytes() for path in files} == written
    assert annotation.main([*call, "--table"]) == 0
    assert "| witness |" in capsys.readouterr().out
