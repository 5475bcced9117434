"""The quality benchmark of the samplers, on a tiny bundle of random weights."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from alignflow.errors import InputError
from alignflow.evaluation.subsampling import Subsampling
from alignflow.flow.sampler import FlowSampler
from alignflow.inference.noise import pair_noise
from alignflow.inference.weights import load_sampler
from alignflow.networks.velocity import VelocityUNet
from alignflow.stage1 import Stage1

TINY = ["--count", "6", "--steps", "1", "2", "--encoder", "random", "--draws", "5"]
TINY += ["--encoder_size", "32", "32", "--batch_size", "4", "--device", "cpu"]


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("sampler/quality")


@pytest.fixture
def command(distilled, site):
    return ["--model_dir", str(distilled), "--target_dir", str(site), *TINY]


@pytest.fixture
def bench(benchmark, command):
    return benchmark.Bench(benchmark.arguments(command))


def test_whole_run(benchmark, command, tmp_path, capsys):
    output = tmp_path / "quality.json"
    backends = ["--backends", "onnxruntime", "openvino"]
    benchmark.main([*command, *backends, "--output", str(output)])
    result = json.loads(output.read_text())
    rows = result["arms"]
    # as many evaluations with one step of Euler and of Heun, whose last step is Euler's
    assert rows["teacher euler 1, torch fp32"] == rows["teacher heun 1, torch fp32"]
    taken = {name.split(",")[0]: row["evaluations"] for name, row in rows.items()}
    assert taken["teacher euler 50"] == 50 and taken["teacher euler 8"] == 8
    assert taken["student 1"] == 1
    base = rows["teacher euler 50, torch fp32"]
    assert result["baseline"] == "teacher euler 50, torch fp32"
    assert base["against"][result["baseline"]]["kid_ratio"]["value"] == 1
    for backend in ("onnxruntime", "openvino"):
        name = f"student 1, {backend} fp32"
        assert 0 < result["parity"][name]["max"] < 1e-3
        in_torch = rows["student 1, torch fp32"]
        assert rows[name]["kid"]["value"] == pytest.approx(in_torch["kid"]["value"], rel=1e-3)
    assert "student 1, torch fp32: KID over" in capsys.readouterr().out
    with Image.open(output.with_suffix(".png")) as picture:
        assert picture.size[0] > 100


def test_the_tables_student_is_the_bundles(benchmark, bench, distilled):
    """Drawn once more by the sampler of two arguments, all pairs in one batch."""
    images = bench.draw(benchmark.Arm(1, student=True))
    stage1 = Stage1.load(str(distilled))
    network = VelocityUNet(**stage1.image_network)
    weights = str(distilled / "student_1.pt")
    student = load_sampler(network, weights, "cpu", steps=1)
    with torch.no_grad():
        noise = pair_noise(0, range(6), "image", (3, 16, 16))
        expected = student(noise, condition=stage1.condition(bench.labels))
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize(
    ("steps", "method"), [(1, "euler"), (5, "euler"), (1, "heun"), (5, "heun")]
)
def test_evaluations_are_the_rows_that_the_network_sees(benchmark, steps, method, guidance):
    seen = 0

    def count(module, given):
        nonlocal seen
        seen += len(given[0])

    network = VelocityUNet(
        data_channels=1, condition_channels=1, channels=[32], attention_levels=[False]
    )
    network.register_forward_pre_hook(count)
    sampler = FlowSampler(network, steps=steps, method=method, guidance=guidance)
    with torch.no_grad():
        sampler(torch.randn(3, 1, 4, 4), condition=torch.randn(3, 1, 4, 4))
    assert seen == 3 * benchmark.evaluations(benchmark.Arm(steps, method), guidance)


def test_ratio_of_known_draws(benchmark):
    base = np.linspace(1, 3, 101)
    found = benchmark.ratio(3 * base, base)
    assert list(found.values()) == pytest.approx([3, 3, 3])  # paired: no spread is left
    assert benchmark.ratio(base, base - 2.5) == {"value": None, "low": None, "high": None}
    assert benchmark.ratio(base, base - 1.5)["low"] is None


def test_kid_to_the_teacher_is_unbiased(benchmark):
    torch.manual_seed(0)
    teacher = torch.randn(200, 4, dtype=torch.float64)
    half = Subsampling(draws=40, largest=100)
    same = benchmark.kid_of_other_pairs(teacher, teacher, half)
    moved = benchmark.kid_of_other_pairs(teacher + 1, teacher, half)
    assert abs(same.mean()) < 0.1 * moved.mean()
    # of the same pairs it would come out below 0, each image lying on its twin
    twins = [benchmark.kid_alone(teacher[:100], teacher[:100])["kid"] for _ in range(2)]
    assert twins[0] < same.mean()


def test_refused(benchmark, command, distilled, tmp_path):
    with pytest.raises(InputError, match="run distill"):
        benchmark.main([*command, "--model_dir", str(tmp_path)])
    with pytest.raises(InputError, match="needs four of both"):
        benchmark.main([*command, "--count", "3"])
