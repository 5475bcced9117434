"""One (source, target) pair: its folders, and what the bundle's workflows make of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import reading
import splits
from stages import Cache, Settings, config_hash, run_here, run_workflow
from to_source import score_carried


@dataclass(frozen=True)
class Job:
    """One run of one arm: one file of results.

    Attributes:
        pair: name of (source, target).
        arm: name in `arms.ARMS`.
        references: their number; None for an arm that uses none.
        seed: of the segmenter.
        draw: which references; None for an arm that uses none.
    """

    pair: str
    arm: str
    references: int | None
    seed: int
    draw: int | None

    @property
    def name(self) -> str:
        """Of the result's file, without suffix."""
        count = "" if self.references is None else f"-n{self.references}-draw{self.draw}"
        return f"{self.arm}{count}-seed{self.seed}"


class Bench:
    """Builds what the arms need, each thing once.

    Args:
        source, target: the sites.
        cache: of stages.
        settings: overrides of each workflow, and the arms' own.

    Raises:
        InputError: a folder that cannot be read or split.
    """

    def __init__(
        self,
        source: splits.Site,
        target: splits.Site,
        cache: Cache,
        settings: Mapping[str, Settings],
    ) -> None:
        self.cache = cache
        self.settings = settings
        self.source_site = source
        self.source = splits.split_source(source.cases(), splits.VALIDATION_SHARE)
        self.target = splits.split_target(target.cases())

    # -- folders -----------------------------------------------------------------------------------

    @cached_property
    def source_dir(self) -> Path:
        """Labelled source images, with the split of stage 1."""
        train, validation = self.source.train, self.source.validation
        content = {"train": splits.fingerprint(train), "validation": splits.fingerprint(validation)}
        like = self.source_site.directory
        return self.cache.make(
            "data",
            content,
            lambda folder, _: splits.link_pairs(folder, train, validation, like),
            wait=True,
        )

    @cached_property
    def test_dir(self) -> Path:
        """Target images that score all arms."""
        return self.linked(self.target.test)

    @cached_property
    def train_dir(self) -> Path:
        """The source's training images without its validation images."""
        return self.linked(self.source.train)

    @cached_property
    def pool_dir(self) -> Path:
        """All labelled target images except the test images."""
        return self.linked(self.target.pool)

    def linked(self, cases: list[splits.Case]) -> Path:
        """A folder of images and masks."""
        content = {"pairs": splits.fingerprint(cases)}
        return self.cache.make(
            "data", content, lambda folder, _: splits.link_pairs(folder, cases), True
        )

    def images(self, cases: list[splits.Case]) -> Path:
        """A folder of images alone."""
        content = {"images": splits.fingerprint(cases, labelled=False)}
        return self.cache.make(
            "data", content, lambda folder, _: splits.link_images(folder, cases), True
        )

    def references(self, job: Job, annotated: bool) -> Path:
        """The references of a job, with their masks or without."""
        assert job.references is not None and job.draw is not None
        drawn = splits.references(self.target.pool, job.references, job.draw)
        return self.linked(drawn) if annotated else self.images(drawn)

    @cached_property
    def test_sha256(self) -> str:
        """Of names and contents of the test images and masks."""
        return splits.fingerprint(self.target.test)

    def test_groups(self, names: Sequence[str]) -> list[int]:
        """A number for the group of each scored image; slices of a volume share theirs."""
        group = {Path(case["image"]).name: case["group"] for case in self.target.test}
        found = [group[re.sub(r"\[\d+\]$", "", name)] for name in names]
        numbers = {name: k for k, name in enumerate(dict.fromkeys(found))}
        return [numbers[name] for name in found]

    # -- stages ------------------------------------------------------------------------------------

    def generator(self) -> Path:
        """The stage-1 bundle of the source."""
        return self.stage("train", "training", {"dataset_dir": str(self.source_dir), "seed": 0})

    def alignment(
        self, job: Job, annotated: bool, rounds: int = 2, **overrides: Any
    ) -> tuple[Path, Path | None]:
        """The bundle aligned to a job's references, and the segmenter that predicted their masks.

        Without masks as `alignflow adapt` does it: a segmenter in the references' style predicts
        them, then the one that has learned from the pairs of the round before. The draw is the seed
        of all that this rests on.
        """
        references = self.references(job, annotated)
        if annotated:
            return self.aligned(job, references, None, **overrides), None
        labeller = self.labeller(job, references)
        for _ in range(rounds - 1):
            pairs = self.pairs(self.aligned(job, references, labeller, **overrides))
            folders = {"pairs_dir": str(pairs), "reference_dir": str(references)}
            labeller = self.segmenter(job.draw or 0, **folders)
        return self.aligned(job, references, labeller, **overrides), labeller

    def labeller(self, job: Job, references: Path) -> Path:
        """The segmenter that predicts the references' first masks."""
        styled = {"reference_dir": str(references)} | self.settings["labeller"]
        return self.segmenter(job.draw or 0, **styled)

    def aligned(self, job: Job, references: Path, labeller: Path | None, **overrides: Any) -> Path:
        """The bundle after one alignment."""
        folders = {
            "model_dir": str(self.generator()),
            "reference_dir": str(references),
            "labeller_dir": None if labeller is None else str(labeller),
        }
        return self.stage("align", "align", folders | {"seed": job.draw} | overrides)

    def pairs(self, model_dir: Path) -> Path:
        """Synthetic pairs of a bundle."""
        return self.stage("inference", "infer", {"model_dir": str(model_dir), "seed": 0})

    def segmenter(self, seed: int, **overrides: Any) -> Path:
        """A segmenter trained on the source, with what the overrides add."""
        folders = {"model_dir": str(self.generator()), "dataset_dir": str(self.source_dir)}
        return self.stage("segment", "segment", folders | {"seed": seed} | overrides, here=True)

    def scores(self, segmenter_dir: Path, carried: bool = False) -> Path:
        """Folder with `scores.json` of a segmenter on the target's test images.

        With `carried` the source's flow draws them anew first, see `to_source`.
        """
        overrides = {
            "model_dir": str(self.generator()),
            "segmenter_dir": str(segmenter_dir),
            "test_dir": str(self.test_dir),
        }
        if carried:
            content = overrides | self.settings["to_source"]
            return self.cache.make(
                "carried", content, lambda folder, _: score_carried(folder, **content)
            )
        return self.stage("segment", "test", overrides, here=True)

    def stage(self, config: str, run_id: str, overrides: Settings, here: bool = False) -> Path:
        """Result of a workflow: settings of its config, then `overrides`; kept by content.

        Folders of the cache bear the hash of their content, so their paths stand for it. `here`
        runs it in this process, which reads images once.
        """
        overrides = dict(self.settings[config]) | overrides
        content = {"config": config_hash(config), "overrides": overrides}

        def build(folder: Path, lock: int) -> None:
            arguments = overrides | {"output_dir": str(folder)}
            if here:
                run_here(run_id, config, arguments, reading.IMPORTS)
            else:
                run_workflow(run_id, config, arguments, folder, lock)

        return self.cache.make(run_id, content, build)
