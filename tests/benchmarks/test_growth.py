"""The growth benchmark on a tiny bundle of random weights."""

import json
import os

import pytest

from alignflow.errors import InputError
from alignflow.stage1 import Stage1


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("sampler/growth")


def test_ratios_of_known_peaks(benchmark):
    peaks = {10: 400.0, 100: 500.0, 1000: 510.0, 10000: 600.0}
    found = benchmark.memory_growth({n: {"peak_mib": peak} for n, peak in peaks.items()})
    assert found["base"] == 100 and found["ratios"][10000] == pytest.approx(1.2)
    assert found["kib_per_pair"] == pytest.approx(1024 * 100 / 9900)
    assert benchmark.memory_growth({10: {"peak_mib": 4.0}})["kib_per_pair"] is None


def test_pace_is_that_of_the_files(benchmark, tmp_path):
    for number in range(6):  # batches of two, 3 s each, the first of which took longer
        path = tmp_path / f"{number}.png"
        path.touch()
        when = 100 + 3 * (number // 2) + number % 2
        os.utime(path, (when, when))
    assert benchmark.seconds_per_pair(tmp_path, 2) == pytest.approx(1.5)
    assert benchmark.seconds_per_pair(tmp_path, 6) is None


def test_a_resized_bundle_is_one(benchmark, distilled, tmp_path):
    benchmark.resize_bundle(str(distilled), 32, tmp_path)
    record, other = Stage1.load(str(distilled)), Stage1.load(str(tmp_path))
    assert other.image_size == [32, 32] and other.image_network == record.image_network
    assert (tmp_path / "student_1.pt").is_file()


def test_refused(benchmark, distilled):
    model = ["--model_dir", str(distilled), "--only", "size"]
    with pytest.raises(InputError, match="exports are of one size"):
        benchmark.main([*model, "--backend", "openvino"])
    with pytest.raises(InputError, match="--sizes 33"):
        benchmark.main([*model, "--sizes", "16", "33"])


@pytest.mark.slow
def test_whole_run(benchmark, distilled, tmp_path, capsys):
    output = tmp_path / "growth.json"
    few = ["--pairs", "2", "6", "--batch_sizes", "4", "--sizes", "32", "--count", "4"]
    few += ["--batch_size", "2", "--student", "1", "--mask_student", "1", "--device", "cpu"]
    benchmark.main(["--model_dir", str(distilled), *few, "--output", str(output)])
    result = json.loads(output.read_text())
    assert result["pairs"]["2"]["seconds_per_pair"] is None
    for part, case in (("pairs", "6"), ("batch", "4"), ("size", "32")):
        row = result[part][case]
        assert row["peak_mib"] > 100 and row["wall_seconds"] > row["seconds_per_pair"] > 0
    assert result["batch"]["4"]["pairs"] == 8
    assert "peak memory of 6 pairs over that of 6" not in capsys.readouterr().out


@pytest.mark.slow
def test_what_infer_refuses_is_told(benchmark, distilled):
    with pytest.raises(InputError, match=r"infer failed.*no student_3"):
        benchmark.main(["--model_dir", str(distilled), "--only", "pairs", "--student", "3"])
