"""How a data set would be read: by the settings of training, or as a trained bundle does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monai.bundle import ConfigParser

from alignflow.data.labels import Labels
from alignflow.data.preprocessing import recorded
from alignflow.data.spec import SourceSpec
from alignflow.masks.class_index import Scheme
from alignflow.stage1 import Stage1


@dataclass(frozen=True)
class Reading:
    """What decides how files become images.

    Attributes:
        image_size: [X, Y] of the generator, pixels.
        facts: as `Stage1.reading`.
        scheme: of the classes, "disjoint" or "nested".
        labels: {name: native value}; None: those of `dataset.json`, else every value that occurs.
        group_pattern, group_column: of `build_datalist`.
        validation_fraction, seed: of `split_by_group`.
        batch_size: of training, which needs as many slices.
        bundle: the trained bundle's record, where there is one.
    """

    image_size: list[int]
    facts: dict[str, Any]
    scheme: Scheme
    labels: Labels | None
    group_pattern: str | None
    group_column: str | None
    validation_fraction: float
    seed: int
    batch_size: int
    bundle: Stage1 | None = None

    @classmethod
    def of(cls, train: Mapping[str, Any], bundle: Stage1 | None = None) -> Reading:
        """From the content of `train.json`, and the settings of a bundle before it."""
        stated = train["labels"]
        return cls(
            image_size=list(train["image_size"] if bundle is None else bundle.image_size),
            facts=recorded(ConfigParser(dict(train))) if bundle is None else bundle.reading,
            scheme=train["mask_scheme"] if bundle is None else bundle.scheme,
            labels=(None if isinstance(stated, str) else stated)
            if bundle is None
            else bundle.source.labels,
            group_pattern=train["group_pattern"],
            group_column=train["group_column"],
            validation_fraction=train["validation_fraction"],
            seed=train["seed"],
            batch_size=train["batch_size"],
            bundle=bundle,
        )

    def record(self, spec: SourceSpec) -> Stage1:
        """A record to read references by; without networks where there is no bundle yet."""
        if self.bundle is not None:
            return self.bundle
        return Stage1(
            source=spec,
            image_size=self.image_size,
            image_network={},
            mask_network={},
            clip=5.0,
            scheme=self.scheme,
            postprocess={},
            descriptions=[],
            segmenter={},
            reading=self.facts,
            appearance=[],
        )
