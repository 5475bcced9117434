"""The jobs of an adaptation, in their order, and what each reads from the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignflow.adaptation.jobs import Job, overlaid
from alignflow.stage1 import FILE, WEIGHTS

STAGES = ("prepare", "train", "align", "distill", "infer", "segment", "evaluate", "report")
BUNDLE_FILES = (FILE, *WEIGHTS.values())
SPLIT = ("group_pattern", "group_column", "validation_fraction")


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

    @property
    def verdict(self) -> Path:
        """The answer of the adaptation."""
        return self.root / "verdict.json"


class Plan:
    """All jobs but the first one, `prepare`.

    Args:
        folders: of the adaptation.
        sections: overrides of each stage's config, and "arms", those of each segmenter.
        seeds: numbers of the trainings of each arm.
        scored: {"validation": folder, "test": folder}: where segmenters are scored.
    """

    def __init__(
        self,
        folders: Folders,
        sections: Mapping[str, Any],
        seeds: list[int],
        scored: Mapping[str, Path],
    ) -> None:
        self.folders = folders
        self.sections = sections
        self.seeds = seeds
        self.scored = scored
        self.split = {
            key: value for key in SPLIT if (value := self.value("train", "train", key)) is not None
        } | {"split_seed": self.value("train", "train", "seed")}
        self.jobs: list[Job] = []
        train = self.train() if folders.model_dir is None else None
        align = self.align(train)
        distill = self.distill(align)
        pairs = self.pairs("aligned", folders.root / "distilled", [distill])
        unaligned = self.pairs("unaligned", folders.models, [train] if train else [])
        for arm in sections["arms"]:
            for seed in seeds:
                self.arm(arm, seed, train, pairs)
        segment = [job for job in self.jobs if job.stage == "segment"]
        evaluate = self.evaluate(train, pairs, unaligned)
        self.report([*segment, evaluate])

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
        get = overlaid(self.config("train"), settings).__getitem__
        steps = get("steps_per_epoch")
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
                work={
                    "image flow": get("image_epochs") * steps,
                    "mask flow": get("mask_epochs") * steps,
                    "segmenter": get("segmenter_epochs") * steps,
                },
            )
        )

    def align(self, train: Job | None) -> Job:
        """The image flow fitted to the references."""
        folders, settings = self.folders, self.sections["align"]
        get = overlaid(self.config("align"), settings).__getitem__
        output = folders.root / "aligned"
        return self.add(
            Job(
                name="align",
                stage="align",
                config=self.config("align"),
                run_id="align",
                folder=output,
                settings=settings,
                paths={
                    "model_dir": str(folders.models),
                    "reference_dir": str(folders.references),
                    "output_dir": str(output),
                },
                inputs={"references": folders.inputs["references"]},
                after=[train] if train else [],
                results=(*BUNDLE_FILES, "align.json"),
                work={
                    "drawing masks": -(-get("num_masks") // 32),
                    "alignment": get("epochs") * get("steps_per_epoch"),
                },
            )
        )

    def distill(self, align: Job) -> Job:
        """Students of the aligned flows."""
        settings = self.sections["distill"]
        get = overlaid(self.config("distill"), settings).__getitem__
        steps, output = get("steps_per_epoch"), self.folders.root / "distilled"
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
                work={
                    "image student": sum(get("student_epochs")) * steps,
                    "mask student": sum(get("mask_student_epochs")) * steps,
                },
            )
        )

    def pairs(self, name: str, model_dir: Path, after: list[Job]) -> Job:
        """Image-mask pairs of a bundle; only the distilled one has students."""
        settings = dict(self.sections["infer"])
        if name == "unaligned":
            settings = {k: v for k, v in settings.items() if "student" not in k}
        output = self.folders.root / "pairs" / name
        return self.add(
            Job(
                name=f"infer/{name}",
                stage="infer",
                config=self.config("inference"),
                run_id="infer",
                folder=output,
                settings=settings,
                paths={"model_dir": str(model_dir), "output_dir": str(output)},
                inputs={},
                after=after,
                results=("provenance.json", "dataset.json"),
                work={"pairs": overlaid(self.config("inference"), settings)["num_pairs"]},
            )
        )

    def arm(self, arm: str, seed: int, train: Job | None, pairs: Job) -> None:
        """A segmenter, and its scores."""
        folders, name = self.folders, f"{arm}-{seed}"
        settings = self.sections["segment"] | self.sections["arms"][arm] | self.split
        get = overlaid(self.config("segment"), settings).__getitem__
        with_pairs = "pairs_dir" not in settings
        settings = {k: v for k, v in settings.items() if k != "pairs_dir"}
        after = [job for job in (train, pairs if with_pairs else None) if job is not None]
        output = folders.root / "segmenters" / name
        job = self.add(
            Job(
                name=f"segment/{name}",
                stage="segment",
                config=self.config("segment"),
                run_id="segment",
                folder=output,
                settings=settings | {"seed": seed},
                paths={
                    "model_dir": str(folders.models),
                    "dataset_dir": str(folders.source),
                    "pairs_dir": str(pairs.folder) if with_pairs else None,
                    "output_dir": str(output),
                },
                inputs={"source": folders.inputs["source"]},
                after=after,
                results=("segmenter.json", "segmenter.pt"),
                work={"segmenter": get("epochs") * get("steps_per_epoch")},
            )
        )
        for where, directory in self.scored.items():
            self.score(name, where, directory, job, get("inferer_mode"), get("grid_size"))

    def score(
        self, name: str, where: str, directory: Path, segmenter: Job, mode: str, grid: Any
    ) -> Job:
        """Dice of a segmenter on labelled images."""
        output = self.folders.root / "scores" / where / name
        return self.add(
            Job(
                name=f"score/{name}-{where}",
                stage="segment",
                config=self.config("segment"),
                run_id="test",
                folder=output,
                settings={"inferer_mode": mode, "grid_size": grid},
                paths={
                    "model_dir": str(self.folders.models),
                    "segmenter_dir": str(segmenter.folder),
                    "test_dir": str(directory),
                    "output_dir": str(output),
                },
                inputs={k: h for k, h in self.folders.inputs.items() if k == where},
                after=[segmenter],
                results=("scores.json",),
                work={"scoring": 1},
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
                work={"evaluation": 1},
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
                work={"report": 1},
            )
        )
