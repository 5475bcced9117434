"""Exit codes and messages of the command `alignflow`; whole adaptations are in tests/bundle."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alignflow import command_line
from alignflow.command_line import main

REQUIRED = ["--references", "r", "--out", "o"]


@pytest.mark.parametrize("command", [[], ["adapt"], ["check"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "exit codes:" in capsys.readouterr().out


@pytest.mark.parametrize("line", [[], ["adopt"], ["adapt", "--source", "x"], ["check"]])
def test_wrong_usage(line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["check", "absent"], "'absent' is not a folder"),
        (["check", ".", "--set", "train"], "STAGE.KEY=VALUE"),
        (["check", ".", "--set", "trian.seed=1"], "'trian': not a key of adapt.json"),
        (["check", ".", "--config", "absent.yaml"], "no such file"),
        (["check", ".", "--bundle_root", "absent"], "--bundle_root"),
        (["adapt", "--source", "absent", *REQUIRED], "'absent' is not a folder"),
    ],
)
def test_what_is_refused(line, words, capsys, tmp_path):
    if line[0] == "adapt":
        line = [*line, "--no_mlflow"]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("align.epoch=3", "align.epoch: not a key of align.json (did you mean 'epochs'?)"),
        ("segment.synthetic_share=2", "synthetic_share"),
        ("arms.adapted=3", "arms"),
        ("hand_over=best", "hand_over"),
        ("seeds=0", "seeds"),
        ("tracking_uri=runs", "tracking_uri 'runs': MLflow no longer keeps runs in plain files"),
        ("tracking_uri=http://127.0.0.1:9", "'http://127.0.0.1:9': does not answer"),
    ],
)
def test_keys_are_refused_before_anything_runs(png_dataset, tmp_path, setting, words, capsys):
    out = tmp_path / "out"
    folders = ["--source", png_dataset, "--references", png_dataset / "images", "--out", out]
    assert main(["adapt", *map(str, folders), "--set", setting]) == 2
    assert words in capsys.readouterr().err and not (out / "prepare").exists()


@pytest.mark.parametrize("name", ["patient#2", "patient::2"])
def test_names_that_configs_cannot_hold(png_dataset, tmp_path, name, monkeypatch, capsys):
    folder = tmp_path / name
    png_dataset.rename(folder)
    data, out = str(folder), str(tmp_path / "out")
    monkeypatch.chdir(folder)
    for line in (
        ["check", data],
        ["check", "."],
        ["adapt", "--source", data, "--references", data, "--out", out],
        ["adapt", "--source", ".", "--references", "images", "--out", out],
        ["adapt", "--source", "..", "--references", "..", "--out", f"{out}#1"],
    ):
        assert main(line) == 2
        error = capsys.readouterr().err
        assert "cannot contain '#' or '::'" in error and error.count("\n") == 1
        assert name in error or "out#1" in error
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("wrapped", [False, True])
def test_ctrl_c(wrapped, monkeypatch, capsys):
    def interrupted(args):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            if wrapped:
                raise RuntimeError("in a library") from error
            raise

    monkeypatch.setattr(command_line, "run_check", interrupted)
    assert main(["check", "."]) == 130
    assert capsys.readouterr().err == "interrupted; the same command resumes from here\n"


def test_names_with_umlauts_where_the_locale_is_c(png_dataset):
    for folder in ("images", "masks"):
        for path in (png_dataset / folder).iterdir():
            path.rename(path.with_name(f"gr\u00fcn_{path.name}"))
    (png_dataset / "images/gr\u00fcn_000.png").write_bytes(b"")
    (png_dataset / "dataset.json").write_text('{"labels": {"Gr\u00f6\u00dfe": 255}}', "utf-8")
    environment = {
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    line = [sys.executable, "-m", "alignflow", "check", str(png_dataset)]
    line += ["--bundle_root", str(Path(__file__).parents[1] / "bundle")]
    done = subprocess.run(line, capture_output=True, env=os.environ | environment)
    assert done.stderr == b"" and done.returncode == 3
    printed = done.stdout.decode()
    assert "gr\u00fcn_000.png" in printed and "6 images (5 .png)" in printed


def test_results_among_the_data_are_refused(png_dataset, capsys):
    data, out = str(png_dataset), str(png_dataset / "images/out")
    assert main(["adapt", "--source", data, "--references", data, "--out", out]) == 2
    assert "outside the data" in capsys.readouterr().err


def test_check_tells_and_counts(png_dataset, tmp_path, capsys):
    settings = tmp_path / "settings.yaml"
    settings.write_text("train:\n  validation_fraction: 0.34\n")
    line = ["check", str(png_dataset), "--quick", "--config", str(settings)]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "source: 6 images (6 .png) of 6 groups, 4 for training and 2" in printed
    assert "training can start" in printed and "of disk" in printed
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["source"]["images"] == 6 and found["problems"] == []
    assert 0 < found["disk"]["bytes"] < found["disk"]["free"]


def test_check_of_a_broken_data_set(png_dataset, capsys):
    (png_dataset / "masks/003.png").unlink()
    assert main(["check", str(png_dataset), "--quick"]) == 3
    printed = capsys.readouterr().out
    assert "problem: image" in printed and "003.png" in printed
    assert "training cannot start" in printed
