"""What a person sees while an adaptation runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TextIO

from alignflow.adaptation.clock import Clock
from alignflow.inspection.text import duration

EVERY = {True: 1.0, False: 60.0}
"""Seconds between two lines: on a terminal, where they replace each other, and elsewhere."""


class Display:
    """Stage, time left in it and in all.

    Args:
        clock: knows the times.
        stages: names in their order.
        stream: to write to; standard output by default.
    """

    def __init__(self, clock: Clock, stages: Sequence[str], stream: TextIO | None = None) -> None:
        self.clock = clock
        self.stages = list(stages)
        self.stream = sys.stdout if stream is None else stream
        self.replaces = self.stream.isatty()
        self.shown = 0.0
        self.width = 0
        self.stage = ""
        self.jobs: list[str] = []

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.replaces and self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.width = 0
        self.stream.write(text + "\n")
        self.stream.flush()

    def start(self, stage: str, jobs: Sequence[str]) -> None:
        """A stage begins."""
        self.stage, self.jobs = stage, list(jobs)
        self.shown = time.monotonic()
        self.say(f"{self.title()} ({self.times()})")

    def move(self, job: str) -> None:
        """Progress within the stage."""
        now = time.monotonic()
        if now - self.shown < EVERY[self.replaces]:
            return
        self.shown = now
        inner = "" if job == self.stage else f" [{job.split('/')[-1]}]"
        text = f"{self.title()}{inner}: {self.times()}"
        if self.replaces:
            self.stream.write("\r" + text.ljust(self.width))
            self.width = len(text)
            self.stream.flush()
        else:
            self.say(text)

    def title(self) -> str:
        """'stage 3 of 7: align'."""
        return self.title_of(self.stage)

    def title_of(self, stage: str) -> str:
        """The same of another stage."""
        return f"stage {self.stages.index(stage) + 1} of {len(self.stages)}: {stage}"

    def times(self) -> str:
        """'about 6 min; 41 min left in all', or that they are unknown yet."""
        here, everything = self.clock.left(self.jobs), self.clock.left()
        if here is None or everything is None:
            return "time left unknown until something has been measured"
        return f"about {duration(here)}; {duration(everything)} left in all"
