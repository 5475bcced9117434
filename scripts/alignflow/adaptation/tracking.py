"""The MLflow runs of an adaptation: a run with a nested run per stage."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from alignflow.adaptation.jobs import Job
from alignflow.adaptation.verdict import GAIN
from alignflow.files import replacing
from alignflow.stage1 import FILE
from alignflow.training.store import make_store
from alignflow.training.tracking import NESTED, PARENT

Facts = Mapping[str, Any]


class Runs:
    """The MLflow runs of an adaptation.

    Each stage is a run nested in the run of the adaptation, and the runs of a stage's workflows
    (flows, students, segmenters) are nested in the stage. After a kill a stage continues its run;
    if its inputs changed, it gets a new run.

    Args:
        tracking_uri: address of the store, a database or a server.
        experiment: its name.
        root: folder of the adaptation; it has the artifacts of a local store in `mlruns/`, and the
            ids of the runs in `state/mlflow.json`.
        params: parameters of the adaptation.
        tags: tags of the adaptation, such as hashes of its inputs; they may change.
    """

    def __init__(
        self, tracking_uri: str, experiment: str, root: Path, params: Facts, tags: Facts
    ) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        make_store(tracking_uri)
        self.client = MlflowClient(tracking_uri=tracking_uri)
        self.memory = root / "state/mlflow.json"
        known: Any = self.client.get_experiment_by_name(experiment)
        local = tracking_uri.startswith("sqlite:")
        self.experiment_id: str = (
            known.experiment_id
            if known
            else self.client.create_experiment(
                experiment, artifact_location=(root / "mlruns").as_uri() if local else None
            )
        )
        self.runs: dict[str, str] = self._remembered()
        self.parent = self._open("adaptation", {"output_dir": str(root)})
        self._params(self.parent, params)
        for key, value in tags.items():
            self.client.set_tag(self.parent, key, value)

    @contextlib.contextmanager
    def stage(self, name: str, params: Facts) -> Iterator[None]:
        """Context of a stage: the runs of its workflows are nested in its run."""
        run = self._open(name, {NESTED: self.parent, "stage": name})
        self._params(run, params)
        before = os.environ.get(PARENT)
        os.environ[PARENT] = run
        try:
            yield
        except BaseException:
            self.client.set_terminated(run, "FAILED")
            self.client.set_terminated(self.parent, "FAILED")
            raise
        finally:
            os.environ.pop(PARENT)
            if before is not None:
                os.environ[PARENT] = before
        self._end_killed(run)
        self.client.set_terminated(run, "FINISHED")

    def complete(self, name: str) -> bool:
        """Whether the stage has a successful run in this store."""
        with contextlib.suppress(MlflowException):
            run_id = self.runs.get(name)
            return run_id is not None and self.client.get_run(run_id).info.status == "FINISHED"
        return False

    def metrics(self, name: str, values: Mapping[str, float | None]) -> None:
        """Log metrics of a stage, or of the "adaptation"; None is skipped."""
        for key, value in values.items():
            if value is not None:
                self.client.log_metric(self.runs[name], key, float(value))

    def artifacts(self, name: str, paths: Sequence[Path], folder: str | None = None) -> None:
        """Log files to a run; missing files are skipped."""
        for path in paths:
            if path.is_file():
                self.client.log_artifact(self.runs[name], str(path), folder)

    def below(self, name: str, run_name: str, values: Mapping[str, float | None]) -> None:
        """Log metrics to the run of this name that is nested in the stage."""
        for run in self._nested(self.runs[name]):
            if run.info.run_name == run_name and run.info.status == "FINISHED":
                for key, value in values.items():
                    if value is not None:
                        self.client.log_metric(run.info.run_id, key, float(value))

    def finish(self, values: Mapping[str, float | None], verdict: str) -> None:
        """Log metrics and verdict of the adaptation, and end its run."""
        self.metrics("adaptation", values)
        self.client.set_tag(self.parent, "mlflow.note.content", verdict)
        self.client.set_terminated(self.parent, "FINISHED")

    def _open(self, name: str, tags: Facts) -> str:
        """The previous run of that name if it did not finish, else a new run."""
        run_id = self.runs.get(name)
        with contextlib.suppress(MlflowException):
            if run_id is not None:
                status = self.client.get_run(run_id).info.status
                if name == "adaptation" or status != "FINISHED":
                    self.client.update_run(run_id, status="RUNNING")
                    return run_id
        run = self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags))
        self.runs[name] = run.info.run_id
        with replacing(self.memory) as temporary:
            temporary.write_text(json.dumps(self.runs, indent=1) + "\n", encoding="utf-8")
        return self.runs[name]

    def _end_killed(self, stage: str) -> None:
        """End runs that a kill left open and that were not continued."""
        for run in self._nested(stage):
            if run.info.status == "RUNNING":
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _nested(self, run_id: str) -> list[Any]:
        return list(
            self.client.search_runs(
                [self.experiment_id], filter_string=f"tags.`{NESTED}` = '{run_id}'"
            )
        )

    def _remembered(self) -> dict[str, str]:
        if not self.memory.is_file():
            return {}
        runs: dict[str, str] = json.loads(self.memory.read_text(encoding="utf-8"))
        return runs

    def _params(self, run_id: str, params: Facts) -> None:
        """Log new parameters; MLflow does not allow logged parameters to change."""
        known = self.client.get_run(run_id).data.params
        for key, value in params.items():
            if key not in known:
                self.client.log_param(run_id, key, str(value)[:6000])


class Log:
    """Logs the stages of an adaptation to MLflow.

    Args:
        runs: runs of the adaptation, or None to log nothing.
        root: folder of the adaptation.
    """

    def __init__(self, runs: Runs | None, root: Path) -> None:
        self.runs = runs
        self.root = root

    def stage(self, name: str, settings: Facts) -> contextlib.AbstractContextManager[None]:
        """Context of a stage, see `Runs.stage`."""
        return contextlib.nullcontext() if self.runs is None else self.runs.stage(name, settings)

    def complete(self, name: str) -> bool:
        """Whether a stage is already logged."""
        return self.runs is None or self.runs.complete(name)

    def finished(self, stage: str, jobs: Sequence[Job], seconds: float) -> None:
        """Log metrics and files of a finished stage."""
        if self.runs is None:
            return
        self.runs.metrics(stage, {"seconds": seconds} | stage_figures(self.root, stage))
        logs = [self.root / "logs" / f"{job.name.replace('/', '-')}.log" for job in jobs]
        files = {
            "prepare": ["check.json"],
            "infer": ["contact_sheet.png"],
            "evaluate": ["evaluation.json", "metrics.png"],
        }.get(stage, [])
        self.runs.artifacts(stage, [*logs, *(jobs[0].folder / name for name in files)])
        aligned, distilled = self.root / "aligned", self.root / "distilled"
        if stage == "align":
            weights = [aligned / name for name in ("model.pt", "mask_model.pt", FILE)]
            self.runs.artifacts(stage, weights, "generator")
        if stage == "distill":
            students = [*distilled.glob("*student_*.pt"), distilled / "segmenter.pt"]
            self.runs.artifacts(stage, [*students, distilled / FILE], "student")
        if stage == "segment":
            for job in jobs:
                self._score(job)

    def verdict(self, verdict: Facts) -> None:
        """Log the verdict, and the segmenter that is handed over."""
        if self.runs is None:
            return
        where = verdict["site"] or verdict["validation"]
        values: dict[str, float | None] = {}
        if where is not None:
            prefix = "site" if verdict["site"] else "source"
            values |= {f"{prefix}_dice_{arm}": dice / 100 for arm, dice in where["dice"].items()}
            gain = where["gains"].get(GAIN, {})
            keys = {"value": "", "low": "_low", "high": "_high"}
            values |= {f"{prefix}_gain_points{keys[k]}": gain.get(k) for k in keys}
        segmenter = [self.root / "segmenter" / name for name in ("segmenter.pt", "segmenter.json")]
        self.runs.artifacts("segment", segmenter, "segmenter")
        self.runs.finish(values, "\n\n".join(verdict["text"]))

    def _score(self, job: Job) -> None:
        """Log the Dice of a segmenter to the run of its training, except in folds."""
        _, _, name = job.name.partition("/")
        arm, _, where = name.rpartition("-")
        key = {"validation": "source", "test": "site"}.get(where)
        if self.runs is None or job.run_id != "test" or key is None:
            return
        dice = _read(job.folder / "scores.json")["dice"]
        keys = {"mean": "", "low": "_low", "high": "_high"}
        self.runs.below("segment", arm, {f"{key}_dice{keys[k]}": dice[k] for k in keys})


def stage_figures(root: Path, stage: str) -> dict[str, float | None]:
    """Metrics of a stage, from the records it wrote."""
    if stage == "prepare":
        record = _read(root / "prepare/check.json")
        gap = record.get("separation", {}).get("spaces", {}).get("appearance", {})
        return {
            "images": record["source"]["images"],
            "references": record["references"]["images"],
            "distance": gap.get("value"),
            "distance_by_chance": gap.get("floor_high"),
            "warnings": len(record["warnings"]),
        }
    if stage == "align":
        record = _read(root / "aligned/align.json")
        kept = record["kept"]
        return {
            "kept_epoch": record["kept_epoch"],
            "left_out_before": record["before"]["left_out"],
        } | {name: value for name, value in kept.items() if isinstance(value, (int, float))}
    if stage == "evaluate":
        record = _read(root / "evaluation/evaluation.json")
        found = {
            f"{metric}_{name}": record["metrics"][metric][name]["value"]
            for metric in ("kid", "mmd", "fid")
            for name in record["metrics"].get(metric, {})
        }
        dice = record["faithfulness"]["dice"]
        return found | {f"faithfulness_{name}": one["mean"] for name, one in dice.items()}
    return {}


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
