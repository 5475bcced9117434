"""The two arms of the step benchmark, at a tiny size."""

import json
import subprocess
import sys

import pytest
import torch

from alignflow.errors import InputError
from alignflow.flow.ema import EMA

TINY = ["--device", "cpu", "--rounds", "1", "--steps", "2", "--tolerance", "0.1"]
TINY += ["--image_size", "16", "--batch_size", "2"]
CHANNELS = ["--channels", "32", "32", "64", "--monai_channels", "32", "32", "64"]


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("train_step")


@pytest.mark.parametrize("whose", ["ours", "monai"])
def test_blocks_train_the_network(whose, benchmark, tmp_path):
    args = benchmark.arguments([*TINY, *CHANNELS])
    trainer = benchmark.TRAINERS[whose](args, tmp_path)
    clock = benchmark.Clock(args.device)
    clock.attach(trainer)
    before = [p.clone() for p in trainer.network.parameters()]
    for block in range(1, 3):
        steps = benchmark.run_block(trainer, clock)
        assert len(steps) == args.steps and min(steps) > 0
        assert trainer.state.iteration == block * args.steps
    after = list(trainer.network.parameters())
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(changed) > 0.9 * len(changed)


def test_arms_are_what_they_say(benchmark, tmp_path):
    args = benchmark.arguments(TINY)
    ours = benchmark.our_trainer(args, tmp_path)
    assert isinstance(ours._process_function.ema, EMA)
    assert (ours.network.patch, ours.network.data_channels) == (4, 3)
    monai = benchmark.monai_trainer(args, tmp_path)
    assert monai._process_function == monai._iteration and not monai.amp  # MONAI's own step
    counts = [sum(p.numel() for p in t.network.parameters()) for t in (ours, monai)]
    benchmark.check_parameters(dict(zip(("ours", "monai"), counts, strict=True)), 0.03)


def test_unequal_networks_are_refused(benchmark):
    benchmark.check_parameters({"ours": 1000, "monai": 1029}, 0.03)
    with pytest.raises(InputError, match="monai_channels"):
        benchmark.check_parameters({"ours": 1000, "monai": 1031}, 0.03)


def test_ratios_are_those_of_the_rounds(benchmark):
    found = benchmark.ratios([4.0, 9.0, 2.0], [2.0, 3.0, 2.0])
    assert found == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [2.0, 3.0, 1.0]}


@pytest.mark.slow
def test_whole_run(benchmark, tmp_path):
    output = tmp_path / "step.json"
    command = [sys.executable, benchmark.__file__, *TINY, *CHANNELS, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(output.read_text())
    assert set(result["ratios"]) == set(benchmark.COMPARISONS)
    assert all(arm["peak_memory_mib"] > 0 for arm in result["arms"].values())
    assert "MONAI / ours" in done.stdout
