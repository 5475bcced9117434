"""A workflow of the bundle as a process of its own, its output as lines of a log."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignflow.errors import InputError
from alignflow.files import replacing

logger = logging.getLogger(__name__)


def run_workflow(
    run_id: str,
    config: Path,
    overrides: Mapping[str, Any],
    folder: Path,
    environment: dict[str, str],
) -> None:
    """`monai.bundle run RUN_ID` to its end, in the interpreter that runs this.

    A process of its own gives its memory back, and ends with the task that started it.

    Args:
        run_id: of the config.
        config: file in `bundle/configs`.
        overrides: of its keys.
        folder: receives `RUN_ID.args.json`, what the run was asked for.
        environment: of the process.

    Raises:
        InputError: it did not end well; the message is the workflow's own line where it has one.
    """
    arguments = {"run_id": run_id, "config_file": str(config)} | dict(overrides)
    arguments["bundle_root"] = str(config.parents[1])
    file = folder / f"{run_id}.args.json"
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(arguments, indent=1) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "monai.bundle", "run", "--args_file", str(file)]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        if text := line.rsplit("\r", 1)[-1].rstrip():  # a progress bar writes over itself
            logger.info("%s", text)
            lines.append(text)
    if process.wait():
        raise InputError(reason(run_id, lines))


def reason(run_id: str, lines: list[str]) -> str:
    """Why a run failed: the line of its input error, else its last one."""
    for line in lines:
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    return f"run {run_id} failed: {lines[-1] if lines else 'it wrote nothing'}"
