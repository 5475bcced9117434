import os
import signal
import time

import pytest

from alignflow import lock
from alignflow.errors import InputError
from alignflow.lock import FILE, lock_output_dir, release_all


@pytest.fixture(autouse=True)
def free(monkeypatch):
    monkeypatch.setattr(lock, "WAIT", 0.2)
    yield
    release_all()


@pytest.fixture
def holder():
    """`holder(folder, forks=False)`: number of a process that holds it; killed at the end.

    With `forks` it has a child of its own, as a loader of data has workers.
    """
    started = []

    def start(folder, forks=False):
        reading, writing = os.pipe()
        number = os.fork()
        if number == 0:
            lock_output_dir(folder)
            child = os.fork() if forks else -1
            if child != 0:
                os.write(writing, f"{child}\n".encode())
            time.sleep(60)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as file:
            child = int(file.readline())
        started.extend([number, *([child] if forks else [])])
        return number

    yield start
    for number in started:
        try:
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def kill(number):
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)


def test_a_second_run_is_told_who_holds_the_folder(tmp_path, holder):
    number = holder(tmp_path / "out")
    with pytest.raises(InputError) as caught:
        lock_output_dir(tmp_path / "out")
    line = str(caught.value)
    assert f"process {number} on {os.uname().nodename} since 20" in line and "\n" not in line
    assert str(tmp_path / "out") in line and "stop it" in line


@pytest.mark.parametrize("forks", [False, True])
def test_a_kill_frees_the_folder(tmp_path, holder, forks):
    kill(holder(tmp_path, forks))
    lock_output_dir(tmp_path)
    assert f"process {os.getpid()} " in (tmp_path / FILE).read_text()


def test_the_same_process_may_hold_it_twice_and_others_not_by_another_name(tmp_path, in_child):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    lock_output_dir(tmp_path / "out")
    lock_output_dir(str(tmp_path / "link"))

    def other():
        lock._held.clear()
        lock_output_dir(tmp_path / "link")

    with pytest.raises(InputError, match=f"in use by process {os.getpid()} "):
        in_child(other)


def test_only_the_first_of_several_processes_holds_it(tmp_path, holder, monkeypatch):
    holder(tmp_path)
    monkeypatch.setenv("RANK", "1")
    lock_output_dir(tmp_path)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError):
        lock_output_dir(tmp_path)


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    left = [".partial-123-model.pt", "checkpoints/.partial-9-image_checkpoint_1.pt"]
    kept = ["model.pt", "checkpoints/image_checkpoint_1.pt", ".partial", "a/.partial-x-b"]
    other = ["other/.lock", "other/.partial-4-model.pt", "other/samples/.partial-4-a.png"]
    for name in [*left, *kept, *other]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    lock_output_dir(tmp_path)
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {*kept, *other, FILE}


def test_nothing_stays_of_a_run_that_ends(tmp_path, in_child):
    (tmp_path / "there").mkdir()
    for name in ("there", "new"):
        lock_output_dir(tmp_path / name)
    (tmp_path / "new/model.pt").touch()
    lock_output_dir(tmp_path / "empty")
    release_all()
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    assert found == {"there", "new", "new/model.pt"}
    lock_output_dir(tmp_path / "there")
    in_child(lambda: lock._release_of(os.getppid()))
    assert (tmp_path / "there" / FILE).exists()


def test_a_folder_that_cannot_be_written(tmp_path, read_only):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="out.*cannot be written.*another folder"):
        lock_output_dir(tmp_path / "file/out")
    (tmp_path / "used").mkdir()
    lock_output_dir(tmp_path / "used")
    release_all()
    for name in ("new", "used"):
        (tmp_path / name).mkdir(exist_ok=True)
        read_only(tmp_path / name)
        with pytest.raises(InputError, match="cannot be written .Read-only file system"):
            lock_output_dir(tmp_path / name)


def test_a_full_disk_is_told_before_the_work(small_disk):
    with pytest.raises(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(InputError, match="cannot be written .No space left on device"):
        lock_output_dir(small_disk)
