from ignite.engine import Events

from alignflow.training.run import run_in_turn


def test_runs_each_trainer_to_its_end_before_the_next(build):
    first, second = build(epochs=1, steps=2).trainer, build(epochs=2, steps=1).trainer
    epochs_of_first = []
    second.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: epochs_of_first.append(first.state.epoch)
    )
    run_in_turn(first, second)
    assert epochs_of_first == [1, 1]
    assert second.state.iteration == 2
