"""The speed benchmarks: our samplers and MONAI's inferer, on a tiny bundle of random weights."""

import json
import subprocess
import sys
import time

import pytest
import torch

from alignflow.errors import InputError
from alignflow.flow.sampler import ImageSampler

TINY = ["--device", "cpu", "--rounds", "1", "--seconds", "0.001", "--batch_size", "2"]
TINY += ["--threads", "1"]


@pytest.fixture
def speed(load_benchmark):
    return load_benchmark("sampler/speed")


@pytest.fixture
def peers(load_benchmark):
    return load_benchmark("peers")


@pytest.fixture
def options(distilled):
    return ["--model_dir", str(distilled), *TINY]


@pytest.mark.parametrize("steps", [1, 4, 10, 50])  # 1000 is a multiple of each
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_monais_scheduler_gives_the_images_of_our_euler_steps(peers, options, steps, guidance):
    args = peers.arguments(options)
    teacher, x = peers.load_teacher(args), peers.random_input(args)
    teacher.guidance = guidance
    ours = ImageSampler(teacher.network, steps=steps, method="euler", guidance=guidance)
    with torch.no_grad():
        expected = ours(x)
        found = peers.monai_sampler(peers.MonaiArm("RFlow", steps), teacher)(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_monais_arms_evaluate_the_network_as_often_as_they_say(peers, options):
    args = peers.arguments(options)
    teacher, times = peers.load_teacher(args), []
    teacher.network.register_forward_pre_hook(
        lambda module, given: times.append(float(given[1][0]))
    )
    for name in peers.SCHEDULERS:
        times.clear()
        peers.monai_sampler(peers.MonaiArm(name, 30), teacher)(peers.random_input(args))
        assert len(times) == 30 and times == sorted(times) and 0 <= times[0] < times[-1] < 1.001


def test_seconds_of_a_block_are_those_of_an_image(speed):
    calls = []

    def draw(x):
        calls.append(x)
        time.sleep(0.05)

    begun = time.perf_counter()
    found = speed.seconds_per_image(draw, torch.zeros(4, 1), 0.08)
    passed = time.perf_counter() - begun
    # the clock's own rounding
    assert 4 * len(calls) * found + 1e-3 > 0.08 and found + 1e-3 > 0.05 / 4
    assert 4 * len(calls) * found <= passed and len(calls) in (1, 2)
    calls.clear()
    speed.seconds_per_image(draw, torch.zeros(4, 1), 0.0)
    assert len(calls) == 1


def test_ratios_are_those_of_the_rounds(speed):
    rows = {
        "slow": {"seconds_per_image": [4.0, 9.0, 2.0]},
        "fast": {"seconds_per_image": [2, 3, 2]},
    }
    found = speed.against("slow", rows)
    assert found["fast"] == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [2.0, 3.0, 1.0]}
    assert found["slow"]["median"] == 1


def test_what_cannot_run_is_left_out_with_a_reason(speed, options, monkeypatch, capsys):
    args = speed.arguments(options)
    arms = speed.wanted(args)
    assert speed.possible(arms, args) == (arms, {})
    assert {arm.backend for arm in arms} == {"torch", "onnxruntime", "openvino"}
    monkeypatch.setattr(
        "alignflow.export.backends.find_spec", lambda name: None if name == "openvino" else True
    )
    left, left_out = speed.possible(arms, args)
    assert len(left) == len(arms) - 2
    assert all("pip install openvino" in reason for reason in left_out.values())
    assert "left out: student 1, openvino bf16" in capsys.readouterr().out


def test_untrained_bundle(speed, tmp_path):
    with pytest.raises(InputError, match="stage1.json"):
        speed.main(["--model_dir", str(tmp_path), *TINY])


def test_the_table_of_peers_has_the_ratios_to_each_of_monais_arms(peers, capsys):
    seconds = {
        "MONAI RFlow 30, as it comes": 8.0,
        "MONAI RFlow 30, tuned": 4.0,
        "student 1, x": 0.125,
    }
    rows = {
        name: {
            "seconds_per_image": [s],
            "images_per_second": 1 / s,
            "peak_mib": 512.0,
            "peak_above_imports_mib": None,
        }
        for name, s in seconds.items()
    }
    result = {
        "machine": {"gpu": None, "cpu": "processor", "cores": 2},
        "arguments": {"batch_size": 4, "device": "cpu"},
        "arms": rows,
        "ratios": {name: peers.against(name, rows) for name in seconds if "MONAI" in name},
        "agreement": {"steps": 10, "largest": 1e-6, "std": 0.5},
    }
    peers.print_tables(result)
    lines = capsys.readouterr().out.splitlines()
    [row] = [line for line in lines if line.startswith("student 1, x  ")]
    assert row.split()[3:] == ["8.00", "64.00", "32.00", "512", "-"]
    verdicts = [line.rsplit(": ", 1)[1] for line in lines if "at least 40" in line]
    assert verdicts == ["holds", "does not hold"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["speed", "peers"])
def test_whole_run(name, request, options, tmp_path):
    script, output = request.getfixturevalue(name).__file__, tmp_path / "found.json"
    command = [sys.executable, script, *options, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(output.read_text())
    assert all(row["images_per_second"] > 0 for row in result["arms"].values())
    assert all(row["peak_mib"] > row["peak_above_imports_mib"] for row in result["arms"].values())
    assert "student 1, openvino bf16" in result["arms"] and not result["left_out"]
    assert "at least 40" in done.stdout
    if name == "peers":
        assert "MONAI RFlow 30, as it comes" in result["ratios"]
        assert result["agreement"]["largest"] < 1e-4
