"""`run adapt`: prepare, train, align, infer, segment, distill, evaluate, report, and a verdict."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

from alignflow.adaptation.jobs import Facts, Job, State, overlaid
from alignflow.adaptation.parts import folds, write_parts
from alignflow.adaptation.picture import save_picture
from alignflow.adaptation.plan import SECTIONS, STAGES, Folders, Plan, prepare, title
from alignflow.adaptation.readiness import (
    NotReady,
    inspect,
    require_arms,
    require_folders,
    require_keys,
)
from alignflow.adaptation.tracking import Log, Runs
from alignflow.adaptation.verdict import ADAPTED, NOT_ADAPTED, SOURCE, judge
from alignflow.adaptation.workflow import StageFailed, run_workflow
from alignflow.alignment.site import NothingFound
from alignflow.config import running_config, user_message
from alignflow.data.references import listed_files
from alignflow.errors import find_input_error
from alignflow.files import replacing, sha256
from alignflow.inference.writing import versions
from alignflow.inspection.text import lines
from alignflow.segmentation.network import without_pretrained
from alignflow.stage1 import Stage1


class Adaptation:
    """Adapts a segmenter to a site, from a source and references.

    Each stage runs a workflow of the bundle. Stages that are finished with the same inputs and
    settings are skipped; a killed stage resumes. All files are written to `output_dir`.

    Args:
        bundle_root: folder with the bundle's `configs/`.
        source: labelled images, see `build_datalist`.
        references: images of the site.
        test: labelled images of the site that are not references, or None.
        model_dir: a trained bundle, to skip training, or None.
        output_dir: output folder of the adaptation.
        device: device of all stages.
        seed: random seed of the first segmenter; the next segmenters use the next seeds.
        seeds: trainings of each segmenter if `test` is given, else one.
        rounds: number of rounds of pseudo-masks, if references have no masks.
        hand_over: arm to hand over if there is no `test`.
        trial: whether the run only shows that everything works (`--quick`).
        mlflow: whether to track with MLflow.
        tracking_uri, experiment: for MLflow; MLFLOW_TRACKING_URI has precedence.
    """

    def __init__(
        self,
        *,
        bundle_root: str,
        source: str,
        references: str,
        output_dir: str,
        test: str | None = None,
        model_dir: str | None = None,
        device: str = "cpu",
        seed: int = 0,
        seeds: int = 3,
        rounds: int = 2,
        hand_over: str = ADAPTED,
        trial: bool = False,
        mlflow: bool = True,
        tracking_uri: str = "",
        experiment: str = "",
    ) -> None:
        config = running_config()
        self.sections: Facts = {name: config[name] for name in (*SECTIONS, "arms")}
        data = {"source": source, "references": references, "test": test}
        require_folders(data, model_dir, output_dir)
        self.folders = folders = Folders(
            configs=Path(bundle_root).resolve() / "configs",
            root=Path(output_dir).resolve(),
            source=Path(source).resolve(),
            references=Path(references).resolve(),
            test=None if test is None else Path(test).resolve(),
            model_dir=None if model_dir is None else Path(model_dir).resolve(),
        )
        self.root = folders.root
        arms = self.sections["arms"]
        require_arms(arms, hand_over)
        # the verdict compares an arm with those before it
        self.sections["arms"] = {k: v for k, v in arms.items() if k != ADAPTED} | {
            ADAPTED: arms[ADAPTED]
        }
        require_keys(self.sections, folders.configs)
        self.train = overlaid(folders.configs / "train.json", self.sections["train"])
        self.bundle = None if model_dir is None else Stage1.load(str(folders.model_dir))
        self.seeds = list(range(seed, seed + (seeds if test else 1)))
        self.rounds = rounds
        self.hand_over = hand_over
        self.trial = trial
        self.everywhere: Facts = {
            "device": device,
            "mlflow": mlflow,
            "tracking_uri": os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri,
            "experiment": experiment,
        }
        self.state = State(self.root)

    def run(self) -> Facts:
        """Run the unfinished stages; returns the verdict, see `verdict.judge`.

        Raises:
            NotReady: the data has problems.
            StageFailed: a stage ended with an error.
        """
        start = time.monotonic()
        self.root.mkdir(parents=True, exist_ok=True)
        self.log = self._log()
        checked = self._prepare()
        plan = self._plan(checked, adapt=self._is_apart(checked))
        if self.folders.model_dir is not None:
            print_line(f"{title('train')}: bundle '{self.folders.model_dir}' is given, skipped")
        for stage in STAGES[1:-1]:
            try:
                self._stage(stage, plan.of(stage))
            except StageFailed as error:
                reason = find_input_error(error)
                if not isinstance(reason, NothingFound):
                    raise
                print_line(f"{reason}; nothing is adapted")
                self._remember_gap(checked, False, str(reason))
                plan = self._plan(checked, adapt=False)
        verdict = self._verdict(plan)
        self._report(plan.of("report"))
        self.log.verdict(verdict)
        self._say_verdict(verdict, plan, time.monotonic() - start)
        return verdict

    # -- stages ------------------------------------------------------------------------------------

    def _prepare(self) -> Facts:
        """Check the data; returns the result of `readiness.inspect`."""
        job = prepare(self.folders, self.train)
        self._stage("prepare", [job])
        found: Facts = json.loads((job.folder / "check.json").read_text(encoding="utf-8"))
        return found

    def _is_apart(self, checked: Facts) -> bool:
        """Whether the references differ from the source; the answer is printed and saved."""
        apart = bool(checked["separation"]["apart"])
        one = checked["separation"]["spaces"]["appearance"]
        if not apart:
            print_line(
                f"no gap: the references differ no more from the source ({one['value']:.3f}) than "
                f"source images from each other (up to {one['floor_high']:.3f}); nothing is adapted"
            )
        self._remember_gap(checked, apart, "")
        return apart

    def _remember_gap(self, checked: Facts, adapt: bool, reason: str) -> None:
        one = checked["separation"]["spaces"]["appearance"]
        content = {"gap": one["value"], "floor": one["floor_high"], "adapt": adapt}
        _write(self.root / "gap.json", content | {"reason": reason})

    def _plan(self, checked: Facts, adapt: bool) -> Plan:
        """The jobs. Scores need two images with foreground, rounds a reference without mask."""
        folders = self.folders
        scored = {}
        if checked["validation_with_foreground"] >= 2:
            scored["validation"] = folders.validation
        if folders.test is not None:
            scored["test"] = folders.test
        labelled = all(mask is not None for _, mask in listed_files(folders.references))
        rounds = 0 if labelled else self.rounds
        count = len(folds(folders))
        return Plan(folders, self.sections, self.seeds, scored, rounds, count, adapt)

    def _stage(self, stage: str, jobs: list[Job]) -> None:
        """Run the unfinished jobs of a stage."""
        if not jobs:
            return
        settings = self.sections.get(stage, {})
        waiting = [job for job in jobs if not self.state.finished(job)]
        if not waiting:
            print_line(f"{title(stage)}: finished before, skipped")
            if not self.log.complete(stage):  # tracked elsewhere, or killed there
                with self.log.stage(stage, settings):
                    pass
                before = sum(self.state.read(job)["seconds"] for job in jobs)
                self.log.finished(stage, jobs, before)
            return
        for job in waiting:
            if changed := self.state.changed(job):
                print_line(f"{job.name}: {', '.join(changed)} changed; runs again")
        print_line(title(stage))
        start = time.monotonic()
        with self.log.stage(stage, settings):
            for job in waiting:
                self._job(job)
        seconds = time.monotonic() - start
        print_line(f"{title(stage)}: done in {duration(seconds)}")
        self.log.finished(stage, jobs, seconds)

    def _report(self, jobs: list[Job]) -> None:
        """Write the report, which shows the verdict."""
        for job in jobs:  # not known earlier
            job.inputs["verdict"] = sha256(self.root / "verdict.txt")
        self._stage("report", jobs)

    # -- jobs --------------------------------------------------------------------------------------

    def _job(self, job: Job) -> None:
        """Run a job, and record that it is finished."""
        start = time.monotonic()
        self.state.start(job)
        if job.stage == "prepare":
            self._check(job)
        else:
            self._workflow(job)
        self.state.finish(job, time.monotonic() - start)

    def _check(self, job: Job) -> None:
        """Check the data, and write the data sets on which segmenters are scored.

        Raises:
            NotReady: the data has problems.
        """
        folders = self.folders
        found = inspect(
            source=folders.source,
            references=folders.references,
            test=folders.test,
            train=self.train,
            bundle=self.bundle,
            output=self.root,
            sections=self.sections,
            configs=folders.configs,
        )
        for line in lines(found):
            print_line(f"  {line}")
        _write(job.folder / "check.json", found)
        if found["problems"]:
            raise NotReady(f"{len(found['problems'])} problems in the data; fix them first")
        write_parts(folders, self.train)

    def _workflow(self, job: Job) -> None:
        """Run one workflow of the bundle.

        Raises:
            StageFailed: the workflow failed; the message is one line.
        """
        log = self.root / "logs" / f"{job.name.replace('/', '-')}.log"
        try:
            run_workflow(job, self._overrides(job), log)
        except Exception as error:
            config = overlaid(job.config, job.settings)
            found = user_message(error, config, str(job.folder))
            reason = str(found) if found else f"{type(error).__name__}: {_innermost(error)}"
            raise StageFailed(f"{job.name}: {reason} (log: {log})") from error
        if job.run_id == "test":  # keep the record with its scores
            record = Path(str(job.paths["segmenter_dir"])) / "segmenter.json"
            _copy(record, job.folder / record.name)

    def _overrides(self, job: Job) -> Facts:
        """Overrides for all workflows, and those that depend on earlier stages."""
        known = overlaid(job.config, {}).keys() - job.settings.keys()
        overrides = {key: value for key, value in self.everywhere.items() if key in known}
        own_network = any(key.split("::")[0] == "network_def" for key in job.settings)
        if job.run_id == "segment" and job.settings.get("init") == "source" and not own_network:
            segmenter = Stage1.load(str(job.paths["model_dir"])).segmenter
            overrides["network_def"] = without_pretrained(segmenter)
        return overrides

    # -- verdict -----------------------------------------------------------------------------------

    def _verdict(self, plan: Plan) -> Facts:
        """Write the verdict, and hand over the segmenter."""
        test, seed = self.folders.test, self.seeds[0]
        trained = {job.name for job in plan.of("segment")}
        arms = [arm for arm in self.sections["arms"] if f"segmenters/{arm}-{seed}" in trained]
        found = judge(self.root, arms, self.seeds, self.hand_over, test, plan.folds, self.trial)
        self._hand_over(f"{found['handed_over']}-{seed}")
        found["versions"] = versions()
        found["inputs_sha256"] = self.folders.inputs
        _write(self.folders.verdict, found)
        with replacing(self.root / "verdict.txt") as temporary:
            temporary.write_text("\n".join(found["text"]) + "\n", encoding="utf-8")
        self._picture(found)
        return found

    def _hand_over(self, name: str) -> None:
        """Copy a segmenter and its scores to `segmenter/`."""
        output = self.root / "segmenter"
        for path in (self.root / "segmenters" / name).glob("[!.]*"):  # without the hidden lock
            _copy(path, output / path.name)
        where = "validation" if self.folders.test is None else "test"
        for file in ("scores.json", "test.png"):
            (output / file).unlink(missing_ok=True)
            scored = self.root / "scores" / where / name / file
            if scored.is_file():
                _copy(scored, output / file)

    def _picture(self, verdict: Facts) -> None:
        """Write `verdict.png`: outlines by the segmenters on images of the site."""
        arms = [SOURCE] if verdict["answer"] in NOT_ADAPTED else [SOURCE, ADAPTED]
        segmenters = {}
        for arm in arms:
            chosen = "\n(handed over)" if arm == verdict["handed_over"] else ""
            segmenters[arm + chosen] = self.root / f"segmenters/{arm}-{self.seeds[0]}"
        site = self.folders.test or self.folders.references
        path, device = self.root / "verdict.png", self.everywhere["device"]
        save_picture(path, site, self.folders.models, segmenters, device)

    def _say_verdict(self, verdict: Facts, plan: Plan, seconds: float) -> None:
        print_line(f"done in {duration(seconds)}")
        print_line(f"verdict: {self.root / 'verdict.txt'}")
        for line in verdict["text"]:
            print_line(f"  {line}")
        if verdict["site"] is not None:
            dice = (f"{arm} {value:.1f}" for arm, value in verdict["site"]["dice"].items())
            print_line(f"Dice at the site: {', '.join(dice)}")
        print_line(f"picture: {self.root / 'verdict.png'}")
        for job in plan.of("report"):
            print_line(f"report: {job.folder / 'report.html'}")

    def _log(self) -> Log:
        """The MLflow log."""
        if not self.everywhere["mlflow"]:
            return Log(None, self.root)
        folders = self.folders
        params = {
            "source": str(folders.source),
            "references": str(folders.references),
            "test": str(folders.test),
            "model_dir": str(folders.model_dir),
            "seeds": self.seeds,
            "device": self.everywhere["device"],
        }
        tags = {f"{name}_sha256": digest for name, digest in folders.inputs.items()}
        tags["trial"] = str(self.trial).lower()
        uri, experiment = self.everywhere["tracking_uri"], self.everywhere["experiment"]
        return Log(Runs(uri, experiment, self.root, params, tags), self.root)


def print_line(text: str) -> None:
    """Print a line immediately."""
    print(text, flush=True)


def duration(seconds: float) -> str:
    """'40 s', '6 min', '2 h 10 min'."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _write(path: Path, content: Facts) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _innermost(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
