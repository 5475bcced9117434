import os
import signal
import time

import mlflow
import pytest
from ignite.engine import Engine, Events

from alignflow.training.tracking import Tracking, make_store


def tracking(folder, **options):
    validator = Engine(lambda engine, batch: None)
    validator.state.metrics["loss"] = 0.75
    return Tracking(
        validator=validator,
        system_metrics=False,
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
        experiment_name="test",
        run_name="image_flow",
        **options,
    )


def runs(folder):
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("test")
    return client, client.search_runs(experiment.experiment_id)


class Killed(Exception):
    pass


def kill(engine):
    raise Killed


def test_killed_run_goes_on_in_the_same_mlflow_run(build, tmp_path):
    note = tmp_path / "note.txt"
    note.write_text("kept")
    options = {"artifacts": [str(note)]}
    first = build(
        tmp_path,
        epochs=3,
        handlers=[tracking(tmp_path, experiment_param={"seed": 0, "epochs": 3}, **options)],
    )
    first.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), kill)
    with pytest.raises(Killed):
        first.trainer.run()
    changed = {"seed": 1, "epochs": 3, "added": "x"}  # MLflow refuses another value of a parameter
    build(
        tmp_path, epochs=3, handlers=[tracking(tmp_path, experiment_param=changed, **options)]
    ).trainer.run()

    client, found = runs(tmp_path)
    assert len(found) == 1 and found[0].info.status == "FINISHED"
    assert found[0].data.params.items() >= {"seed": "0", "epochs": "3", "added": "x"}.items()
    run_id = found[0].info.run_id
    for name in ("loss", "learning_rate", "held_out_loss"):
        steps = [metric.step for metric in client.get_metric_history(run_id, name)]
        assert steps == [1, 2, 3]
    assert client.get_metric_history(run_id, "held_out_loss")[0].value == 0.75
    assert [artifact.path for artifact in client.list_artifacts(run_id)] == ["note.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2e5, 4e5, 7e5])
def test_a_store_whose_making_was_killed(tmp_path, size):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    number = os.fork()
    if number == 0:
        make_store(uri)
        os._exit(0)
    while sum(path.stat().st_size for path in tmp_path.glob(".partial-*.db")) < size:
        assert os.waitpid(number, os.WNOHANG) == (0, 0)
        time.sleep(0.001)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    assert not (tmp_path / "mlflow.db").exists()
    make_store(uri)
    client = mlflow.MlflowClient(uri)
    assert [e.name for e in client.search_experiments()] == ["Default"]
    before = (tmp_path / "mlflow.db").read_bytes()
    make_store(uri)
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_other_stores_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_store("http://127.0.0.1:9")
    assert list(tmp_path.iterdir()) == []
