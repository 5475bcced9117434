"""The jobs of an adaptation, in their order, and what each reads from the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignflow.adaptation.jobs import Job, overlaid
from alignflow.stage1 import FILE, WEIGHTS

STAGES = ("prepare", "train", "align", "infer", "segment", "distill", "evaluate", "report")
BUNDLE_FILES = (FILE, *WEIGHTS.values())
SPLIT = ("group_pattern", "group_column", "validation_fraction")


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
        inputs: "source", "references", "test", "model" -> hash of what is given.
    """

    configs: Path
    root: Path
    source: Path
    references: Path
    test: Path | None
    model_dir: Path | None
    inputs: dict[str, str]

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


class Plan:
    """All jobs but the first one, `prepare`.

    References without masks are labelled by a segmenter: first by one trained on the source in the
    style of the references, then by that of each round, which has learned from its pairs. The
    rounds before the last one lie in `rounds/` and belong to the stage `align`.

    Args:
        folders: of the adaptation.
        sections: overrides of each stage's config, and "arms", those of each segmenter.
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
        self.split = {
            key: value for key in SPLIT if (value := self.value("train", "train", key)) is not None
        } | {"split_seed": self.value("train", "train", "seed")}
        self.folds = folds
        self.jobs: list[Job] = []
        train = self.train() if folders.model_dir is None else None
        aligned = self.rounds(rounds, train) if adapt else None
        pairs = None if aligned is None else self.pairs("pairs/aligned", aligned)
        for arm, settings in sections["arms"].items():
            if pairs is not None or not reads_pairs(settings):
                for seed in seeds:
                    self.arm(arm, seed, train, pairs)
        for number in range(folds if adapt else 0):
            self.fold(number, train)
        after = [job for job in self.jobs if job.stage == "segment"]
        if aligned is not None and pairs is not None:
            self.distill(aligned)
            unaligned = self.pairs("pairs/unaligned", train)
            self.report([*after, self.evaluate(train, pairs, unaligned)])

    def rounds(self, rounds: int, train: Job | None) -> Job:
        """Alignments, each with the labeller of the one before; returns the last."""
        labeller = None
        if rounds:
            labeller = self.segmenter("rounds/0/segmenter", "align", "labeller", train)
        for number in range(1, rounds):
            aligned = self.align(f"rounds/{number}/aligned", train, labeller)
            pairs = self.pairs(f"rounds/{number}/pairs", aligned, "align")
            name = f"rounds/{number}/segmenter"
            labeller = self.segmenter(name, "align", "adapted", train, pairs)
        return self.align("aligned", train, labeller)

    def value(self, stage: str, config: str, key: str) -> Any:
        """Of a key at the top of a stage's config, with the overrides."""
        return overlaid(self.config(config), self.sections[stage])[key]

    def config(self, name: str) -> Path:
        """Path of a bundle config."""
        return self.folders.configs / f"{name}.json"

    def add(self, job: Job) -> Job:
        """Take a job in; a bundle that is given counts as input of whatever reads `models`."""
        given = self.folders.inputs
        reads_models = str(self.folders.models) in job.paths.values()
        if self.folders.model_dir is not None and reads_models:
            job.inputs["model"] = given["model"]
        self.jobs.append(job)
        return job

    # -- stages ------------------------------------------------------------------------------------

    def train(self) -> Job:
        """Stage 1 on the source."""
        folders, settings = self.folders, self.sections["train"]
        return self.add(
            Job(
                name="train",
                stage="train",
                config=self.config("train"),
                run_id="training",
                folder=folders.models,
                settings=settings,
                paths={"dataset_dir": str(folders.source), "output_dir": str(folders.models)},
                inputs={"source": folders.inputs["source"]},
                results=BUNDLE_FILES,
            )
        )

    def fold(self, number: int, train: Job | None) -> None:
        """The source's segmenter, and one adapted to the other folds, scored on this fold."""
        seed, name, fitted = self.seeds[0], f"folds/{number}", self.folders.fold(number, "fitted")
        aligned = self.align(f"{name}/aligned", train, None, "segment", fitted)
        pairs = self.pairs(f"{name}/pairs", aligned, "segment")
        adapted = self.segmenter(
            f"{name}/segmenter", "segment", "adapted", train, pairs, references=fitted
        )
        source = next(job for job in self.jobs if job.name == f"segmenters/source-{seed}")
        held_out = self.folders.fold(number, "held_out")
        for arm, job in (("source", source), ("adapted", adapted)):
            self.score(f"{arm}-{seed}", name, held_out, job, "references")

    def align(
        self,
        name: str,
        train: Job | None,
        labeller: Job | None,
        stage: str = "align",
        references: Path | None = None,
    ) -> Job:
        """The image flow fitted to the references, in the folder of this name."""
        folders, settings = self.folders, self.sections["align"]
        output = folders.root / name
        return self.add(
            Job(
                name="align" if name == "aligned" else name,
                stage=stage,
                config=self.config("align"),
                run_id="align",
                folder=output,
                settings=settings,
                paths={
                    "model_dir": str(folders.models),
                    "reference_dir": str(references or folders.references),
                    "labeller_dir": None if labeller is None else str(labeller.folder),
                    "output_dir": str(output),
                },
                inputs={"references": folders.inputs["references"]},
                after=[job for job in (train, labeller) if job is not None],
                results=(*BUNDLE_FILES, "align.json"),
            )
        )

    def distill(self, align: Job) -> Job:
        """Students of the aligned flows."""
        settings = self.sections["distill"]
        output = self.folders.root / "distilled"
        return self.add(
            Job(
                name="distill",
                stage="distill",
                config=self.config("distill"),
                run_id="distill",
                folder=output,
                settings=settings,
                paths={
                    "model_dir": str(self.folders.root / "aligned"),
                    "output_dir": str(output),
                },
                inputs={},
                after=[align],
                results=(*BUNDLE_FILES, "distill.json"),
            )
        )

    def pairs(self, name: str, generator: Job | None, stage: str = "infer") -> Job:
        """Image-mask pairs of a generator, the given bundle's without one, in this folder."""
        settings, output = self.sections["infer"], self.folders.root / name
        model_dir = self.folders.models if generator is None else generator.folder
        return self.add(
            Job(
                name=name,
                stage=stage,
                config=self.config("inference"),
                run_id="infer",
                folder=output,
                settings=settings,
                paths={"model_dir": str(model_dir), "output_dir": str(output)},
                inputs={},
                after=[] if generator is None else [generator],
                results=("provenance.json", "dataset.json"),
            )
        )

    def arm(self, arm: str, seed: int, train: Job | None, pairs: Job | None) -> None:
        """A segmenter, and its scores."""
        name = f"{arm}-{seed}"
        job = self.segmenter(f"segmenters/{name}", "segment", arm, train, pairs, seed)
        for where, directory in self.scored.items():
            self.score(name, where, directory, job)

    def segmenter(
        self,
        name: str,
        stage: str,
        arm: str,
        train: Job | None,
        pairs: Job | None = None,
        seed: int | None = None,
        references: Path | None = None,
    ) -> Job:
        """A segmenter of an arm, or the "labeller", in the folder of this name."""
        folders = self.folders
        own = self.sections["labeller"] if arm == "labeller" else self.sections["arms"][arm]
        settings = self.sections["segment"] | own | self.split
        pairs = pairs if reads_pairs(settings) else None
        given = {"source": folders.inputs["source"]}
        if "reference_dir" not in settings:
            given["references"] = folders.inputs["references"]
        settings = {k: v for k, v in settings.items() if k not in ("pairs_dir", "reference_dir")}
        output = folders.root / name
        return self.add(
            Job(
                name=name,
                stage=stage,
                config=self.config("segment"),
                run_id="segment",
                folder=output,
                settings=settings | {"seed": self.seeds[0] if seed is None else seed},
                paths={
                    "model_dir": str(folders.models),
                    "dataset_dir": str(folders.source),
                    "pairs_dir": None if pairs is None else str(pairs.folder),
                    "reference_dir": str(references or folders.references)
                    if "references" in given
                    else None,
                    "output_dir": str(output),
                },
                inputs=given,
                after=[job for job in (train, pairs) if job is not None],
                results=("segmenter.json", "segmenter.pt"),
            )
        )

    def score(self, name: str, where: str, directory: Path, segmenter: Job, given: str = "") -> Job:
        """Dice of a segmenter on labelled images, part of the input `given`, else `where`."""
        output = self.folders.root / "scores" / where / name
        get = overlaid(segmenter.config, segmenter.settings).__getitem__
        return self.add(
            Job(
                name=f"score/{name}-{where}",
                stage="segment",
                config=self.config("segment"),
                run_id="test",
                folder=output,
                settings={key: get(key) for key in ("inferer_mode", "grid_size")},
                paths={
                    "model_dir": str(self.folders.models),
                    "segmenter_dir": str(segmenter.folder),
                    "test_dir": str(directory),
                    "output_dir": str(output),
                },
                inputs={k: h for k, h in self.folders.inputs.items() if k == (given or where)},
                after=[segmenter],
                results=("scores.json",),
            )
        )

    def evaluate(self, train: Job | None, pairs: Job, unaligned: Job) -> Job:
        """The pairs against real images of the site."""
        folders, output = self.folders, self.folders.root / "evaluation"
        test = {"test": folders.inputs["test"]} if folders.test else {}
        return self.add(
            Job(
                name="evaluate",
                stage="evaluate",
                config=self.config("evaluate"),
                run_id="evaluate",
                folder=output,
                settings=self.sections["evaluate"],
                paths={
                    "model_dir": str(folders.models),
                    "pairs_dir": str(pairs.folder),
                    "unaligned_dir": str(unaligned.folder),
                    "reference_dir": str(folders.references),
                    "target_dir": None if folders.test is None else str(folders.test),
                    "dataset_dir": str(folders.source),
                    "output_dir": str(output),
                },
                inputs={k: folders.inputs[k] for k in ("source", "references")} | test,
                after=[job for job in (train, pairs, unaligned) if job is not None],
                results=("evaluation.json",),
            )
        )

    def report(self, after: list[Job]) -> None:
        """The page for people."""
        folders, output = self.folders, self.folders.root / "report"
        scored = [job.folder for job in self.jobs if job.run_id == "test"]
        site = [str(folder) for folder in scored if folder.parent.name == "test"]
        self.add(
            Job(
                name="report",
                stage="report",
                config=self.config("report"),
                run_id="report",
                folder=output,
                settings=self.sections["report"],
                paths={
                    "source_dir": str(folders.source),
                    "reference_dir": str(folders.references),
                    "model_dir": str(folders.models),
                    "aligned_dir": str(folders.root / "aligned"),
                    "unaligned_pairs": str(folders.root / "pairs/unaligned"),
                    "aligned_pairs": str(folders.root / "pairs/aligned"),
                    "evaluation_dir": str(folders.root / "evaluation"),
                    "segment_dir": site or None,
                    "target_dir": None if folders.test is None else str(folders.test),
                    "verdict": str(folders.verdict),
                    "output": str(output / "report.html"),
                },
                inputs={k: folders.inputs[k] for k in ("source", "references")},
                after=after,
                results=("report.html",),
            )
        )


def reads_pairs(settings: Mapping[str, Any]) -> bool:
    """Whether a segmenter of these settings gets synthetic pairs: unless "pairs_dir" is null."""
    return "pairs_dir" not in settings
