"""A bundle workflow run in this process, its output in a log and its bars on the terminal."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from monai.bundle import ConfigWorkflow

from alignflow.adaptation.jobs import Job
from alignflow.errors import close_bars


class StageFailed(RuntimeError):
    """A stage ended with an error; the message has its first line and the log."""


class LogStream:
    """A text stream that writes to a file what a terminal would show in the end.

    Progress bars, which return to the start of their line, go to the terminal as they are; the file
    gets the last state of each.

    Args:
        file: open for writing.
        terminal: receives the bars.
    """

    def __init__(self, file: TextIO, terminal: TextIO) -> None:
        self.file = file
        self.terminal = terminal
        self.rest = ""
        self.moved = False  # a bar, by the last text

    def write(self, text: str) -> int:
        """Take text; whole lines are written."""
        moves = text.startswith("\r")
        if moves or (text == "\n" and self.moved):
            self.terminal.write(text)
            self.terminal.flush()
        self.moved = moves
        *whole, rest = (self.rest + text).split("\n")
        for line in whole:
            shown = line.rstrip("\r").rpartition("\r")[2]
            if shown.strip():
                self.file.write(shown + "\n")
        _, returned, last = rest.rpartition("\r")
        self.rest = returned + last
        return len(text)

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()

    def isatty(self) -> bool:
        """No terminal."""
        return False


def run_workflow(job: Job, overrides: dict[str, Any], log: Path) -> None:
    """Run a job to its end; whatever it raises comes through.

    One process for all of them: importing torch and MONAI takes longer than some stages.

    Args:
        job: to run.
        overrides: overrides of the config, besides the job's own.
        log: file that its output is added to; progress bars go to standard error as well.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    into = log.open("a", encoding="utf-8", errors="surrogateescape")
    with into as file, _captured(LogStream(file, sys.stderr)):
        try:
            made = ConfigWorkflow(
                config_file=str(job.config),
                logging_file=False,
                run_id=job.run_id,
                bundle_root=str(job.config.parent.parent),
                **job.paths | job.settings | overrides,
            )
            made.initialize()
            made.run()
            made.finalize()
        except Exception:
            close_bars()
            traceback.print_exc()  # into the log
            raise
    del made
    gc.collect()  # configs and what they make refer to each other


@contextlib.contextmanager
def _captured(stream: LogStream) -> Iterator[None]:
    """Standard output, standard error and what this package logs go to the stream."""
    ours = logging.getLogger("alignflow")
    theirs = logging.getLogger("monai.bundle.workflows")
    before = (ours.handlers[:], ours.level, ours.propagate, sys.excepthook)
    quiet = theirs.level
    theirs.setLevel(logging.ERROR)  # it warns of every workflow without a logging file
    handler = logging.StreamHandler(stream)  # type: ignore[arg-type]
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    ours.handlers[:], ours.propagate = [handler], False
    ours.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):  # type: ignore[type-var]
            yield
    finally:
        ours.handlers[:], level, ours.propagate, sys.excepthook = before
        ours.setLevel(level)
        theirs.setLevel(quiet)
