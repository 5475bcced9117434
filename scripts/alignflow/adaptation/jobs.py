"""A job, one bundle workflow of an adaptation, and whether its result is up to date."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignflow.files import replacing, sha256
from alignflow.stage1 import FILE, weight_hashes

Facts = dict[str, Any]
UNCOUNTED = ("_desc_", "imports", "device", "num_workers", "compile", "mlflow", "tracking_uri")
"""Keys of configs and settings that do not change the result."""


@dataclass
class Job:
    """A run of one workflow.

    Attributes:
        name: such as "align" or "segment/adapted-0"; used for its state, log and messages.
        stage: stage of the job.
        config: path of the bundle config.
        run_id: run_id of the workflow.
        folder: output folder.
        settings: overrides that affect the result.
        paths: overrides that say where things are.
        inputs: name -> hash of external inputs.
        after: jobs whose results it reads.
        results: files in `folder` that a complete result has.
    """

    name: str
    stage: str
    config: Path
    run_id: str
    folder: Path
    settings: Facts
    paths: dict[str, str | list[str] | None]
    inputs: dict[str, str]
    after: list[Job] = field(default_factory=list)
    results: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, str]:
        """Everything that affects the result, name -> hash."""
        config = {
            k: v
            for k, v in json.loads(self.config.read_text(encoding="utf-8")).items()
            if _counts(k)
        }
        settings = {k: v for k, v in self.settings.items() if _counts(k)}
        return (
            {"config": _hash(config), "settings": _hash(settings)}
            | self.inputs
            | {job.name: job.key for job in self.after}
        )

    @property
    def key(self) -> str:
        """Hash of everything that affects the result; the places of files do not."""
        return _hash(self.parts)


class State:
    """States of the jobs of an adaptation, one file each in `state/`.

    Args:
        root: folder of the adaptation.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, job: Job) -> Path:
        """Path of the job's state."""
        return self.root / "state" / f"{job.name.replace('/', '-')}.json"

    def read(self, job: Job) -> Facts:
        """The job's state, {} if it never started."""
        path = self.path(job)
        if not path.is_file():
            return {}
        content: Facts = json.loads(path.read_text(encoding="utf-8"))
        return content

    def finished(self, job: Job) -> bool:
        """Whether the job is finished, with the same inputs, settings and result files."""
        state = self.read(job)
        if not state.get("finished") or state["key"] != job.key:
            return False
        return all(
            (job.folder / name).is_file() and sha256(job.folder / name) == digest
            for name, digest in state["results"].items()
        )

    def changed(self, job: Job) -> list[str]:
        """What changed since the last start: "settings", "references", another job, ..."""
        state = self.read(job)
        if not state or self.finished(job):
            return []
        before, now = state["parts"], job.parts
        if before == now:
            return ["its result"] if state.get("finished") else []
        return sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))

    def start(self, job: Job) -> None:
        """Record the start of a job; an outdated result is moved to `old/`."""
        state = self.read(job)
        stale = bool(state) and (state["key"] != job.key or state.get("finished"))
        if stale and job.folder.exists():
            old = self.root / "old" / f"{job.name.replace('/', '-')}-{state['key'][:8]}"
            shutil.rmtree(old, ignore_errors=True)
            old.parent.mkdir(exist_ok=True)
            shutil.move(job.folder, old)
        self._write(job, {"finished": False})

    def finish(self, job: Job, seconds: float) -> None:
        """Record that the job's result is complete."""
        results = {name: sha256(job.folder / name) for name in job.results}
        self._write(job, {"finished": True, "seconds": round(seconds, 1), "results": results})

    def _write(self, job: Job, content: Facts) -> None:
        content = content | {"key": job.key, "parts": job.parts}
        with replacing(self.path(job)) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def folder_hash(folder: str | Path) -> str:
    """Hash of the names and contents of all files in a folder, except hidden files."""
    root = Path(folder)
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root).as_posix()
        if not any(part.startswith(".") for part in Path(name).parts):
            digest.update(os.fsencode(f"{name}\0{sha256(path)}\n"))
    return digest.hexdigest()


def bundle_hash(model_dir: str | Path) -> str:
    """Hash of a bundle's record and weights."""
    return _hash(weight_hashes(str(model_dir)) | {FILE: sha256(Path(model_dir) / FILE)})


def overlaid(config: Path, settings: Facts) -> Facts:
    """The content of a config with overrides; "a::b" is entry b of a."""
    content: Facts = json.loads(config.read_text(encoding="utf-8"))
    for key, value in settings.items():
        *parents, last = key.replace("#", "::").split("::")
        place = content
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = value
    return content


def _counts(key: str) -> bool:
    return key.split("::")[0] not in UNCOUNTED


def _hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
