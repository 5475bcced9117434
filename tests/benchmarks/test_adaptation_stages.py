"""Cache and locks: built once, taken up after a crash, shared by processes."""

import json
import os
import subprocess
import sys
import time

import pytest


@pytest.fixture
def stages(load_adaptation):
    return load_adaptation("stages")


@pytest.fixture
def locks(load_adaptation):
    return load_adaptation("locks")


def test_stage_is_built_once_for_its_content(stages, tmp_path):
    cache, built = stages.Cache(tmp_path), []
    build = lambda folder, lock: built.append(folder)  # noqa: E731
    first = cache.make("pairs", {"seed": 0}, build)
    assert cache.make("pairs", {"seed": 0}, build) == first == built[0]
    assert cache.make("pairs", {"seed": 1}, build) != first and len(built) == 2
    assert json.loads((first / "done.json").read_text())["content"] == {"seed": 0}
    assert json.loads((first / "done.json").read_text())["seconds"] >= 0


def test_failed_build_is_called_again_on_what_it_left(stages, tmp_path):
    cache = stages.Cache(tmp_path)

    def fail(folder, lock):
        (folder / "half").touch()
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        cache.make("models", {}, fail)
    folder = cache.make("models", {}, lambda folder, lock: None)
    assert (folder / "half").is_file()


def test_failed_workflow_is_not_tried_again_by_the_same_process(stages, tmp_path):
    cache, calls = stages.Cache(tmp_path), []

    def fail(folder, lock):
        calls.append(folder)
        raise stages.StageFailed("out of memory")

    for _ in range(2):
        with pytest.raises(stages.StageFailed, match="out of memory"):
            cache.make("models", {}, fail)
    assert len(calls) == 1
    assert stages.Cache(tmp_path).make("models", {}, lambda folder, lock: None) == calls[0]


def test_lock_excludes_and_ends_with_its_process(locks, tmp_path):
    path = tmp_path / "job.lock"
    program = "import locks, pathlib, sys, time\nwith locks.locked(pathlib.Path(sys.argv[1])):\n"
    program += "    print('held', flush=True)\n    time.sleep(60)"
    folder = os.path.dirname(locks.__file__)
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(locks.Busy), locks.locked(path):
        pass
    other.kill()
    other.wait()
    with locks.locked(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_child_keeps_the_lock_of_a_parent_that_left(locks, tmp_path):
    path = tmp_path / "job.lock"
    with locks.locked(path) as lock:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    with pytest.raises(locks.Busy), locks.locked(path):
        pass
    child.kill()
    child.wait()
    deadline = time.monotonic() + 5
    while True:
        try:
            with locks.locked(path):
                break
        except locks.Busy:
            assert time.monotonic() < deadline


def test_reason_of_a_failure_is_the_input_error_or_the_first_exception(stages):
    chain = "Traceback\nKeyError: 'a'\n\nThe above\nRuntimeError: wrapped\n"
    assert stages.first_error(chain) == "KeyError: 'a'"
    assert stages.first_error(chain + "error: give a folder\n") == "error: give a folder"
    assert stages.first_error("killed") == "no error in the log"


@pytest.mark.slow  # it imports MONAI
def test_failed_workflow_is_told_by_its_reason(stages, tmp_path):
    failed = pytest.raises(stages.StageFailed, match="no_such_config")
    with stages.locked(tmp_path / "lock") as lock, failed:
        stages.run_workflow("training", "no_such_config", {}, tmp_path, lock)
    assert json.loads((tmp_path / "training.args.json").read_text())["run_id"] == "training"
