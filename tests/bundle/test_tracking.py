"""What a training leaves in MLflow, read back with MLflow's own client."""

import pytest
import torch
from mlflow import MlflowClient

EXPERIMENT = "alignflow-stage1"


def runs_of(folder):
    """{run name: run} of the store in a training's output folder, and the client."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert len(runs) == len(found)
    return client, runs


@pytest.fixture(scope="module")
def tracked(train, three_class_dataset, tmp_path_factory):
    output = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        # every 10 s by default, longer than this training
        patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
        train(three_class_dataset, output, mlflow=True, seed=3)
    return output


def test_each_flow_is_a_finished_run(tracked):
    _, runs = runs_of(tracked)
    assert runs.keys() == {"image_flow", "mask_flow", "segmenter"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_parameters_are_the_settings(tracked):
    for run in runs_of(tracked)[1].values():
        params = run.data.params
        assert params["seed"] == "3"
        assert params["image_size"] == "[16, 16]"
        assert params["learning_rate"] == "0.0003"
        assert params["precision"] == "auto"
        assert "dataset_dir" in params


def test_metrics_of_each_epoch(tracked):
    client, runs = runs_of(tracked)
    for part, run in runs.items():
        held_out = "held_out_dice" if part == "segmenter" else "held_out_loss"
        for name in ("loss", held_out, "learning_rate"):
            history = client.get_metric_history(run.info.run_id, name)
            assert [metric.step for metric in history] == [1, 2]
            assert all(0 <= metric.value < 10 for metric in history)
        assert any(name.startswith("system/") for name in run.data.metrics)


def test_artefacts_are_config_weights_and_samples(tracked):
    client, runs = runs_of(tracked)
    for name, weights in (("image", "model.pt"), ("mask", "mask_model.pt")):
        run_id = runs[f"{name}_flow"].info.run_id
        names = {artifact.path for artifact in client.list_artifacts(run_id)}
        grids = {f"{name}_epoch_0001.png", f"{name}_epoch_0002.png"}
        assert names == {"train_config.json", weights} | grids
        copy = client.download_artifacts(run_id, weights)
        logged, written = (
            torch.load(path, weights_only=True) for path in (copy, tracked / weights)
        )
        assert all(torch.equal(logged[key], written[key]) for key in written)


def test_without_tracking_there_is_no_store(train, three_class_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(three_class_dataset, tmp_path / "models", mlflow=False)
    assert not list(tmp_path.rglob("*.db"))
    assert not list(tmp_path.rglob("mlruns"))


def test_training_that_is_complete_is_no_new_run(train, three_class_dataset, tracked):
    before = runs_of(tracked)[1]
    train(three_class_dataset, tracked, mlflow=True, seed=3)
    after = runs_of(tracked)[1]
    assert {name: run.info.run_id for name, run in after.items()} == {
        name: run.info.run_id for name, run in before.items()
    }


def test_a_killed_run_goes_on_in_the_same_mlflow_run(
    train, three_class_dataset, command, kill_at, tmp_path
):
    longer = {"image_epochs": 5, "mlflow": True}
    call = command(
        "train", "training", dataset_dir=three_class_dataset, output_dir=tmp_path, **longer
    )
    kill_at(tmp_path / "checkpoints/image_checkpoint_2.pt", call)
    killed = runs_of(tmp_path)[1]
    assert {name: run.info.status for name, run in killed.items()} == {"image_flow": "RUNNING"}
    train(three_class_dataset, tmp_path, **longer)
    client, runs = runs_of(tmp_path)
    assert runs.keys() == {"image_flow", "mask_flow", "segmenter"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    run_id = runs["image_flow"].info.run_id
    assert run_id == killed["image_flow"].info.run_id
    steps = {metric.step for metric in client.get_metric_history(run_id, "loss")}
    assert steps == {1, 2, 3, 4, 5}


def test_a_store_of_several_trainings(train, three_class_dataset, tmp_path):
    uri = f"sqlite:///{tmp_path}/runs.db"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment(EXPERIMENT)
    # what a training leaves that was killed before its first checkpoint
    tags = {"output_dir": str(tmp_path / "0")}
    killed = client.create_run(experiment, run_name="mask_flow", tags=tags).info.run_id
    for seed in (0, 1):
        options = {"mlflow": True, "tracking_uri": uri, "seed": seed}
        train(three_class_dataset, tmp_path / str(seed), run_id="train_masks", **options)
    assert not list((tmp_path / "0").rglob("*.db"))
    assert client.get_run(killed).data.params == {}
    others = [run for run in client.search_runs([experiment]) if run.info.run_id != killed]
    assert sorted(run.data.params["seed"] for run in others) == ["0", "1"]
    assert {run.info.status for run in others} == {"FINISHED"}


def test_a_run_is_nested_under_the_one_that_is_named(
    train, three_class_dataset, tmp_path, monkeypatch
):
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment(EXPERIMENT)
    parent = client.create_run(experiment, run_name="parent").info.run_id
    monkeypatch.setenv("ALIGNFLOW_PARENT_RUN", parent)
    train(three_class_dataset, tmp_path, run_id="train_segmenter", mlflow=True)
    [child] = client.search_runs(
        [experiment], filter_string=f"tags.mlflow.parentRunId = '{parent}'"
    )
    assert child.info.run_name == "segmenter" and child.info.status == "FINISHED"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "mlruns", "default"])
@pytest.mark.parametrize(
    ("config", "run_id"),
    [
        ("train", "training"),
        ("train", "train_images"),
        ("train", "train_masks"),
        ("train", "train_segmenter"),
        ("align", "align"),
        ("distill", "distill"),
        ("segment", "segment"),
    ],
)
def test_a_store_is_looked_at_before_any_data(
    run_config, refused, tmp_path, monkeypatch, config, run_id, uri
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "My%20Project"
    folder = "dataset_dir" if config == "train" else "model_dir"
    options = {"device": "cpu", "output_dir": str(out), folder: str(tmp_path / "absent")}
    if uri != "default":
        options["tracking_uri"] = uri
    line = refused(run_config, config, "train", run_id, options)
    said = {"default": "rename the folder", "mlruns": "plain files"}.get(uri, "does not answer")
    assert said in line and "--mlflow False" in line
    assert not list(tmp_path.rglob("*"))
    assert "absent" in refused(run_config, config, "train", run_id, options | {"mlflow": False})
