"""The jobs of an adaptation in the order of its stages, and their dependencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from alignflow.adaptation.jobs import Job, bundle_hash, folder_hash, overlaid
from alignflow.stage1 import FILE, WEIGHTS

STAGES = ("prepare", "train", "align", "infer", "segment", "distill", "evaluate", "report")
BUNDLE_FILES = (FILE, *WEIGHTS.values())
SECTIONS = ("train", "align", "distill", "infer", "segment", "labeller", "evaluate", "report")
"""Sections of `adapt.json` with overrides for the configs of workflows."""
CONFIG_OF = {"infer": "inference", "labeller": "segment"}
"""Config of a section, if it has another name."""
SPLIT = ("group_pattern", "group_column", "validation_fraction")
Paths = Mapping[str, Job | Path | list[str] | None]


def title(stage: str) -> str:
    """'stage 3 of 8: align'."""
    return f"stage {STAGES.index(stage) + 1} of {len(STAGES)}: {stage}"


@dataclass(frozen=True)
class Folders:
    """The folders of an adaptation.

    Attributes:
        configs: the bundle's configs.
        root: folder of the adaptation.
        source, references: data.
        test: labelled images of the site, or None.
        model_dir: a trained bundle, or None.
    """

    configs: Path
    root: Path
    source: Path
    references: Path
    test: Path | None
    model_dir: Path | None

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Hashes of the inputs: "source", "references", "test", "model"."""
        given = {"source": self.source, "references": self.references, "test": self.test}
        hashes = {name: folder_hash(path) for name, path in given.items() if path is not None}
        if self.model_dir is not None:
            hashes["model"] = bundle_hash(self.model_dir)
        return hashes

    @property
    def models(self) -> Path:
        """The unaligned bundle."""
        return self.root / "models" if self.model_dir is None else self.model_dir

    @property
    def validation(self) -> Path:
        """The source's validation split, as a data set."""
        return self.root / "prepare/validation"

    def fold(self, number: int, part: str) -> Path:
        """Data set of a fold: annotated references to fit ("fitted") or score ("held_out")."""
        return self.root / f"prepare/folds/{number}/{part}"

    @property
    def verdict(self) -> Path:
        """File of the verdict."""
        return self.root / "verdict.json"


def prepare(folders: Folders, train: Mapping[str, Any]) -> Job:
    """The job that checks the data; it depends on all plain values in `train.json`.

    Args:
        folders: see `Folders`.
        train: content of `train.json` with its overrides.
    """
    plain = {k: v for k, v in train.items() if isinstance(v, (int, float, str, list))}
    return Job(
        name="prepare",
        stage="prepare",
        config=folders.configs / "train.json",
        run_id="",
        folder=folders.root / "prepare",
        settings={k: plain[k] for k in sorted(plain) if not str(plain[k]).startswith(("$", "@"))},
        paths={},
        inputs=folders.inputs,
        results=("check.json",),
    )


class Plan:
    """All jobs except the first, `prepare`.

    References without masks are labelled by a segmenter: in the first round by one trained on the
    source in the style of the references, then by one trained on the pairs of the previous round.
    All rounds except the last are in `rounds/` and belong to the stage `align`.

    Args:
        folders: see `Folders`.
        sections: overrides of each stage's config, and "arms", the overrides of each segmenter.
            Nothing is distilled if distill's "student_steps" is empty.
        seeds: seeds of the trainings of each arm.
        scored: {"validation": folder, "test": folder}, on which segmenters are scored.
        rounds: number of rounds of pseudo-masks; 0 if all references have masks.
        folds: number of folds of the annotated references, 0 for none. The adapted segmenter is
            trained without each fold, and scored on it together with the source segmenter.
        adapt: false if nothing is adapted; then only arms without pairs are trained, and there is
            no report.
    """

    def __init__(
        self,
        folders: Folders,
        sections: Mapping[str, Any],
        seeds: list[int],
        scored: Mapping[str, Path],
        rounds: int,
        folds: int = 0,
        adapt: bool = True,
    ) -> None:
        self.folders = folders
        self.sections = sections
        self.seeds = seeds
        self.scored = scored
        self.folds = folds
        trained = overlaid(folders.configs / "train.json", sections["train"])
        self.split = {key: trained[key] for key in SPLIT if trained[key] is not None}
        self.split["split_seed"] = trained["seed"]
        self.jobs: list[Job] = []

        self.models: Job | Path = folders.models if folders.model_dir else self.train()
        if not adapt:
            self.arms(None)
            return
        aligned = self.rounds(rounds)
        pairs = self.pairs("pairs/aligned", aligned)
        self.arms(pairs)
        for number in range(folds):
            self.fold(number)
        segmented = self.of("segment")
        if sections["distill"].get("student_steps") != []:
            self.distill(aligned)
        evaluation = self.evaluate(pairs, self.pairs("pairs/unaligned", self.models))
        self.report([*segmented, evaluation])

    def of(self, stage: str) -> list[Job]:
        """The jobs of a stage."""
        return [job for job in self.jobs if job.stage == stage]

    def train(self) -> Job:
        """Training of stage 1 on the source."""
        paths = {"dataset_dir": self.folders.source}
        return self.add(
            "train", paths, BUNDLE_FILES, run_id="training", folder="models", inputs=["source"]
        )

    def rounds(self, rounds: int) -> Job:
        """Alignments, each with the labeller of the previous round; returns the last."""
        labeller = None
        if rounds:
            labeller = self.segmenter("rounds/0/segmenter", "align", "labeller")
        for number in range(1, rounds):
            aligned = self.align(f"rounds/{number}/aligned", labeller)
            pairs = self.pairs(f"rounds/{number}/pairs", aligned, "align")
            name = f"rounds/{number}/segmenter"
            labeller = self.segmenter(name, "align", "adapted", pairs)
        return self.align("aligned", labeller)

    def align(
        self,
        name: str,
        labeller: Job | None,
        stage: str = "align",
        references: Path | None = None,
    ) -> Job:
        """Alignment of the image flow to the references, in the folder of this name."""
        paths = {
            "model_dir": self.models,
            "reference_dir": references or self.folders.references,
            "labeller_dir": labeller,
        }
        return self.add(
            "align" if name == "aligned" else name,
            paths,
            (*BUNDLE_FILES, "align.json"),
            stage=stage,
            workflow="align",
            folder=name,
            inputs=["references"],
        )

    def pairs(self, name: str, generator: Job | Path, stage: str = "infer") -> Job:
        """Image-mask pairs of a generator, in the folder of this name."""
        return self.add(
            name,
            {"model_dir": generator},
            ("provenance.json", "dataset.json"),
            stage=stage,
            workflow="infer",
        )

    def arms(self, pairs: Job | None) -> None:
        """The segmenters to compare, and their scores; without pairs, only those that need none."""
        for arm, settings in self.sections["arms"].items():
            for seed in self.seeds if pairs or not reads_pairs(settings) else []:
                name = f"{arm}-{seed}"
                job = self.segmenter(f"segmenters/{name}", "segment", arm, pairs, seed)
                for where, directory in self.scored.items():
                    inputs = ["test"] if where == "test" else []
                    self.score(name, where, directory, job, inputs)

    def fold(self, number: int) -> None:
        """Score the source segmenter, and one adapted to the other folds, on this fold."""
        seed, name, fitted = self.seeds[0], f"folds/{number}", self.folders.fold(number, "fitted")
        aligned = self.align(f"{name}/aligned", None, "segment", fitted)
        pairs = self.pairs(f"{name}/pairs", aligned, "segment")
        adapted = self.segmenter(
            f"{name}/segmenter", "segment", "adapted", pairs, references=fitted
        )
        source = next(job for job in self.jobs if job.name == f"segmenters/source-{seed}")
        held_out = self.folders.fold(number, "held_out")
        for arm, job in (("source", source), ("adapted", adapted)):
            self.score(f"{arm}-{seed}", name, held_out, job, ["references"])

    def segmenter(
        self,
        name: str,
        stage: str,
        arm: str,
        pairs: Job | None = None,
        seed: int | None = None,
        references: Path | None = None,
    ) -> Job:
        """Train a segmenter of an arm, or the "labeller", in the folder of this name."""
        folders = self.folders
        own = self.sections["labeller"] if arm == "labeller" else self.sections["arms"][arm]
        settings = self.sections["segment"] | own | self.split
        pairs = pairs if reads_pairs(settings) else None
        reads_references = "reference_dir" not in settings
        settings = {k: v for k, v in settings.items() if k not in ("pairs_dir", "reference_dir")}
        paths = {
            "model_dir": self.models,
            "dataset_dir": folders.source,
            "pairs_dir": pairs,
            "reference_dir": references or folders.references if reads_references else None,
        }
        return self.add(
            name,
            paths,
            ("segmenter.json", "segmenter.pt"),
            stage=stage,
            workflow="segment",
            settings=settings | {"seed": self.seeds[0] if seed is None else seed},
            inputs=["source", "references"] if reads_references else ["source"],
        )

    def score(
        self, name: str, where: str, directory: Path, segmenter: Job, inputs: list[str]
    ) -> None:
        """Score a segmenter on labelled images, which are part of these inputs."""
        content = overlaid(segmenter.config, segmenter.settings)
        paths: Paths = {
            "model_dir": self.folders.models,
            "segmenter_dir": segmenter,
            "test_dir": directory,
        }
        self.add(
            f"score/{name}-{where}",
            paths,
            ("scores.json",),
            workflow="segment",
            run_id="test",
            settings={key: content[key] for key in ("inferer_mode", "grid_size")},
            folder=f"scores/{where}/{name}",
            inputs=inputs,
        )

    def distill(self, aligned: Job) -> None:
        """Distil the aligned flows."""
        results = (*BUNDLE_FILES, "distill.json")
        self.add("distill", {"model_dir": aligned}, results, folder="distilled")

    def evaluate(self, pairs: Job, unaligned: Job) -> Job:
        """Compare the pairs with real images of the site."""
        folders = self.folders
        paths = {
            "model_dir": self.models,
            "pairs_dir": pairs,
            "unaligned_dir": unaligned,
            "reference_dir": folders.references,
            "target_dir": folders.test,
            "dataset_dir": folders.source,
        }
        return self.add(
            "evaluate",
            paths,
            ("evaluation.json",),
            folder="evaluation",
            inputs=["source", "references", "test"] if folders.test else ["source", "references"],
        )

    def report(self, after: list[Job]) -> None:
        """Write the report."""
        folders, root = self.folders, self.folders.root
        scored = [job.folder for job in self.jobs if job.run_id == "test"]
        site = [str(folder) for folder in scored if folder.parent.name == "test"]
        paths: Paths = {
            "source_dir": folders.source,
            "reference_dir": folders.references,
            "model_dir": folders.models,
            "aligned_dir": root / "aligned",
            "unaligned_pairs": root / "pairs/unaligned",
            "aligned_pairs": root / "pairs/aligned",
            "evaluation_dir": root / "evaluation",
            "segment_dir": site or None,
            "target_dir": folders.test,
            "verdict": folders.verdict,
            "output": root / "report/report.html",
        }
        self.add("report", paths, ("report.html",), inputs=["source", "references"], after=after)

    def add(
        self,
        name: str,
        paths: Paths,
        results: tuple[str, ...],
        *,
        workflow: str | None = None,
        stage: str | None = None,
        run_id: str | None = None,
        settings: dict[str, Any] | None = None,
        folder: str | None = None,
        inputs: Sequence[str] = (),
        after: Sequence[Job] = (),
    ) -> Job:
        """Add a job. A given bundle is an input of every job that reads `models`.

        Args:
            name, results: name and result files of the job.
            paths: path overrides. A job means its folder, and runs before this job. `output_dir` is
                added unless there is an `output`.
            workflow: section of `adapt.json`; by default the name.
            stage, run_id: by default the workflow.
            settings: by default those of the section.
            folder: output folder, relative to that of the adaptation; by default the name.
            inputs: names in `Folders.inputs`.
            after: other jobs whose results it reads.
        """
        folders, workflow = self.folders, workflow or name
        output = folders.root / (folder or name)
        after = [*after, *(value for value in paths.values() if isinstance(value, Job))]
        if folders.model_dir is not None and folders.models in paths.values():
            inputs = [*inputs, "model"]
        if "output" not in paths:
            paths = {**paths, "output_dir": output}
        job = Job(
            name=name,
            stage=stage or workflow,
            config=folders.configs / f"{CONFIG_OF.get(workflow, workflow)}.json",
            run_id=run_id or workflow,
            folder=output,
            settings=self.sections[workflow] if settings is None else settings,
            paths={key: _plain(value) for key, value in paths.items()},
            inputs={key: folders.inputs[key] for key in inputs},
            after=after,
            results=results,
        )
        self.jobs.append(job)
        return job


def reads_pairs(settings: Mapping[str, Any]) -> bool:
    """Whether a segmenter uses synthetic pairs; not if its settings have "pairs_dir"."""
    return "pairs_dir" not in settings


def _plain(value: Job | Path | list[str] | None) -> str | list[str] | None:
    """The value for a config."""
    value = value.folder if isinstance(value, Job) else value
    return str(value) if isinstance(value, Path) else value
