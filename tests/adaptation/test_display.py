import io

import pytest

from alignflow.adaptation.clock import Clock
from alignflow.adaptation.display import Display
from alignflow.inspection.text import duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, step_seconds):
    clock = Clock({"image flow": 1.0, "pairs": 2.0}, step_seconds)
    clock.plan("train", {"image flow": 600})
    clock.plan("infer", {"pairs": 300})
    display = Display(clock, ["prepare", "train", "infer"], stream)
    display.start("train", ["train"])
    return display


def test_a_stage_begins_with_its_number_and_the_time_left():
    stream = io.StringIO()
    shown(stream, 1.0)
    assert stream.getvalue() == "stage 2 of 3: train (about 10 min; 20 min left in all)\n"


def test_a_time_that_nobody_measured_is_not_told():
    stream = io.StringIO()
    shown(stream, None)
    assert "time left unknown until something has been measured" in stream.getvalue()


def test_a_terminal_sees_one_line_move_and_a_log_few(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for stream, lines in ((Terminal(), 120), (io.StringIO(), 2)):
        now[0] = 0.0
        display = shown(stream, 1.0)
        for _ in range(120):
            now[0] += 1
            display.move("train")
        display.say("done")
        text = stream.getvalue()
        assert text.count("stage 2 of 3: train: ") == lines
        assert text.count("\n") == (2 if stream.isatty() else 4)
        assert text.endswith("done\n")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "unknown"), (0.2, "1 s"), (40, "40 s"), (360, "6 min"), (7800, "2 h 10 min")],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
