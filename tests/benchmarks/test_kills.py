"""The benchmark of kills sees what is half-written; and a few kills of each workflow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alignflow.files import save_tensors

SCRIPT = Path(__file__).parents[2] / "benchmarks/kills.py"


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("kills")


def test_files_that_are_cut_off_are_seen(benchmark, tmp_path):
    benchmark.make_data(tmp_path / "out")
    save_tensors({"a": torch.zeros(9)}, tmp_path / "out/model.pt")
    (tmp_path / "out/record.json").write_text('{"a": 1}')
    (tmp_path / "out/.partial-1-model.pt").write_bytes(b"PK")
    assert benchmark.damaged(tmp_path / "out") == []
    before = benchmark.hashes(tmp_path / "out")
    for name in ("model.pt", "record.json", "images/3.png"):
        path = tmp_path / "out" / name
        path.write_bytes(path.read_bytes()[:-5])
    found = {line.split(":")[0] for line in benchmark.damaged(tmp_path / "out")}
    after = benchmark.hashes(tmp_path / "out")
    changed = {name for name in before if before[name] != after[name]}
    assert found == changed == {"images/3.png", "model.pt", "record.json"}


def test_checkpoints_are_compared_by_their_content(benchmark, tmp_path):
    word = "a word"
    same = {"b": [word, word], "c": torch.arange(3)}
    other = {"b": [word, "".join(["a ", "word"])], "c": torch.arange(3)}
    for folder, content in (("x", same), ("y", other), ("z", same | {"c": torch.arange(3) + 1})):
        save_tensors(content, tmp_path / folder / "checkpoints/a_checkpoint_1.pt")
    x, y, z = (benchmark.hashes(tmp_path / folder) for folder in "xyz")
    assert x == y and x != z


@pytest.mark.slow
def test_eight_kills(tmp_path):
    line = [sys.executable, SCRIPT, "--work", tmp_path / "work", "--kills", "8"]
    done = subprocess.run(
        [*line, "--output", tmp_path / "kills.json"], capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "kills.json").read_text())
    assert (result["kills"], result["wrong"]) == (8, 0)
    assert [row["kills"] for row in result["workflows"].values()] == [2, 2, 2, 2]
