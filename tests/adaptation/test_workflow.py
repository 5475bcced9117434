"""What a workflow shows while it runs, and what its log keeps."""

import io
import re

import pytest
from tqdm import tqdm

from alignflow.adaptation.adapt import duration
from alignflow.adaptation.workflow import LogStream


def show_bar(file, leave):
    with tqdm(total=3, desc="flow", file=file, mininterval=0, leave=leave) as steps:
        for _ in range(3):
            steps.update()


@pytest.mark.parametrize("leave", [True, False])
def test_bars_pass_through_and_the_log_keeps_their_end(leave):
    log, terminal, alone = io.StringIO(), io.StringIO(), io.StringIO()
    stream = LogStream(log, terminal)
    print("before", file=stream)
    show_bar(stream, leave)
    print("after", file=stream)
    show_bar(alone, leave)
    shown, expected = (re.sub(r"\[[^\r\n]*", "", s.getvalue()) for s in (terminal, alone))
    assert shown == expected and "3/3" in shown  # but for the times in brackets
    first, *bar, last = log.getvalue().splitlines()
    assert [first, last] == ["before", "after"]
    assert len(bar) == leave and all(line.startswith("flow: 100%") for line in bar)


def test_a_log_holds_whole_lines():
    log, terminal = io.StringIO(), io.StringIO()
    stream = LogStream(log, terminal)
    for text in ("one ", "line\n  two\n\n", "\r 10%", "\r 20%", "\n", "three\r\n", "rest"):
        stream.write(text)
    assert log.getvalue().splitlines() == ["one line", "  two", " 20%", "three"]
    assert terminal.getvalue() == "\r 10%\r 20%\n"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (40, "40 s"), (360, "6 min"), (7800, "2 h 10 min")]
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
