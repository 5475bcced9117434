"""Runs a bundle workflow in this process; its output goes to a log, its bars to the terminal."""

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
    """A stage failed; the message has the first line of the error and the path of the log."""


class LogStream:
    """A text stream that writes to a file what a terminal would show in the end.

    Progress bars, which return to the start of their line, also go to the terminal. The file gets
    the last state of each bar.

    Args:
        file: open for writing.
        terminal: receives the bars.
    """

    def __init__(self, file: TextIO, terminal: TextIO) -> None:
        self.file = file
        self.terminal = terminal
        self.rest = ""
        self.moved = False  # whether the last text was a bar

    def write(self, text: str) -> int:
        """Add text; complete lines are written."""
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
        """False: not a terminal."""
        return False


def run_workflow(job: Job, overrides: dict[str, Any], log: Path) -> None:
    """Run a job to its end; exceptions are passed on.

    All jobs share a process, since importing torch and MONAI takes longer than some stages.

    Args:
        job: job to run.
        overrides: overrides of the config, in addition to the job's.
        log: file to which output is appended; progress bars go to standard error as well.
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
    gc.collect()  # configs and their objects refer to each other


@contextlib.contextmanager
def _captured(stream: LogStream) -> Iterator[None]:
    """Redirect standard output, standard error and this package's log to the stream."""
    ours = logging.getLogger("alignflow")
    theirs = logging.getLogger("monai.bundle.workflows")
    before = (ours.handlers[:], ours.level, ours.propagate, sys.excepthook)
    quiet = theirs.level
    theirs.setLevel(logging.ERROR)  # it warns about every workflow without a logging file
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
