import pytest
import torch
from ignite.engine import Events

from alignflow.errors import InputError
from alignflow.files import load_tensors
from alignflow.training.checkpoint import Identity, checkpoints

STATES = ("network", "ema", "optimizer", "lr_scheduler", "update")


class Killed(Exception):
    pass


def kill_at(iteration):
    """A handler that ends the run in the middle of an epoch."""

    class Kill:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), self)

        def __call__(self, engine):
            raise Killed

    return Kill()


def losses_of(run):
    losses = []
    run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["loss"])
    )
    run.trainer.run()
    return losses


def numbers(directory):
    return [int(path.stem.split("_")[-1]) for path in checkpoints(directory, "image")]


def test_interrupted_run_ends_as_the_uninterrupted_one(build, tmp_path):
    whole = build(tmp_path / "whole", epochs=4)
    losses = losses_of(whole)
    for kill in (4, 8, 11):  # in epochs 2, 3 and 4 of 3 steps each
        with pytest.raises(Killed):
            build(tmp_path / "parts", epochs=4, handlers=[kill_at(kill)]).trainer.run()
    parts = build(tmp_path / "parts", epochs=4)
    assert losses_of(parts) == losses[-3:]
    for name in STATES:
        states = [getattr(run, name).state_dict() for run in (parts, whole)]
        torch.testing.assert_close(*states, rtol=0, atol=0)
    assert parts.trainer.state.epoch == 4


@pytest.mark.slow
def test_resumes_exactly_with_worker_processes(build, tmp_path):
    whole = build(tmp_path / "whole", epochs=3, num_workers=2)
    whole.trainer.run()
    with pytest.raises(Killed):
        build(tmp_path / "parts", epochs=3, num_workers=2, handlers=[kill_at(5)]).trainer.run()
    parts = build(tmp_path / "parts", epochs=3, num_workers=2)
    parts.trainer.run()
    states = [run.network.state_dict() for run in (parts, whole)]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_keeps_the_newest_two_of_all_processes(build, tmp_path):
    build(tmp_path, epochs=2).trainer.run()
    assert numbers(tmp_path) == [1, 2]
    build(tmp_path, epochs=5).trainer.run()
    assert numbers(tmp_path) == [4, 5]
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".pt"]


def test_finished_run_is_left_as_it_is(build, tmp_path):
    finished = build(tmp_path, epochs=2)
    finished.trainer.run()
    again = build(tmp_path, epochs=2)
    assert losses_of(again) == []
    states = [run.network.state_dict() for run in (again, finished)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert numbers(tmp_path) == [1, 2]


def test_another_run_is_refused_by_the_facts_that_differ(build, tmp_path):
    build(tmp_path, epochs=1).trainer.run()
    with pytest.raises(InputError, match="other steps; delete that folder"):
        build(tmp_path, epochs=1, steps=2).trainer.run()


def test_identity_names_changed_and_missing_facts(tmp_path):
    identity = Identity({"seed": 0, "data": "ab", "network": {"channels": [1]}}, tmp_path)
    identity.load_state_dict(identity.state_dict())
    with pytest.raises(InputError, match=f"'{tmp_path}' come from a run with other seed, old;"):
        identity.load_state_dict({"seed": 1, "data": "ab", "network": {"channels": [1]}, "old": 1})


def test_order_is_by_number_and_prefix(tmp_path):
    for name in ("image_checkpoint_9", "image_checkpoint_10", "mask_checkpoint_200"):
        (tmp_path / f"{name}.pt").touch()
    assert numbers(tmp_path) == [9, 10]
    assert checkpoints(tmp_path / "none", "image") == []


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def foreign(path):
    torch.save({"weights": torch.zeros(2)}, path)


def text(path):
    path.write_text("no checkpoint")


def flip(path):
    """One bit in the middle, where the tensors are."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, empty, flip, foreign, text])
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(build, tmp_path, damage, caplog):
    whole = build(tmp_path, epochs=3)
    losses = losses_of(whole)
    before = {path: path.read_bytes() for path in checkpoints(tmp_path, "image")}
    *_, last = before
    damage(last)
    again = build(tmp_path, epochs=3)
    assert losses_of(again) == losses[-3:]
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert str(last) in line and "image_checkpoint_2.pt" in line and "\n" not in line
    states = [run.network.state_dict() for run in (again, whole)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert {path: path.read_bytes() for path in checkpoints(tmp_path, "image")} == before


def test_a_damaged_one_is_replaced_and_never_the_last_that_is_whole(build, tmp_path):
    build(tmp_path, epochs=2).trainer.run()
    flip(checkpoints(tmp_path, "image")[-1])
    with pytest.raises(Killed):
        build(tmp_path, epochs=5, handlers=[kill_at(5)]).trainer.run()  # in epoch 2 again
    assert numbers(tmp_path) == [1, 2]
    build(tmp_path, epochs=5).trainer.run()
    assert numbers(tmp_path) == [4, 5]
    for path in checkpoints(tmp_path, "image"):
        load_tensors(path)


def test_nothing_but_damaged_checkpoints(build, tmp_path):
    build(tmp_path, epochs=2).trainer.run()
    for path in checkpoints(tmp_path, "image"):
        flip(path)
    with pytest.raises(InputError) as caught:
        build(tmp_path, epochs=2).trainer.run()
    for path in checkpoints(tmp_path, "image"):
        assert str(path) in str(caught.value)
    assert "delete" in str(caught.value) and len(str(caught.value).splitlines()) == 1
