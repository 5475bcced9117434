"""The alignment benchmark at a tiny size, in this process."""

import json
import subprocess
import sys

import pytest
import torch

from alignflow.networks.velocity import VelocityUNet

TINY = ["--image_size", "32", "--batch_size", "2", "--channels", "32", "32", "32"]


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("alignment")


def test_schemes_against_autograd(benchmark):
    torch.manual_seed(0)
    network = VelocityUNet(
        data_channels=3, condition_channels=3, channels=[32], attention_levels=[False]
    )
    benchmark.fill_zeros(network)
    found = benchmark.compare(network, draws=2, batch=2, size=8)
    rows = found["schemes"]
    assert set(rows) == set(benchmark.SCHEMES)
    assert found["full_largest_relative_difference"] < 1e-5
    assert rows["full"]["draw_all"] == pytest.approx(1, abs=1e-6)
    assert all(0 < row["mean_tensors"] <= 1.000001 for row in rows.values())
    draws = {name: row["draws"] for name, row in rows.items()}
    assert draws["surrogate K=2"] == 2 and draws["surrogate K=10"] == draws["full"] == 1


def test_agreement_of_known_gradients(benchmark):
    exact = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])]
    drawn = [
        [torch.tensor([2.0, 2.0]), torch.tensor([0.0, 6.0])],
        [torch.tensor([2.0, -2.0]), torch.tensor([0.0, 6.0])],
    ]
    found = benchmark.agreement(drawn, exact)
    assert (found["mean_all"], found["mean_tensors"]) == pytest.approx((1, 1))
    assert found["draw_all"] == pytest.approx(20 / (44 * 10) ** 0.5)
    assert found["draw_tensors"] == pytest.approx((0.5**0.5 + 1) / 2)
    assert found["length"] == pytest.approx(2)
    rounding = [*exact, torch.tensor([1e-9])]  # does not count
    assert benchmark.by_tensor([*exact, torch.tensor([-1.0])], rounding) == pytest.approx(1)


def test_update_is_that_of_the_config(benchmark):
    args = benchmark.arguments(TINY)
    trainer = benchmark.align_trainer(args, benchmark.scheme(2, "full"))
    before = [p.clone() for p in trainer.network.parameters()]
    for count in (1, 2):
        benchmark.run_update(trainer)
        assert trainer.state.iteration == count
    after = list(trainer.network.parameters())
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert any(moved) and all(p.requires_grad for p, m in zip(after, moved, strict=True) if m)
    update = trainer._process_function
    assert (update.scheme.method, update.anchor, update.guidance) == ("full", 3.0, 1.0)
    assert {name.split("_")[0] for name in update.reward.terms} >= {"encoder", "colour"}


@pytest.mark.slow
def test_whole_run(benchmark, tmp_path):
    output = tmp_path / "alignment.json"
    few = ["--draws", "2", "--fit_steps", "1", "--rounds", "1", "--output", str(output)]
    done = subprocess.run(
        [sys.executable, benchmark.__file__, *TINY, *few],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(output.read_text())
    peaks = result["memory"]["full"]["peak_mib"]
    assert peaks["50"] > peaks["5"] > 0
    assert result["seconds"]["surrogate K=2"]["wall"]["ratio"] == 1
    assert "after a short fit" in done.stdout
