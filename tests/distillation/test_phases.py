import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ignite.engine import Engine
from torch import nn

from alignflow.device import Precision
from alignflow.distillation.loss import StudentLoss
from alignflow.distillation.methods import Progressive
from alignflow.distillation.phases import Phases, Students
from alignflow.distillation.update import DistillUpdate
from alignflow.errors import InputError
from alignflow.flow.ema import EMA


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_every_epoch_lies_in_one_phase(epochs):
    steps = [2**i for i in reversed(range(len(epochs)))]
    phases = Phases(steps, epochs)
    found = [phases.phase(epoch) for epoch in range(1, phases.total + 1)]
    counts = [[one[0] for one in found].count(count) for count in steps]
    assert counts == epochs and found == sorted(found, key=lambda one: one[1])
    for epoch, (_, first, last) in enumerate(found, start=1):
        assert first <= epoch <= last and last - first + 1 in epochs


def test_learning_rate_falls_from_1_to_0_in_each_phase():
    factor = Phases([4, 1], [2, 3]).rate(10)
    assert [factor(i) for i in (0, 10, 20, 35)] == pytest.approx([1, 0.5, 1, 0.5])
    assert factor(19) == pytest.approx(0.5 * (1 + math.cos(math.pi * 19 / 20)))
    assert factor(50) == pytest.approx(0)


@pytest.mark.parametrize(
    ("steps", "epochs"), [([4, 2], [1]), ([], []), ([2, 4], [1, 1]), ([2, 2], [1, 1]), ([1], [0])]
)
def test_refused(steps, epochs):
    with pytest.raises(InputError, match="students: steps"):
        Phases(steps, epochs)


def test_weights_are_written_as_each_phase_ends(tmp_path):
    network = nn.Linear(2, 2)
    ema, seen = EMA(network, 0.5), []
    update = DistillUpdate(
        method=Progressive(network), loss=StudentLoss(), precision=Precision("cpu", "fp32"), ema=ema
    )

    def step(engine, batch):
        seen.append(update.steps)
        with torch.no_grad():
            network.weight.add_(1.0)
        ema.update_parameters(network)

    engine = Engine(step)
    Students(Phases([2, 1], [1, 2]), update, ema, str(tmp_path / "student")).attach(engine)
    start = network.weight.detach().clone()
    engine.run([0, 1], max_epochs=3)
    assert seen == [2] * 2 + [1] * 4
    two, one = (torch.load(tmp_path / f"student_{n}.pt", weights_only=True) for n in (2, 1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student_1.pt", "student_2.pt"]
    # d = min(.5, (1 + n) / (10 + n)) after the first update, which copies
    average, d = 1.0, 2 / 11
    assert torch.allclose(two["network.weight"], start + d * average + (1 - d) * 2)
    assert (one["network.weight"] > start + 3).all()  # the average of a phase begins in it
