"""Workflows of the bundle, run as a user runs them; what they leave is kept by a content key."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from locks import locked
from monai.bundle import ConfigWorkflow

from alignflow.errors import InputError, find_input_error
from alignflow.files import replacing, sha256

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundle"
DONE = "done.json"

Settings = dict[str, Any]
Build = Callable[[Path, int], None]
"""build(folder, lock) leaves a stage's result in the folder; lock is for child processes."""


class StageFailed(RuntimeError):
    """A workflow ended with an error."""


class Cache:
    """Results of stages under one folder: models, alignments, pairs, segmenters, data.

    Args:
        root: of the cache; several processes may share it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.failed: dict[Path, str] = {}  # by this process: many runs may ask for a stage

    def folder(self, kind: str, content: Mapping[str, Any]) -> Path:
        """Where the result of a stage with this content lies, or would lie."""
        text = json.dumps(content, sort_keys=True, default=str)
        return self.root / kind / hashlib.sha256(text.encode()).hexdigest()[:16]

    def make(self, kind: str, content: Mapping[str, Any], build: Build, wait: bool = False) -> Path:
        """The folder of a stage's result, built unless that has been done.

        A build that was interrupted is called again on the folder as it was left.

        Raises:
            Busy: another process builds it, and `wait` is false.
            StageFailed: the build failed, now or before in this process.
        """
        folder = self.folder(kind, content)
        if folder in self.failed:
            raise StageFailed(self.failed[folder])
        if (folder / DONE).is_file():
            return folder
        with locked(folder.with_name(f"{folder.name}.lock"), wait) as lock:
            if (folder / DONE).is_file():
                return folder
            folder.mkdir(parents=True, exist_ok=True)
            start = time.monotonic()
            try:
                build(folder, lock)
            except StageFailed as error:
                self.failed[folder] = str(error)
                raise
            write_json(
                folder / DONE, {"content": content, "seconds": round(time.monotonic() - start, 1)}
            )
        return folder


def run_workflow(
    run_id: str, config: str, overrides: Mapping[str, Any], folder: Path, lock: int
) -> None:
    """`monai.bundle run RUN_ID` on `bundle/configs/CONFIG.json` in a process of its own.

    Its arguments are left as `folder/RUN_ID.args.json`, its output as `folder/RUN_ID.log`.

    Raises:
        StageFailed: it did not end well; the message has the reason.
    """
    arguments = {"run_id": run_id, "config_file": f"configs/{config}.json"}
    arguments |= {"bundle_root": str(BUNDLE)} | dict(overrides)
    args_file, log = folder / f"{run_id}.args.json", folder / f"{run_id}.log"
    write_json(args_file, arguments)
    say(f"run {run_id}, log in {log}")
    command = [sys.executable, "-m", "monai.bundle", "run", "--args_file", str(args_file)]
    with log.open("w") as output:
        ended = subprocess.run(
            command,
            cwd=BUNDLE,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],
            check=False,
        )
    if ended.returncode:
        cause = first_error(log.read_text(errors="replace"))
        raise StageFailed(f"run {run_id} ended with {ended.returncode}: {cause} (see {log})")


def first_error(text: str) -> str:
    """The line of an input error in a log, else of the first exception, from which others came."""
    for pattern in (r"^error: .*$", r"^[\w.]*(?:Error|Exception)\b.*$"):
        if found := re.search(pattern, text, re.MULTILINE):
            return found.group()[:400]
    return "no error in the log"


def run_here(
    run_id: str, config: str, overrides: Mapping[str, Any], imports: Sequence[str] = ()
) -> None:
    """The same in this process, for short workflows: importing takes seconds.

    `imports` come behind those of the config.

    Raises:
        StageFailed: it did not end well.
    """
    path = BUNDLE / f"configs/{config}.json"
    try:
        workflow = ConfigWorkflow(
            config_file=str(path),
            logging_file=False,
            run_id=run_id,
            bundle_root=str(BUNDLE),
            imports=[*json.loads(path.read_text())["imports"], *imports],
            **overrides,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:
        raise StageFailed(f"run {run_id}: {find_input_error(error) or error!r}") from error


def environment() -> dict[str, str]:
    """This checkout's package first, one thread unless the caller set a number."""
    path = os.pathsep.join([str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")])
    return {"OMP_NUM_THREADS": "1"} | dict(os.environ) | {"PYTHONPATH": path.rstrip(os.pathsep)}


def config_hash(config: str) -> str:
    """SHA-256 of a bundle config."""
    return sha256(BUNDLE / f"configs/{config}.json")


def read_settings(path: Path) -> dict[str, Settings]:
    """Overrides for each workflow, and the arms' own settings.

    Raises:
        InputError: no such file, or not JSON.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}': {error}; give a JSON file") from error
    if not isinstance(content, dict):
        raise InputError(f"'{path}': not a JSON object")
    return content


def say(text: str) -> None:
    """Print with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all; a line for each key, since scores of hundreds of images are lists."""
    lines = (
        f"{json.dumps(name)}: {json.dumps(value, default=str, allow_nan=False)}"
        for name, value in content.items()
    )
    with replacing(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")
