import json

import pytest

from alignflow.adaptation.jobs import Job, State, folder_hash, overlaid


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "bundle/configs/train.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"_desc_": "x", "epochs": 3, "net": {"width": 4}}))
    return path


@pytest.fixture
def job(config, tmp_path):
    return Job(
        name="train",
        stage="train",
        config=config,
        run_id="training",
        folder=tmp_path / "out/models",
        settings={"epochs": 2},
        paths={"dataset_dir": "a"},
        inputs={"source": "1"},
        results=("model.pt",),
    )


@pytest.fixture
def state(job):
    """The job done once."""
    state = State(job.folder.parent)
    state.start(job)
    job.folder.mkdir()
    (job.folder / "model.pt").write_text("weights")
    assert not state.finished(job)
    state.finish(job, 2.0)
    return state


def test_a_finished_job_is_finished_wherever_its_data_lies(state, job):
    job.paths = {"dataset_dir": "moved"}
    job.settings = {"epochs": 2, "device": "cuda", "mlflow": False}
    assert state.finished(job) and state.changed(job) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda job: job.settings.update(epochs=3), ["settings"]),
        (lambda job: job.inputs.update(source="2"), ["source"]),
        (lambda job: job.config.write_text('{"epochs": 4}'), ["config"]),
        (lambda job: (job.folder / "model.pt").write_text("other"), ["its result"]),
        (lambda job: (job.folder / "model.pt").unlink(), ["its result"]),
    ],
)
def test_what_changes_a_job(state, job, change, named):
    change(job)
    assert not state.finished(job) and state.changed(job) == named


def test_words_of_a_config_change_nothing(state, job):
    job.config.write_text(json.dumps({"_desc_": "y", "epochs": 3, "net": {"width": 4}}))
    assert state.finished(job)


def test_a_job_depends_on_those_before_it(state, job):
    after = Job("align", "align", job.config, "align", job.folder, {}, {}, {}, after=[job])
    before = after.key
    job.inputs["source"] = "2"
    assert after.key != before


def test_a_result_of_other_inputs_is_moved_away_and_an_unfinished_one_stays(state, job):
    job.inputs["source"] = "2"
    state.start(job)
    assert not job.folder.exists()
    [old] = (job.folder.parent / "old").iterdir()
    assert (old / "model.pt").read_text() == "weights"
    job.folder.mkdir()
    (job.folder / "checkpoint").write_text("half")
    state.start(job)  # after a kill
    assert (job.folder / "checkpoint").read_text() == "half"


def test_the_hash_of_a_folder_is_that_of_names_and_contents(tmp_path):
    def write(root, files):
        for name, text in files.items():
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder_hash(tmp_path / root)

    files = {"images/a.png": "1", "masks/a.png": "2"}
    same = write("one", files)
    assert write("two", files | {".DS_Store": "x"}) == same
    others = [
        {"images/a.png": "2", "masks/a.png": "1"},
        {"images/b.png": "1", "masks/a.png": "2"},
        files | {"images/b.png": "1"},
    ]
    hashes = {write(f"other{k}", one) for k, one in enumerate(others)}
    assert len(hashes | {same}) == 4


def test_overrides_reach_into_a_config(config):
    content = overlaid(config, {"net::width": 8, "net#norm": "batch", "epochs": 9})
    assert content == {"_desc_": "x", "epochs": 9, "net": {"width": 8, "norm": "batch"}}
