import io
import re

import pytest
from tqdm import tqdm

from alignflow.adaptation.display import Display, progress
from alignflow.inspection.text import duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def bar(total):
    """What tqdm writes at every step."""
    stream = io.StringIO()
    with tqdm(range(total), desc="image flow", file=stream, mininterval=0) as steps:
        for _ in steps:
            pass
    return [line for line in re.split(r"[\r\n]", stream.getvalue()) if line.strip()]


def test_progress_is_read_from_tqdm_and_other_lines_are_none():
    lines = bar(3)
    assert progress(lines[-1]) == "image flow 3/3, 00:00 left"
    assert progress(lines[0]) == "image flow 0/3, ? left"
    assert progress("22:10:03 INFO wrote model.pt | 3/4 [x") is None


def test_a_terminal_sees_one_line_move_and_a_log_few(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for stream, lines in ((Terminal(), 120), (io.StringIO(), 2)):
        now[0] = 0.0
        display = Display(["prepare", "train", "infer"], stream)
        display.start("train")
        for k in range(120):
            now[0] += 1
            display.move("train", f"image flow {k}/120, 00:10 left")
        display.say("done")
        text = stream.getvalue()
        assert text.startswith("stage 2 of 3: train\n")
        assert text.count("stage 2 of 3: train: image flow ") == lines
        assert text.count("\n") == (2 if stream.isatty() else 4)
        assert text.endswith("done\n")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "unknown"), (0.2, "1 s"), (40, "40 s"), (360, "6 min"), (7800, "2 h 10 min")],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
