"""One (source, target) pair: its folders, generator, alignments, pairs and segmenters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import reading
import splits
from stages import Cache, Settings, config_hash, run_here, run_workflow

from alignflow.errors import InputError
from alignflow.stage1 import weight_hashes


@dataclass(frozen=True)
class Job:
    """One run of one arm: one file of results.

    Attributes:
        pair: name of (source, target).
        arm: name in `arms.ARMS`.
        labelled: labelled source images; None for all.
        references: their number; None for an arm that uses none.
        seed: of the segmenter.
        draw: which references; None for an arm that uses none.
    """

    pair: str
    arm: str
    labelled: int | None
    references: int | None
    seed: int
    draw: int | None

    @property
    def name(self) -> str:
        """Of the result's file, without suffix."""
        labelled = "all" if self.labelled is None else self.labelled
        count = "" if self.references is None else f"-n{self.references}-draw{self.draw}"
        return f"{self.arm}-{labelled}{count}-seed{self.seed}"


class Bench:
    """Builds what the arms need, each thing once.

    Args:
        source, target: the sites.
        labelled: labelled source images; None for all.
        cache: of stages.
        settings: overrides of each workflow, and the arms' own.
        model_dir: a generator that has been trained on this split; None to train one.

    Raises:
        InputError: a folder that cannot be read or split, a generator of another split.
    """

    def __init__(
        self,
        source: splits.Site,
        target: splits.Site,
        labelled: int | None,
        cache: Cache,
        settings: Mapping[str, Settings],
        model_dir: Path | None = None,
    ) -> None:
        self.cache = cache
        self.settings = settings
        share = settings["train"].get("validation_fraction", 0.1)
        self.source_site = source
        self.labelled = labelled
        self.source = splits.split_source(source.cases(), labelled, share)
        self.target = splits.split_target(target.cases())
        self.model_dir = model_dir
        if model_dir is not None:
            self.require_same_split(model_dir, share)

    def require_same_split(self, model_dir: Path, share: float) -> None:
        """Refuse a generator that may have been trained on our validation images."""
        path = model_dir / "train_config.json"
        if not path.is_file():
            raise InputError(f"--model_dir '{model_dir}': no train_config.json; train it first")
        config = json.loads(path.read_text())
        if Path(config["dataset_dir"]).resolve() == self.source_dir.resolve():
            return
        site = self.source_site
        ours = {
            "validation_fraction": share,
            "seed": splits.SPLIT_SEED,
            "group_column": site.group_column,
            "group_pattern": site.group_pattern,
        }
        same_folder = Path(config["dataset_dir"]).resolve() == site.directory.resolve()
        same_split = {key: config.get(key) for key in ours} == ours
        whole = self.labelled is None and site.column is None
        if not (same_folder and same_split and whole):
            raise InputError(
                f"--model_dir '{model_dir}': trained neither on '{self.source_dir}' nor on all of "
                f"'{site.directory}' with {ours}; leave it out to train one"
            )

    # -- folders -----------------------------------------------------------------------------------

    @cached_property
    def source_dir(self) -> Path:
        """Labelled source images, split as stage 1 does."""
        train, validation = self.source.train, self.source.validation
        content = {"train": splits.fingerprint(train), "validation": splits.fingerprint(validation)}
        return self.cache.make(
            "data",
            content,
            lambda folder, _: splits.link_pairs(
                folder, train, validation, self.source_site.directory
            ),
            wait=True,
        )

    @cached_property
    def test_dir(self) -> Path:
        """Target images that score all arms."""
        return self.linked(self.target.test)

    @cached_property
    def test_images_dir(self) -> Path:
        """The same without masks."""
        return self.images(self.target.test)

    @cached_property
    def train_dir(self) -> Path:
        """The source's training images without its validation images."""
        return self.linked(self.source.train)

    @cached_property
    def pool_dir(self) -> Path:
        """Labelled target images of the oracle, a tenth of the groups for validation."""
        train, validation = splits.split_by_group(self.target.pool, 0.1, splits.SPLIT_SEED)
        content = {"train": splits.fingerprint(train), "validation": splits.fingerprint(validation)}
        return self.cache.make(
            "data",
            content,
            lambda folder, _: splits.link_pairs(folder, train, validation),
            wait=True,
        )

    @cached_property
    def pool_pairs_dir(self) -> Path:
        """Labelled target images of the ceiling, as pairs."""
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

    def references(self, job: Job) -> list[splits.Case]:
        """The references of a job."""
        assert job.references is not None and job.draw is not None
        return splits.references(self.target.pool, job.references, job.draw)

    def reference_dir(self, job: Job) -> Path:
        """The references of a job without their masks."""
        return self.images(self.references(job))

    def labelled_reference_dir(self, job: Job) -> Path:
        """The references of a job with their masks."""
        return self.linked(self.references(job))

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
        if self.model_dir is not None:
            return self.model_dir
        return self.stage("train", "training", {"dataset_dir": str(self.source_dir), "seed": 0})

    def alignment(self, job: Job) -> Path:
        """The bundle aligned to a job's references; the draw is its seed."""
        model_dir = self.generator()
        overrides = {
            "model_dir": str(model_dir),
            "reference_dir": str(self.reference_dir(job)),
            "seed": job.draw,
        }
        return self.stage("align", "align", overrides, weights=weight_hashes(str(model_dir)))

    def pairs(self, model_dir: Path, **overrides: Any) -> Path:
        """Synthetic pairs of a bundle; the settings may take their masks from source or site."""
        overrides = {"model_dir": str(model_dir), "seed": 0} | overrides
        start_time = self.settings["inference"].get("start_time", 0)
        if self.settings["pairs"].get("from_site"):
            overrides["dataset_dir"] = str(self.pool_pairs_dir)
        elif start_time or self.settings["pairs"]["from_source"]:
            overrides["dataset_dir"] = str(self.train_dir)
        return self.stage("inference", "infer", overrides, weights=weight_hashes(str(model_dir)))

    def segmenter(self, job: Job, **overrides: Any) -> Path:
        """A segmenter trained on the source, with what the overrides add."""
        model_dir = self.generator()
        overrides = {
            "model_dir": str(model_dir),
            "dataset_dir": str(self.source_dir),
            "seed": job.seed,
            "mlflow": False,
        } | overrides
        weights = weight_hashes(str(model_dir))
        return self.stage("segment", "segment", overrides, weights, here=True)

    def scores(self, segmenter_dir: Path) -> Path:
        """Folder with `scores.json` of a segmenter on the target's test images."""
        overrides = {
            "model_dir": str(self.generator()),
            "segmenter_dir": str(segmenter_dir),
            "test_dir": str(self.test_dir),
        }
        return self.stage("segment", "test", overrides, here=True)

    def stage(
        self,
        config: str,
        run_id: str,
        overrides: Settings,
        weights: Mapping[str, str] | None = None,
        here: bool = False,
    ) -> Path:
        """Result of a workflow: settings of its config, then `overrides`; kept by content.

        Folders of the cache bear the hash of their content, so their paths stand for it; `weights`
        are those of a bundle, which may be from elsewhere. `here` runs it in this process, which
        reads images once.
        """
        overrides = dict(self.settings.get(config, {})) | overrides
        content = {"config": config_hash(config), "overrides": overrides, "weights": weights}

        def build(folder: Path, lock: int) -> None:
            arguments = overrides | {"output_dir": str(folder)}
            if here:
                run_here(run_id, config, arguments, reading.IMPORTS)
            else:
                run_workflow(run_id, config, arguments, folder, lock)

        return self.cache.make(run_id, content, build)
