"""Disks that are full, folders that are taken or read-only, kills."""

import os
import resource
import shutil
import subprocess

import pytest

from alignflow.data.formats import load
from alignflow.files import PARTIAL
from alignflow.lock import FILE as LOCK
from alignflow.lock import lock_output_dir, release_all

MANY_PAIRS = {"num_pairs": 60, "batch_size": 4}


@pytest.fixture(autouse=True)
def free():
    yield
    release_all()


def files(folder, *kinds):
    """Relative path -> content, without the lock."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def partial(folder):
    return [path for path in folder.rglob("*") if PARTIAL.fullmatch(path.name)]


def limited(kind, value, line):
    """A command line under a limit of `resource`, which its process sets for itself."""
    code = (
        "import os, resource, sys; "
        f"resource.setrlimit({kind}, ({value}, {value})); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return [line[0], "-c", code, *line]


def error_of(done):
    """The last line of a command that failed, which must not have shown a traceback."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_two_runs_in_one_folder(three_class_dataset, train, refused, in_child, tmp_path):
    lock_output_dir(tmp_path)
    number = os.getpid()

    def second():
        from alignflow import lock

        lock._held.clear()
        lock.WAIT = 0.2
        return refused(train, three_class_dataset, tmp_path)

    line = in_child(second)
    assert f"process {number} on" in line and str(tmp_path) in line
    assert files(tmp_path) == {}


def test_an_output_folder_that_is_read_only(
    three_class_dataset, train, refused, read_only, tmp_path
):
    line = refused(train, three_class_dataset, read_only(tmp_path))
    assert "cannot be written" in line and "another folder" in line
    assert list(tmp_path.iterdir()) == []


def test_inputs_may_be_read_only(three_class_models, three_class_dataset, infer, align, tmp_path):
    def copied(source):
        return shutil.copytree(source, tmp_path / source.name)

    models, data = copied(three_class_models), copied(three_class_dataset)
    before = files(models) | files(data)
    for folder in (models, data):
        subprocess.run(["mount", "--bind", folder, folder], check=False)
        done = subprocess.run(["mount", "-o", "remount,bind,ro", folder], capture_output=True)
        if done.returncode:
            pytest.skip("not permitted to mount")
    try:
        infer(models, tmp_path / "pairs", dataset_dir=str(data))
        align(models, data / "images", tmp_path / "aligned")
    finally:
        for folder in (models, data):
            subprocess.run(["umount", "--lazy", folder], check=True)
    assert files(models) | files(data) == before
    assert (tmp_path / "aligned/model.pt").is_file()


def test_a_full_disk_then_room(three_class_dataset, train, refused, small_disk, tmp_path):
    line = refused(train, three_class_dataset, small_disk)
    assert "the disk is full" in line and "repeat the command" in line
    assert partial(small_disk) == [] and not (small_disk / "model.pt").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    train(three_class_dataset, small_disk)
    train(three_class_dataset, tmp_path / "whole")
    ours, theirs = files(small_disk), files(tmp_path / "whole")
    del ours["train_config.json"], theirs["train_config.json"]  # it names the folder
    assert ours == theirs


def test_a_command_that_may_not_write_more(three_class_models, command, shell, tmp_path):
    line = command("inference", "infer", model_dir=three_class_models, output_dir=tmp_path / "a")
    line = limited(resource.RLIMIT_FSIZE, 1000, line)
    assert "ulimit -f" in error_of(shell(line))
    assert partial(tmp_path) == []
    for path in (tmp_path / "a").rglob("*.nii.gz"):
        load(path)


def test_pairs_of_a_killed_run_are_kept(three_class_models, command, kill_at, infer, tmp_path):
    line = command(
        "inference", "infer", model_dir=three_class_models, output_dir=tmp_path / "a", **MANY_PAIRS
    )
    kill_at(tmp_path / "a/images/pair_00044.nii.gz", line)
    assert not (tmp_path / "a/provenance.json").exists()
    early, late = (tmp_path / f"a/images/pair_{k:05d}.nii.gz" for k in (0, 36))
    times = {path: path.stat().st_mtime_ns for path in (early, late)}
    infer(three_class_models, tmp_path / "a", **MANY_PAIRS)
    # those of the contact sheet are made again, the others are not
    assert {path: path.stat().st_mtime_ns > times[path] for path in times} == {
        early: True,
        late: False,
    }
    infer(three_class_models, tmp_path / "b", **MANY_PAIRS)
    ours, theirs = files(tmp_path / "a"), files(tmp_path / "b")
    assert ours.keys() == theirs.keys()
    other = [name for name in ours if ours[name] != theirs[name]]
    assert other == ["provenance.json"]  # its config names the folder
    whole = [(tmp_path / f"{name}/provenance.json").read_text() for name in "ab"]
    assert whole[0].replace(str(tmp_path / "a"), str(tmp_path / "b")) == whole[1]
