"""Two gloo processes against one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alignflow.distributed import require_joining, start_processes
from alignflow.errors import InputError

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What `several_processes.py` saved: one process, process 0 of two, process 1 of two."""
    folder = tmp_path_factory.mktemp("processes")
    environment = os.environ | {"PYTHONPATH": str(HERE.parent / "scripts"), "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for launcher in ([], torchrun):
        line = [sys.executable, *launcher, str(HERE / "several_processes.py"), str(folder)]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{name}.pt") for name in ("1_0", "2_0", "2_1")]


@pytest.mark.parametrize("name", ["reward", "mask", "features"])
def test_each_process_has_the_gradient_of_the_whole_for_its_own_samples(found, name):
    one, *two = found
    whole = one[f"{name}_gradient"]
    assert whole.abs().max() > 1e-4
    for r in (0, 1):
        torch.testing.assert_close(two[r][name], one[name])
        own = two[r][f"{name}_gradient"]
        torch.testing.assert_close(
            own, whole[r::2], rtol=1e-5, atol=1e-5 * float(whole.abs().max())
        )


def test_values_and_queues_are_those_of_the_whole_batch(found):
    one, *two = found
    for other in two:
        assert other["values"] == pytest.approx(one["values"], rel=1e-4)
        torch.testing.assert_close(other["queues"], one["queues"])


def test_gathered_rows_are_in_the_order_of_the_whole_batch(found):
    one, *two = found
    assert all(torch.equal(other["gathered"], one["gathered"]) for other in two)


def test_what_processes_tell_each_other(found):
    one, *two = found
    assert [one["ranks"], one["mean_rank"], one["everywhere"]] == [[0], 0.0, [True, True]]
    for other in two:
        assert [other["ranks"], other["mean_rank"]] == [[0, 1], 0.5]
        assert other["everywhere"] == [True, False]
        assert other["from_first"] == one["from_first"] == {"a": 0.1, "b": 2.0}


def test_each_process_takes_every_second_batch(found):
    one, *two = found
    assert one["batches"] == list(range(10))
    assert [other["batches"] for other in two] == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9]]
    assert one["volumes"] == list(range(10))
    assert [other["volumes"] for other in two] == [[0, 1, 5, 9], [2, 3, 4, 6, 7, 8]]
    assert [one["local_batch"], *(other["local_batch"] for other in two)] == [8, 4, 4]


def test_what_cannot_be_divided_is_refused(found):
    one, *two = found
    assert one["refused"] == ["", ""] and one["few_volumes"] == ""
    assert all("1 volumes are too few for 2 processes" in other["few_volumes"] for other in two)
    for other in two:
        batch, pairs = other["refused"]
        assert "batch_size" in batch and "multiple of 2" in batch
        assert "2 processes" in pairs and "batch_size" in pairs


def test_processes_that_nothing_joins_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    joined = {"initialize": ["$initialize_run(['training'], 0)", "$start_processes(@device)"]}
    require_joining(joined, "training")
    with pytest.raises(InputError, match="multi_gpu.json"):
        require_joining({"initialize": ["$initialize_run(['training'], 0)"]}, "training")
    with pytest.raises(InputError, match="'segment' needs a single process"):
        require_joining(joined, "segment")


def test_the_override_without_torchrun_is_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(InputError, match="torchrun"):
        start_processes("cpu")
