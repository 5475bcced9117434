"""The jobs of an adaptation in the order of its stages, and what each reads from the others."""

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
"""Overrides of the configs of workflows, in `adapt.json`."""
CONFIG_OF = {"infer": "inference", "labeller": "segment"}
"""Config of a section where it has another name."""
SPLIT = ("group_pattern", "group_column", "validation_fraction")
Paths = Mapping[str, Job | Path | list[str] | None]


def title(stage: str) -> str:
    """'stage 3 of 8: align'."""
    return f"stage {STAGES.index(stage) + 1} of {len(STAGES)}: {stage}"


@dataclass(frozen=True)
class Folders:
    """What an adaptation works on.

    Attributes:
        configs: the bundle's configs.
        root: of the adaptation.
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
        """Hashes of what is given: "source", "references", "test", "model"."""
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
        """Annotated references of a fold to fit ("fitted") or to score ("held_out"), a data set."""
        return self.root / f"prepare/folds/{number}/{part}"

    @property
    def verdict(self) -> Path:
        """The answer of the adaptation."""
        return self.root / "verdict.json"


def prepare(folders: Folders, train: Mapping[str, Any]) -> Job:
    """The check of the data, which depends on all that `train.json` states literally.

    Args:
        folders: of the adaptation.
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
    """All jobs but the first one, `prepare`.

    References without masks are labelled by a segmenter: first by one trained on the source in the
    style of the references, then by that of each round, which has learned from its pairs. The
    rounds before the last one lie in `rounds/` and belong to the stage `align`.

    Args:
        folders: of the adaptation.
        sections: overrides of each stage's config, and "arms", those of each segmenter. Without
            "student_steps" nothing is distilled.
        seeds: numbers of the trainings of each arm.
        scored: {"validation": folder, "test": folder}: where segmenters are scored.
        rounds: of pseudo-masks; 0 where all references have masks.
        folds: of the annotated references: the adapted segmenter is made again without those of
            each fold, and scored on them beside the source's; 0 for none.
        adapt: false where nothing is adapted: then only arms without pairs are trained, and there
            is no report.
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
        """Stage 1 on the source."""
        paths = {"dataset_dir": self.folders.source}
        return self.add(
            "train", paths, BUNDLE_FILES, run_id="training", folder="models", inputs=["source"]
        )

    def rounds(self, rounds: int) -> Job:
        """Alignments, each with the labeller of the one before; returns the last."""
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
        """The image flow fitted to the references, in the folder of this name."""
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
        """The segmenters that are compared, and their scores: without pairs, only some."""
        for arm, settings in self.sections["arms"].items():
            for seed in self.seeds if pairs or not reads_pairs(settings) else []:
                name = f"{arm}-{seed}"
                job = self.segmenter(f"segmenters/{name}", "segment", arm, pairs, seed)
                for where, directory in self.scored.items():
                    inputs = ["test"] if where == "test" else []
                    self.score(name, where, directory, job, inputs)

    def fold(self, number: int) -> None:
        """The source's segmenter, and one adapted to the other folds, scored on this fold."""
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
        """A segmenter of an arm, or the "labeller", in the folder of this name."""
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
        """Dice of a segmenter on labelled images, which are part of these inputs."""
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
        """Students of the aligned flows."""
        results = (*BUNDLE_FILES, "distill.json")
        self.add("distill", {"model_dir": aligned}, results, folder="distilled")

    def evaluate(self, pairs: Job, unaligned: Job) -> Job:
        """The pairs against real images of the site."""
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
        """The page for people."""
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
        """Take a job in; a bundle that is given counts as input of whatever reads `models`.

        Args:
            name, results: of the job.
            paths: overrides; a job stands for its folder, and comes before this one. `output_dir`
                is added unless there is an `output`.
            workflow: its section of `adapt.json`; the name by default.
            stage, run_id: the workflow by default.
            settings: those of the section by default.
            folder: of the result, below the adaptation's; the name by default.
            inputs: names in `Folders.inputs`.
            after: jobs that it reads besides those of `paths`.
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
    """Whether a segmenter of these settings gets synthetic pairs: unless "pairs_dir" is null."""
    return "pairs_dir" not in settings


def _plain(value: Job | Path | list[str] | None) -> str | list[str] | None:
    """As a config holds it."""
    value = value.folder if isinstance(value, Job) else value
    return str(value) if isinstance(value, Path) else value
