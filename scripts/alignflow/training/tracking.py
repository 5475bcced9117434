"""MLflow: parameters, losses, sample grids, config, weights, CPU and GPU metrics."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from mlflow.entities import Run
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from monai.engines import Workflow
from monai.handlers import MLFlowHandler

from alignflow.training.store import chosen, make_store

PARENT = "ALIGNFLOW_PARENT_RUN"
"""Environment variable with the id of the parent MLflow run of a workflow's runs."""
NESTED = "mlflow.parentRunId"
"""The tag with which MLflow nests a run in another."""


class Tracking(MLFlowHandler):
    """MONAI's MLflow handler, plus system metrics, and runs that survive a kill.

    A resumed training continues the MLflow run that was killed. Parameters that are already logged
    stay, since MLflow refuses to change them. If the variable `ALIGNFLOW_PARENT_RUN` names a run,
    new runs are nested in it. MONAI's handler would continue any unfinished run with the same name,
    even with other data or settings, and open a run for a training that is complete. Only the first
    of several processes tracks.

    Args:
        output_dir: output folder of the training; distinguishes runs with the same name.
        validator: engine; its metrics are logged as "held_out_*".
        system_metrics: log CPU, memory, network and (through pynvml) GPU.
        **options: options of `monai.handlers.MLFlowHandler`.
    """

    def __init__(
        self,
        *,
        output_dir: str = "",
        validator: Workflow | None = None,
        system_metrics: bool = True,
        **options: Any,
    ) -> None:
        if idist.get_rank() > 0:
            return  # a second client would create the store's tables at the same time
        # MLflow's messages would interrupt the progress bar.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        make_store(chosen(str(options.get("tracking_uri"))))
        super().__init__(
            iteration_log=False, epoch_logger=self.log_epoch, close_on_complete=True, **options
        )
        self.tags = {"output_dir": str(Path(output_dir).resolve())}
        if PARENT in os.environ:
            self.tags[NESTED] = os.environ[PARENT]
        self.validator = validator
        self.system_metrics = system_metrics
        self.monitor: SystemMetricsMonitor | None = None
        self.run_id: str | None = None

    @idist.one_rank_only()
    def attach(self, engine: Engine) -> None:
        """Register MONAI's events, and stop the system metrics on an exception."""
        super().attach(engine)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop_on_exception)

    def start(self, engine: Any) -> None:
        """Open the run and start the system metrics; does nothing if all epochs are done."""
        self._set_experiment()
        experiment: Any = self.experiment
        state = engine.state
        resumed = state.iteration > 0
        run: Any = self.killed_run(experiment.experiment_id) if resumed else None
        if run is None:
            if resumed and state.epoch >= state.max_epochs:
                return
            run = self.client.create_run(
                experiment.experiment_id, run_name=self.run_name, tags=self.tags
            )
        self.cur_run = run
        self.run_id = run.info.run_id
        super().start(engine)
        if self.system_metrics and self.monitor is None and self.cur_run is not None:
            run_id = self.cur_run.info.run_id
            uri = self.client.tracking_uri
            self.monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
            self.monitor.start()

    def killed_run(self, experiment_id: str) -> Run | None:
        """The newest unfinished run with this name and output folder."""
        for run in self.client.search_runs([experiment_id]):
            ours = self.tags.items() <= run.data.tags.items()
            if ours and run.info.run_name == self.run_name and run.info.status == "RUNNING":
                return run
        return None

    def log_epoch(self, engine: Any) -> None:
        """Log the epoch's mean loss, the learning rate and the newest held-out loss."""
        metrics = dict(engine.state.metrics)
        metrics["learning_rate"] = engine.optimizer.param_groups[0]["lr"]
        if self.validator is not None:
            metrics |= {f"held_out_{k}": v for k, v in self.validator.state.metrics.items()}
        self._log_metrics(metrics, step=engine.state.epoch)

    @idist.one_rank_only()
    def log_late(self, metrics: dict[str, float]) -> None:
        """Log metrics that are known only after the run has ended."""
        if self.run_id is not None:
            for name, value in metrics.items():
                self.client.log_metric(self.run_id, name, value)

    def close(self) -> None:
        """Stop the system metrics and finish the run."""
        self.stop_monitor()
        super().close()

    def stop_monitor(self) -> None:
        """Stop the system metrics."""
        if self.monitor is not None:
            self.monitor.finish()
            self.monitor = None

    def _log_params(self, params: dict[str, Any]) -> None:
        params = dict(params)
        self._delete_exist_param_in_dict(params)
        super()._log_params(params)

    def _stop_on_exception(self, error: BaseException) -> None:
        self.stop_monitor()
        raise error


def tracked(
    options: Mapping[str, Any],
    run_name: str,
    artifacts: Sequence[str] = (),
    validator: Workflow | None = None,
) -> Tracking | None:
    """`Tracking` of a training; None if `options["mlflow"]` is false.

    Args:
        options: "mlflow", and arguments of `Tracking` that all trainings of a config share.
        run_name: name of the run.
        artifacts: files and folders in `options["output_dir"]` to log at the end.
        validator: engine; its metrics are logged as "held_out_*".
    """
    shared = dict(options)
    if not shared.pop("mlflow"):
        return None
    paths = [f"{shared['output_dir']}/{name}" for name in artifacts]
    return Tracking(run_name=run_name, artifacts=paths, validator=validator, **shared)
