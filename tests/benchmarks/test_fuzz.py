"""Some 200 damaged files through the whole of `benchmarks/fuzz.py`, and its parts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_damaged_files_are_refused_or_read_right(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "ALIGNFLOW_DATA"}
    arguments = ["--count", "200", "--work", str(tmp_path), "--output", str(tmp_path / "out.json")]
    ended = subprocess.run(
        [sys.executable, FOLDER / "fuzz.py", *arguments],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]
    result = json.loads((tmp_path / "out.json").read_text())
    assert sum(result["totals"].values()) == 200 and not result["failures"]
    assert result["totals"]["equal"] > 20 and result["totals"]["refused"] > 20


@pytest.fixture
def fuzzing(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from fuzzing import corpus, independent, judge, mutate

    return corpus, independent, judge, mutate


def test_mutations_follow_from_the_seed(fuzzing):
    mutate = fuzzing[-1]
    data = bytes(range(256)) * 4
    for kind in ("PNG", "NRRD"):
        first, second = (mutate.mutate(data, kind, Random(3)) for _ in range(2))
        assert first == second and first[0] != data


def test_differences_are_seen(fuzzing):
    _, independent, judge, _ = fuzzing
    values = np.arange(60.0).reshape(1, 5, 4, 3)
    affine = np.diag([0.5, 0.6, 2.0, 1.0])
    ours = independent.Reading(values, affine)
    assert judge.difference(ours, independent.Reading(values.copy(), affine.copy())) == ""
    other = values.copy()
    other[0, 1, 1, 1] += 1
    assert "pixels" in judge.difference(ours, independent.Reading(other, affine))
    assert "values" in judge.difference(ours, independent.Reading(2 * values + 1, affine))
    shifted = affine.copy()
    shifted[0, 3] = 0.02
    assert "affine" in judge.difference(ours, independent.Reading(values, shifted))
    assert "shape" in judge.difference(ours, independent.Reading(values[:, :4], affine))
    unknown = affine.copy()
    unknown[:3] = np.nan
    assert judge.difference(ours, independent.Reading(values, unknown)) == ""
