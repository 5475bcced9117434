import json
import sys
from pathlib import Path

import pytest
import torch

from alignflow.errors import InputError
from alignflow.label.work import Work, parts_of
from alignflow.label.workflow import reason, run_workflow


def bundle(folder, weights):
    folder.mkdir()
    for name in ("model.pt", "mask_model.pt", "segmenter.pt", "stage1.json"):
        (folder / name).write_text(weights)
    return folder


@pytest.fixture
def work(tmp_path):
    return Work(tmp_path / "work", bundle(tmp_path / "models", "0"))


def test_a_result_counts_once_it_is_put_in_use_and_the_former_stays(work):
    assert work.bundle() == work.models and work.current("aligned") is None
    first = work.new_folder("aligned")
    (first / "stage1.json").write_text("1")
    assert work.bundle() == work.models, "a run that has not ended is not in use"
    before = work.version()
    work.replace("aligned", first)
    assert work.bundle() == first and work.version() != before
    abandoned = work.new_folder("aligned")
    second = work.new_folder("aligned")
    assert len({first, abandoned, second}) == 3
    (second / "stage1.json").write_text("2")
    work.replace("aligned", second)
    assert work.bundle() == second and (first / "stage1.json").read_text() == "1"
    assert work.current("segmenter") is None, "kinds are replaced one by one"
    work.replace("aligned", abandoned)
    with pytest.raises(InputError, match="current.json', field 'aligned': 'aligned/0002' is not a"):
        work.bundle()


def test_what_was_learnt_with_another_bundle_is_refused(work, tmp_path):
    work.require_same_bundle()
    work.replace("aligned", work.new_folder("aligned"))
    work.require_same_bundle()
    copy = bundle(tmp_path / "copy", "0")
    Work(work.folder, copy).require_same_bundle()
    other = Work(work.folder, bundle(tmp_path / "other", "1"))
    with pytest.raises(InputError, match="belongs to another bundle than .*other'; set another"):
        other.require_same_bundle()


def test_a_folder_of_adapt_gives_generator_and_segmenter(tmp_path):
    models = bundle(tmp_path / "models", "0")
    assert parts_of(models) == (models, None)
    with pytest.raises(InputError, match="neither a bundle"):
        parts_of(tmp_path)
    segmenter = tmp_path / "segmenter"
    segmenter.mkdir()
    (segmenter / "segmenter.json").touch()
    assert parts_of(tmp_path) == (models, segmenter)
    aligned = bundle(tmp_path / "aligned", "1")
    assert parts_of(tmp_path) == (aligned, segmenter)


def test_a_damaged_record_is_named(tmp_path):
    work = Work(tmp_path, tmp_path)
    (tmp_path / "current.json").write_text("{")
    with pytest.raises(InputError, match="current.json': not valid JSON"):
        work.bundle()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a", "error: 'x': no such file; add it", "b"], "'x': no such file; add it"),
        (["a", "KeyError: 3"], "run align failed: KeyError: 3"),
        ([], "run align failed: it wrote nothing"),
    ],
)
def test_why_a_run_failed(lines, expected):
    assert reason("align", lines) == expected


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "bundle/configs/small.json"
    path.parent.mkdir(parents=True)
    (path.parent / "metadata.json").write_text("{}")
    imports = ["$import torch", "$from alignflow.files import save_tensors"]
    run = ["$save_tensors(torch.full((2,), float(@value)), @output)", "$print('it is written')"]
    path.write_text(json.dumps({"imports": imports, "value": 1, "output": "", "run": run}))
    return path


def test_a_workflow_runs_with_its_overrides_and_its_output_is_logged(
    config, tmp_path, environment, caplog
):
    caplog.set_level("INFO", logger="alignflow.label.workflow")
    overrides = {"value": 3, "output": str(tmp_path / "out.pt")}
    run_workflow("run", config, overrides, tmp_path, environment)
    assert torch.load(tmp_path / "out.pt").tolist() == [3.0, 3.0]
    assert "it is written" in caplog.messages
    asked = json.loads((tmp_path / "run.args.json").read_text())
    assert asked["value"] == 3 and asked["bundle_root"] == str(config.parents[1])


def test_a_workflow_that_fails_raises_with_its_reason(config, tmp_path, environment):
    with pytest.raises(InputError, match="run absent failed"):
        run_workflow("absent", config, {}, tmp_path, environment)


@pytest.fixture
def environment():
    scripts = Path(sys.modules["alignflow"].__file__).parents[1]
    import os

    return dict(os.environ) | {"PYTHONPATH": str(scripts), "OMP_NUM_THREADS": "1"}
