"""What a person sees while an adaptation runs."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from typing import TextIO

BAR = re.compile(r"([^:|]+): +\d+%\|.*\| (\d+/\d+) \[[\d:]+<([\d:?]+)")
"""What tqdm shows: `image flow:  40%|####      | 24/60 [00:10<00:15,  2.3step/s]`."""

EVERY = {True: 1.0, False: 60.0}
"""Seconds between two lines: on a terminal, where they replace each other, and elsewhere."""


class Display:
    """Stage, and the progress bar that moves in it.

    Args:
        stages: names in their order.
        stream: to write to; standard output by default.
    """

    def __init__(self, stages: Sequence[str], stream: TextIO | None = None) -> None:
        self.stages = list(stages)
        self.stream = sys.stdout if stream is None else stream
        self.replaces = self.stream.isatty()
        self.shown = 0.0
        self.width = 0
        self.stage = ""

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.replaces and self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.width = 0
        self.stream.write(text + "\n")
        self.stream.flush()

    def start(self, stage: str) -> None:
        """A stage begins."""
        self.stage = stage
        self.shown = time.monotonic()
        self.say(self.title_of(stage))

    def move(self, job: str, bar: str) -> None:
        """Progress of a job of the stage, see `progress`."""
        now = time.monotonic()
        if now - self.shown < EVERY[self.replaces]:
            return
        self.shown = now
        inner = "" if job == self.stage else f" [{job.split('/')[-1]}]"
        text = f"{self.title_of(self.stage)}{inner}: {bar}"
        if self.replaces:
            self.stream.write("\r" + text.ljust(self.width))
            self.width = len(text)
            self.stream.flush()
        else:
            self.say(text)

    def title_of(self, stage: str) -> str:
        """'stage 3 of 7: align'."""
        return f"stage {self.stages.index(stage) + 1} of {len(self.stages)}: {stage}"


def progress(line: str) -> str | None:
    """'image flow 24/60, 00:15 left' from a line of tqdm; None for other lines."""
    found = BAR.match(line)
    return f"{found[1]} {found[2]}, {found[3]} left" if found else None
