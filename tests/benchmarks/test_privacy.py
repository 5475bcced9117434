"""The benchmark of planted copies on a tiny bundle and random pictures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("privacy")


def write_pairs(folder, names, seed):
    random = np.random.default_rng(seed)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for k, name in enumerate(names):
        mask = np.zeros((16, 16), np.uint8)
        mask[5:12, 4 : 8 + k % 5] = 1  # columns of a file are X: the masks of the bundle
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((16, 16), Image.Resampling.BICUBIC).save(folder / f"images/{name}.png")
        Image.fromarray(mask).save(folder / f"labels/{name}.png")


def test_copies_are_what_their_names_say(benchmark):
    image = torch.arange(3 * 8 * 8, dtype=torch.float32).reshape(3, 8, 8) / 96 - 1
    made = {n: f(image, np.random.default_rng(0)) for n, f in benchmark.KINDS.items()}
    assert all(copy.shape == image.shape for copy in made.values())
    assert torch.equal(made["mirrored x"].flip(1), image)
    assert torch.equal(made["mirrored y"].flip(2), image)
    inner = made["shift 1/8"][:, 1:-1, 1:-1]
    shifts = [image.roll((x, y), (1, 2))[:, 1:-1, 1:-1] for x in (-1, 1) for y in (-1, 1)]
    assert any(torch.equal(inner, shift) for shift in shifts)
    reach = [(made[name][0].amax() - made[name][0].amin()) for name in ("crop 0.6", "mirrored x")]
    assert reach[0] < 0.8 * reach[1]


def test_halves_share_no_group(benchmark):
    values, groups = np.arange(80.0), [str(k // 2) for k in range(80)]
    threshold, alarms = benchmark.halves(values, groups, 0.1, 0)
    assert 0 < threshold < 40 and 0 <= alarms < 0.5
    assert benchmark.halves(values[:10], groups[:10], 0.05, 0) == (0.0, 0.0)


def test_whole_run(benchmark, random_bundle, tmp_path):
    write_pairs(tmp_path / "data", [f"patient{k:03d}" for k in range(100)], 0)
    write_pairs(tmp_path / "pairs", [f"pair_{k:05d}" for k in range(5)], 1)
    line = ["--seeds", "2", "--validation_fraction", "0.5"]
    for name, folder in (("dataset", "data"), ("model", random_bundle.name), ("pairs", "pairs")):
        line += [f"--{name}_dir", str(tmp_path / folder)]
    benchmark.main([*line, "--output", str(tmp_path / "out.json")])
    result = json.loads((tmp_path / "out.json").read_text())
    relative = result["scores"]["relative"]
    assert relative["planted"] == 20 and relative["found"] >= 19
    assert result["scores"]["pixels"]["found"] < relative["found"]
    assert all(10 <= rank <= 15 for rank in relative["lowest_rank_of_a_copy"])
    assert 0 <= relative["false_alarms"]["value"] <= 0.2
    assert result["nearest_is_the_origin"] > 0.9
