import re

from ignite.engine import Engine

from alignflow.training.progress import Progress


def validator():
    engine = Engine(lambda engine, batch: None)
    engine.state.metrics["loss"] = 0.75
    return engine


def test_shows_steps_and_losses(build, capsys):
    run = build(epochs=2, steps=3, handlers=[Progress("image flow", validator(), every=2)])
    run.trainer.run()
    shown = capsys.readouterr().err
    assert "image flow: 100%" in shown and "6/6" in shown
    assert re.search(r"loss=\d\.\d{4}, held out=0\.7500", shown)


def test_resumed_run_begins_where_it_stood(build, capsys, tmp_path):
    build(tmp_path, epochs=1, steps=3).trainer.run()
    build(tmp_path, epochs=3, steps=3, handlers=[Progress("image flow")]).trainer.run()
    shown = capsys.readouterr().err
    assert shown.startswith("\rimage flow:  33%") and "3/9" in shown
    assert "9/9" in shown
