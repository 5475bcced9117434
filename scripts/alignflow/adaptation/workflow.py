"""A bundle workflow run in this process, its output in a log and its bars told to a clock."""

from __future__ import annotations

import contextlib
import gc
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from alignflow.adaptation.jobs import Job


class StageFailed(RuntimeError):
    """A stage ended with an error; the message has its first line and the log."""


OnLine = Callable[[str], bool]


class LogStream:
    """A text stream that writes lines to a file, but of each progress bar only its end.

    Args:
        file: open for writing.
        on_line: told every line; true where it belongs to a bar.
    """

    def __init__(self, file: Any, on_line: OnLine) -> None:
        self.file = file
        self.on_line = on_line
        self.rest = ""

    def write(self, text: str) -> int:
        """Take text; complete lines are dealt with."""
        *whole, self.rest = re.split(r"[\r\n]", self.rest + text)
        for line in filter(None, whole):
            if not self.on_line(line) or "100%|" in line:
                self.file.write(line + "\n")
        self.on_line(self.rest)  # tqdm ends a line only when the bar closes
        return len(text)

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()

    def isatty(self) -> bool:
        """No terminal."""
        return False


def run_workflow(job: Job, overrides: dict[str, Any], log: Path, on_line: OnLine) -> None:
    """Run a job to its end; whatever it raises comes through.

    One process for all of them: importing torch and MONAI takes longer than some stages.

    Args:
        job: to run.
        overrides: of the config, besides the job's own.
        log: file that its output is added to.
        on_line: told every line of output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    given = {k: v for k, v in (job.paths | job.settings | overrides).items()}
    into = log.open("a", encoding="utf-8", errors="surrogateescape")
    with into as file, _captured(LogStream(file, on_line)):
        try:
            made = ConfigWorkflow(
                config_file=str(job.config),
                logging_file=False,
                run_id=job.run_id,
                bundle_root=str(job.config.parent.parent),
                **given,
            )
            made.initialize()
            made.run()
            made.finalize()
        except Exception:
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
