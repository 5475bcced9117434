import io

import pytest
from tqdm import tqdm

from alignflow.adaptation.clock import Clock
from alignflow.adaptation.workflow import LogStream

COSTS = {"image flow": 1.0, "mask flow": 0.5, "pairs": 2.0, "evaluation": 30.0}


def bar(name, done, total, elapsed):
    return f"{name}:  {100 * done // total}%|###   | {done}/{total} [{elapsed}<00:01,  1.0step/s]"


def test_unknown_until_something_is_measured():
    clock = Clock(COSTS)
    clock.plan("train", {"image flow": 100, "mask flow": 100})
    assert clock.left() is None
    assert clock.see("train", bar("image flow", 0, 100, "00:00"))
    assert clock.left() is None
    clock.see("train", bar("image flow", 10, 100, "00:20"))
    # 2 s a step: 90 steps of 2 s, and 100 of the other flow at half of that
    assert clock.left() == pytest.approx(90 * 2 + 100 * 1)


def test_a_measured_step_tells_of_all_stages():
    clock = Clock(COSTS, step_seconds=0.1)
    clock.plan("train", {"image flow": 100})
    clock.plan("infer", {"pairs": 50})
    assert clock.left(["infer"]) == pytest.approx(50 * 2 * 0.1)
    assert clock.left() == pytest.approx(10 + 10)


def test_a_running_bar_goes_by_its_own_pace():
    clock = Clock(COSTS, step_seconds=0.1)
    clock.plan("train", {"image flow": 100, "mask flow": 100})
    clock.see("train", bar("image flow", 0, 100, "00:00"))
    clock.see("train", bar("image flow", 50, 100, "00:50"))
    assert clock.left() == pytest.approx(50 * 1 + 100 * 0.5)
    clock.see("train", bar("mask flow", 0, 100, "00:00"))
    clock.see("train", bar("mask flow", 20, 100, "01:00"))
    assert clock.left(["train"]) == pytest.approx(50 * 1 + 80 * 3)


def test_a_resumed_bar_counts_what_this_run_did():
    clock = Clock(COSTS)
    clock.plan("train", {"image flow": 1000})
    clock.see("train", bar("image flow", 900, 1000, "00:00"))
    clock.see("train", bar("image flow", 910, 1000, "00:20"))
    assert clock.left() == pytest.approx(90 * 2)


def test_a_finished_job_costs_nothing_and_teaches():
    clock = Clock(COSTS)
    clock.plan("evaluate", {"evaluation": 1})
    clock.plan("train", {"image flow": 100})
    clock.finish("evaluate", 60.0)  # it shows no bar: 30 units in 60 s
    assert clock.left(["evaluate"]) == 0
    assert clock.left() == pytest.approx(100 * 2)


def test_an_early_end_is_an_end():
    clock = Clock(COSTS)
    clock.plan("train", {"image flow": 100})
    clock.see("train", bar("image flow", 0, 100, "00:00"))
    clock.see("train", bar("image flow", 30, 100, "00:30"))
    clock.finish("train", 31.0)
    assert clock.left() == 0


def test_the_bars_of_tqdm_are_seen_through_the_stream_and_stay_out_of_the_log():
    clock, log = Clock(COSTS), io.StringIO()
    clock.plan("train", {"image flow": 40})
    stream = LogStream(log, lambda line: clock.see("train", line))
    print("reading the data", file=stream)
    for _ in tqdm(range(40), desc="image flow", file=stream, mininterval=0):
        pass
    print("wrote model.pt", file=stream)
    assert clock.works["train"].seen["image flow"].done == 40
    lines = log.getvalue().splitlines()
    assert lines[0] == "reading the data" and lines[-1] == "wrote model.pt"
    assert 1 <= sum("40/40" in line for line in lines) <= 2 and len(lines) <= 4


@pytest.mark.parametrize("line", ["", "wrote 4 pairs", "Dice: 0.5 | 0.6", "12:01:02 INFO kid: 3"])
def test_other_lines_are_no_bars(line):
    clock = Clock(COSTS)
    clock.plan("train", {"image flow": 40})
    assert not clock.see("train", line)
