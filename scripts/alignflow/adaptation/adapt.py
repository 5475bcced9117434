"""`run adapt`: prepare, train, align, distill, infer, segment, evaluate, and a verdict."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from alignflow.adaptation.jobs import Facts, Job, State, bundle_hash, folder_hash, overlaid
from alignflow.adaptation.picture import save_picture
from alignflow.adaptation.plan import STAGES, Folders, Plan, title
from alignflow.adaptation.readiness import NotReady, inspect
from alignflow.adaptation.tracking import Runs
from alignflow.adaptation.verdict import ADAPTED, GAIN, NOT_ADAPTED, SOURCE, judge
from alignflow.adaptation.workflow import StageFailed, run_workflow
from alignflow.alignment.site import NothingFound
from alignflow.config import explained, require_plain, running_config
from alignflow.data.datalist import build_datalist, split_by_group, stated_labels
from alignflow.data.references import listed_files
from alignflow.errors import InputError, find_input_error
from alignflow.files import replacing, sha256
from alignflow.inference.writing import versions
from alignflow.inspection.text import lines
from alignflow.limits import check_limits
from alignflow.segmentation.network import without_pretrained
from alignflow.stage1 import FILE, Stage1

SECTIONS = ("train", "align", "distill", "infer", "segment", "labeller", "evaluate", "report")
CONFIG_OF = {"infer": "inference", "labeller": "segment"}
"""Config of a section where it has another name."""
NEUTRAL = {
    "train": ("device", "mlflow", "tracking_uri", "experiment"),
    "align": ("device", "mlflow", "tracking_uri", "experiment"),
    "distill": ("device", "mlflow", "tracking_uri", "experiment"),
    "inference": ("device",),
    "segment": ("device", "mlflow", "tracking_uri", "experiment"),
    "evaluate": ("device",),
    "report": ("device",),
}
"""Keys of each config that are the same for a whole adaptation."""
FOLDS = 2
FEWEST_TO_FOLD = 6
"""Annotated references; with fewer, half of them are too few to adapt to or to score on."""
CASE = ("image", "label", "group")


class Adaptation:
    """From a source and references to a segmenter for the site.

    Each stage is a workflow of the bundle, run as it is; one that is finished with the same inputs
    and settings is skipped, a killed one goes on. Everything is written below `output_dir`.

    Args:
        bundle_root: folder with the bundle's `configs/`.
        source: labelled images, see `build_datalist`.
        references: images of the site.
        test: labelled images of the site, none of them a reference; None where there are none.
        model_dir: a trained bundle, which makes training needless; None to train.
        output_dir: of the adaptation.
        device: of all stages.
        seed: of the first segmenter; the next ones count on from it.
        seeds: trainings of each segmenter where `test` is given, else one.
        rounds: of pseudo-masks, where references come without masks.
        hand_over: arm that is handed over without `test`.
        trial: whether the run only shows that everything works (`--quick`).
        mlflow: whether to track.
        tracking_uri, experiment: of MLflow; the variable MLFLOW_TRACKING_URI comes first.
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
        for name, path in (("source", source), ("references", references), ("test", test)):
            if path is not None and not (path and Path(path).is_dir()):
                raise InputError(f"config \"{name}\": '{path}' is no folder; give --{name} DIR")
        self.configs = Path(bundle_root).resolve() / "configs"
        require_arms(self.sections["arms"], hand_over)
        require_keys(self.sections, self.configs)
        self.root = Path(output_dir).resolve()
        for path in filter(None, (source, references, test, model_dir, output_dir)):
            require_plain(str(Path(path).resolve()), "folder")
        for path in filter(None, (source, references, test)):
            if self.root == Path(path).resolve() or Path(path).resolve() in self.root.parents:
                raise InputError(
                    f"output_dir '{output_dir}': lies in '{path}', which would change with every "
                    "stage; give a folder outside of the data"
                )
        self.test = None if test is None else Path(test).resolve()
        self.model_dir = None if model_dir is None else Path(model_dir).resolve()
        self.bundle = None if model_dir is None else Stage1.load(str(self.model_dir))
        self.source, self.references = Path(source).resolve(), Path(references).resolve()
        self.device = device
        self.seeds = list(range(seed, seed + (seeds if test else 1)))
        self.rounds = rounds
        self.hand_over = hand_over
        self.trial = trial
        self.tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri
        self.experiment = experiment
        self.mlflow = mlflow
        self.state = State(self.root)

    def run(self) -> Facts:
        """Run what is not finished; returns the verdict, see `verdict.judge`.

        Raises:
            NotReady: the data has problems.
            StageFailed: a stage ended with an error.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        folders = self._folders()
        self.runs = self._tracked(folders)
        checked = self._prepare(folders)
        plan = self._plan(folders, checked, self._gap(checked))
        if self.model_dir is not None:
            say(f"{title('train')}: bundle '{self.model_dir}' is given, skipped")
        for stage in STAGES[1:]:
            jobs = [job for job in plan.jobs if job.stage == stage]
            if stage == "report":
                verdict = self._verdict(plan, folders)
                for job in jobs:  # known only now
                    job.inputs["verdict"] = sha256(self.root / "verdict.txt")
            if jobs and not self._stage_or_nothing(stage, jobs, checked):
                plan = self._plan(folders, checked, False)
        self._end(verdict, plan, time.monotonic() - started)
        return verdict

    # -- stages ------------------------------------------------------------------------------------

    def _prepare(self, folders: Folders) -> Facts:
        """Check the data, and write the source's validation split as a data set."""
        train = overlaid(self.configs / "train.json", self.sections["train"])
        plain = {k: v for k, v in train.items() if isinstance(v, (int, float, str, list, dict))}
        facts = {k: v for k, v in plain.items() if not str(v).startswith(("$", "@"))}
        job = Job(
            name="prepare",
            stage="prepare",
            config=self.configs / "train.json",
            run_id="",
            folder=self.root / "prepare",
            settings={k: facts[k] for k in sorted(facts) if not isinstance(facts[k], dict)},
            paths={},
            inputs=dict(folders.inputs),
            results=("check.json",),
        )
        path = job.folder / "check.json"
        if self.state.finished(job):
            say(f"{title('prepare')}: finished before, skipped")
            known: Facts = json.loads(path.read_text(encoding="utf-8"))
            if self.runs and not self.runs.complete("prepare"):
                with self._tracked_stage("prepare", {}):
                    pass
                self._log_prepare(known, path)
            return known
        self._say_changes(job)
        say(f"{title('prepare')}: checking the data")
        with self._tracked_stage("prepare", {}):
            start = time.monotonic()
            self.state.start(job)
            found = inspect(
                source=self.source,
                references=self.references,
                test=self.test,
                train=train,
                bundle=self.bundle,
                output=self.root,
                sections=self.sections,
                configs=self.configs,
            )
            for line in lines(found):
                say(f"  {line}")
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            if found["problems"]:
                raise NotReady(f"{len(found['problems'])} problems in the data; fix them first")
            self._write_parts(folders, train)
            self.state.finish(job, time.monotonic() - start)
        self._log_prepare(found, path)
        return found

    def _plan(self, folders: Folders, checked: Facts, adapt: bool) -> Plan:
        """The jobs; no rounds where every reference has a mask."""
        labelled = all(mask is not None for _, mask in listed_files(self.references))
        scored = self._scored(folders, checked)
        rounds = 0 if labelled else self.rounds
        folds = len(self._folds())
        return Plan(folders, self.sections, self.seeds, scored, rounds, folds, adapt)

    def _gap(self, checked: Facts) -> bool:
        """Whether the references lie apart from the source; says so if not, and remembers it."""
        separation = checked["separation"]
        one = separation["spaces"]["appearance"]
        if not separation["apart"]:
            say(
                f"no gap: the references lie no further from the source ({one['value']:.3f}) than "
                f"source images from each other (up to {one['floor_high']:.3f}); nothing is adapted"
            )
        self._remember_gap(checked, separation["apart"], "")
        return bool(separation["apart"])

    def _remember_gap(self, checked: Facts, adapt: bool, reason: str) -> None:
        one = checked["separation"]["spaces"]["appearance"]
        content = {"gap": one["value"], "floor": one["floor_high"], "adapt": adapt}
        with replacing(self.root / "gap.json") as temporary:
            temporary.write_text(
                json.dumps(content | {"reason": reason}, indent=1) + "\n", encoding="utf-8"
            )

    def _stage_or_nothing(self, stage: str, jobs: list[Job], checked: Facts) -> bool:
        """Run a stage; false where no structure is found in the references."""
        try:
            self._stage(stage, jobs)
        except StageFailed as error:
            found = find_input_error(error)
            if not isinstance(found, NothingFound):
                raise
            say(f"{found}; nothing is adapted")
            self._remember_gap(checked, False, str(found))
            return False
        return True

    def _stage(self, stage: str, jobs: list[Job]) -> None:
        """Run the jobs of a stage that are not finished."""
        waiting = [job for job in jobs if not self.state.finished(job)]
        if not waiting:
            say(f"{title(stage)}: finished before, skipped")
            if self.runs and not self.runs.complete(stage):  # tracked elsewhere, or killed there
                with self._tracked_stage(stage, self.sections[stage]):
                    pass
                before = sum(self.state.read(job)["seconds"] for job in jobs)
                self._log_stage(stage, jobs, before)
            return
        for job in waiting:
            self._say_changes(job)
        say(title(stage))
        start = time.monotonic()
        settings = self.sections[stage]
        with self._tracked_stage(stage, settings):
            for job in waiting:
                if not self.state.finished(job):
                    self._job(job)
        seconds = time.monotonic() - start
        say(f"{title(stage)}: done in {duration(seconds)}")
        if self.runs:
            self._log_stage(stage, jobs, seconds)

    def _job(self, job: Job) -> None:
        """Run one workflow.

        Raises:
            StageFailed: whatever it raised, as one line.
        """
        log = self.root / "logs" / f"{job.name.replace('/', '-')}.log"
        start = time.monotonic()
        self.state.start(job)
        try:
            run_workflow(job, self._overrides(job), log)
        except Exception as error:
            config = overlaid(job.config, job.settings)
            found = explained(error, config, str(job.folder))
            reason = str(found) if found else f"{type(error).__name__}: {_innermost(error)}"
            raise StageFailed(f"{job.name}: {reason} (log: {log})") from error
        if job.run_id == "test":  # scores tell of what they scored
            record = Path(str(job.paths["segmenter_dir"])) / "segmenter.json"
            _copy(record, job.folder / record.name)
        self.state.finish(job, time.monotonic() - start)

    def _overrides(self, job: Job) -> Facts:
        """What every workflow of this adaptation is told, and what only earlier stages know."""
        given: Facts = {
            "device": self.device,
            "mlflow": self.mlflow,
            "tracking_uri": self.tracking_uri,
            "experiment": self.experiment,
        }
        known = NEUTRAL[job.config.stem]
        overrides = {k: v for k, v in given.items() if k in known and k not in job.settings}
        if job.run_id == "segment":
            plain = not any(k.split("::")[0] == "network_def" for k in job.settings)
            if job.settings.get("init") == "source" and plain:
                segmenter = Stage1.load(str(job.paths["model_dir"])).segmenter
                overrides["network_def"] = without_pretrained(segmenter)
        return overrides

    # -- parts -------------------------------------------------------------------------------------

    def _folders(self) -> Folders:
        given = {"source": self.source, "references": self.references}
        inputs = {name: folder_hash(path) for name, path in given.items()}
        if self.test is not None:
            inputs["test"] = folder_hash(self.test)
        if self.model_dir is not None:
            inputs["model"] = bundle_hash(self.model_dir)
        return Folders(
            configs=self.configs,
            root=self.root,
            source=self.source,
            references=self.references,
            test=self.test,
            model_dir=self.model_dir,
            inputs=inputs,
        )

    def _scored(self, folders: Folders, checked: Facts) -> dict[str, Path]:
        """Where segmenters are scored: a score needs two images with foreground."""
        found = {}
        if checked["validation_with_foreground"] >= 2:
            found["validation"] = folders.validation
        if self.test is not None:
            found["test"] = self.test
        return found

    def _write_parts(self, folders: Folders, train: Facts) -> None:
        """The validation split, and folds of the annotated references, as data sets by paths."""
        cases = build_datalist(self.source, train["group_pattern"], train["group_column"])
        held_out = split_by_group(cases, train["validation_fraction"], train["seed"])[1]
        modality = next((case["modality"] for case in cases if "modality" in case), None)
        is_expression = isinstance(train["labels"], str)
        labels = stated_labels(self.source) if is_expression else train["labels"]
        stated = {"labels": labels, "modality": modality}
        stated = {key: value for key, value in stated.items() if value is not None}
        write_list(folders.validation, [{k: c[k] for k in CASE} for c in held_out], stated)
        for number, (fitted, scored) in enumerate(self._folds()):
            write_list(folders.fold(number, "fitted"), fitted, stated)
            write_list(folders.fold(number, "held_out"), scored, stated)

    def _folds(self) -> list[tuple[list[Facts], list[Facts]]]:
        """Annotated references to fit and to score, where no labelled images are given."""
        files = listed_files(self.references)
        cases = [{"image": i, "label": m, "group": i} for i, m in files if m is not None]
        if self.test is not None or len(cases) < FEWEST_TO_FOLD:
            return []
        return [
            ([c for k, c in enumerate(cases) if k % FOLDS != number], cases[number::FOLDS])
            for number in range(FOLDS)
        ]

    def _say_changes(self, job: Job) -> None:
        """Why a job that ran before runs again."""
        changed = self.state.changed(job)
        if changed:
            say(f"{job.name}: {', '.join(changed)} changed; runs again")

    def _verdict(self, plan: Plan, folders: Folders) -> Facts:
        """Judge, hand over the segmenter, and write both."""
        trained = {job.name for job in plan.jobs if job.stage == "segment"}
        seed = self.seeds[0]
        arms = [arm for arm in self.sections["arms"] if f"segmenters/{arm}-{seed}" in trained]
        found = judge(
            self.root, arms, self.seeds, self.hand_over, self.test, plan.folds, self.trial
        )
        name = f"{found['handed_over']}-{seed}"
        output = self.root / "segmenter"
        for path in (self.root / "segmenters" / name).glob("[!.]*"):  # a lock is hidden
            _copy(path, output / path.name)
        scores = self.root / "scores" / ("validation" if self.test is None else "test") / name
        for file in ("scores.json", "test.png"):
            (output / file).unlink(missing_ok=True)
            if (scores / file).is_file():
                _copy(scores / file, output / file)
        found["versions"] = versions()
        found["inputs_sha256"] = folders.inputs
        with replacing(folders.verdict) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        with replacing(self.root / "verdict.txt") as temporary:
            temporary.write_text("\n".join(found["text"]) + "\n", encoding="utf-8")
        self._picture(found, folders)
        return found

    def _picture(self, verdict: Facts, folders: Folders) -> None:
        """What the segmenters outline on images of the site, as `verdict.png`."""
        arms = [SOURCE] if verdict["answer"] in NOT_ADAPTED else [SOURCE, ADAPTED]
        segmenters = {}
        for arm in arms:
            chosen = "\n(handed over)" if arm == verdict["handed_over"] else ""
            segmenters[arm + chosen] = self.root / f"segmenters/{arm}-{self.seeds[0]}"
        site = self.test or self.references
        save_picture(self.root / "verdict.png", site, folders.models, segmenters, self.device)

    def _end(self, verdict: Facts, plan: Plan, seconds: float) -> None:
        """Log what came out, and say it."""
        if self.runs:
            self._log_verdict(verdict)
        say(f"done in {duration(seconds)}")
        say(f"verdict: {self.root / 'verdict.txt'}")
        for line in verdict["text"]:
            say(f"  {line}")
        for job in plan.jobs:
            if job.stage == "report":
                say(f"report: {job.folder / 'report.html'}")

    # -- tracking ----------------------------------------------------------------------------------

    def _tracked(self, folders: Folders) -> Runs | None:
        if not self.mlflow:
            return None
        params = {
            "source": str(self.source),
            "references": str(self.references),
            "test": str(self.test),
            "model_dir": str(self.model_dir),
            "seeds": self.seeds,
            "device": self.device,
        }
        tags = {f"{name}_sha256": digest for name, digest in folders.inputs.items()}
        tags["trial"] = str(self.trial).lower()
        return Runs(self.tracking_uri, self.experiment, self.root, params, tags)

    @contextlib.contextmanager
    def _tracked_stage(self, stage: str, settings: Facts) -> Iterator[None]:
        if self.runs is None:
            yield
            return
        with self.runs.stage(stage, settings):
            yield

    def _log_prepare(self, found: Facts, path: Path) -> None:
        if self.runs is None:
            return
        gap = found.get("separation", {}).get("spaces", {}).get("appearance", {})
        values = {
            "images": found["source"]["images"],
            "references": found["references"]["images"],
            "distance": gap.get("value"),
            "distance_by_chance": gap.get("floor_high"),
            "warnings": len(found["warnings"]),
        }
        self.runs.metrics("prepare", values)
        self.runs.artifacts("prepare", [path])

    def _log_stage(self, stage: str, jobs: Sequence[Job], seconds: float) -> None:
        """Figures and files of a finished stage."""
        assert self.runs is not None
        self.runs.metrics(stage, {"seconds": seconds} | stage_figures(self.root, stage))
        logs = [self.root / "logs" / f"{job.name.replace('/', '-')}.log" for job in jobs]
        files = {
            "infer": [job.folder / "contact_sheet.png" for job in jobs[:1]],
            "evaluate": [jobs[0].folder / "evaluation.json", jobs[0].folder / "metrics.png"],
        }
        self.runs.artifacts(stage, [*logs, *files.get(stage, [])])
        if stage == "align":
            aligned = [self.root / "aligned" / n for n in ("model.pt", "mask_model.pt", FILE)]
            self.runs.artifacts(stage, aligned, "generator")
        if stage == "distill":
            distilled = self.root / "distilled"
            students = [*distilled.glob("*student_*.pt"), distilled / "segmenter.pt"]
            self.runs.artifacts(stage, [*students, distilled / FILE], "student")
        for job in jobs if stage == "segment" else []:
            if job.run_id == "test":
                name, where = job.name.split("/")[1].rsplit("-", 1)
                dice = json.loads((job.folder / "scores.json").read_text(encoding="utf-8"))["dice"]
                key = {"validation": "source", "test": "site"}.get(where)
                if key is None:  # a fold
                    continue
                values = {f"{key}_dice": dice["mean"]}
                values |= {f"{key}_dice_{k}": dice[k] for k in ("low", "high")}
                self.runs.below("segment", name, values)

    def _log_verdict(self, verdict: Facts) -> None:
        """Log the verdict and the segmenter that is handed over."""
        assert self.runs is not None
        where = verdict["site"] or verdict["validation"]
        values: dict[str, float | None] = {}
        if where is not None:
            prefix = "site" if verdict["site"] else "source"
            values |= {f"{prefix}_dice_{arm}": dice / 100 for arm, dice in where["dice"].items()}
            gain = where["gains"].get(GAIN, {})
            keys = {"value": "", "low": "_low", "high": "_high"}
            values |= {f"{prefix}_gain_points{keys[k]}": gain.get(k) for k in keys}
        self.runs.finish(values, "\n\n".join(verdict["text"]))
        segmenter = [self.root / "segmenter" / name for name in ("segmenter.pt", "segmenter.json")]
        self.runs.artifacts("segment", segmenter, "segmenter")


def require_arms(arms: Facts, hand_over: str) -> None:
    """Raise `InputError` where the verdict could not be told of these segmenters."""
    wrong = [name for name, one in arms.items() if not isinstance(one, dict)]
    if wrong or not {SOURCE, ADAPTED} <= arms.keys() or list(arms)[-1] != ADAPTED:
        raise InputError(
            f'config "arms": {", ".join(arms)}; each is {{key: value}} of segment.json, "{SOURCE}" '
            f'is compared with "{ADAPTED}", which comes last'
        )
    if hand_over not in arms:
        raise InputError(f'config "hand_over": {hand_over!r}; set one of {", ".join(arms)}')


def require_keys(sections: Facts, configs: Path) -> None:
    """Refuse keys and values that a stage would refuse hours later.

    Raises:
        InputError: naming the section and the key.
    """
    named = [(name, name, sections[name]) for name in SECTIONS]
    named += [(f"arms.{arm}", "segment", one) for arm, one in sections["arms"].items()]
    for section, stage, settings in named:
        path = configs / f"{CONFIG_OF.get(stage, stage)}.json"
        if not path.is_file():
            continue
        known = [k for k in json.loads(path.read_text(encoding="utf-8")) if not k.startswith("_")]
        for key in settings:
            top = key.replace("#", "::").split("::")[0]
            if top not in known:
                raise InputError(
                    f"{section}.{key}: no key of {path.name}{_near(top, known)}; remove it"
                )
        check_limits(settings)


def stage_figures(root: Path, stage: str) -> dict[str, float | None]:
    """What a stage is compared by, from the records it wrote."""
    if stage == "align":
        record = json.loads((root / "aligned/align.json").read_text(encoding="utf-8"))
        kept = record["kept"]
        return {
            "kept_epoch": record["kept_epoch"],
            "left_out_before": record["before"]["left_out"],
        } | {name: value for name, value in kept.items() if isinstance(value, (int, float))}
    if stage == "evaluate":
        record = json.loads((root / "evaluation/evaluation.json").read_text(encoding="utf-8"))
        found = {
            f"{metric}_{name}": record["metrics"][metric][name]["value"]
            for metric in ("kid", "mmd", "fid")
            for name in record["metrics"].get(metric, {})
        }
        dice = record["faithfulness"]["dice"]
        return found | {f"faithfulness_{name}": one["mean"] for name, one in dice.items()}
    return {}


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def duration(seconds: float) -> str:
    """'40 s', '6 min', '2 h 10 min'."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def write_list(folder: Path, cases: Sequence[Facts], stated: Facts) -> None:
    """A data set that lists images and masks of another by their paths."""
    with replacing(folder / "dataset.json") as temporary:
        temporary.write_text(
            json.dumps({"training": cases, **stated}, indent=1) + "\n", encoding="utf-8"
        )


def _near(key: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean '{found[0]}'?)" if found else ""


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _innermost(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
