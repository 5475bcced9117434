"""A record of a bundle without its networks, and small files."""

import pytest
from datasets import reading_of

from alignflow.data.spec import SourceSpec
from alignflow.stage1 import Stage1


@pytest.fixture
def stage1():
    """`stage1(labels, mask_threshold=None, modality="RGB8", channels=3)`: a record, 16 px."""

    def build(labels, mask_threshold=None, modality="RGB8", channels=3, size=(16, 16)):
        source = SourceSpec(
            channels=channels,
            labels=labels,
            modality=modality,
            window=(0.0, 255.0) if modality == "RGB8" else (0.0, 1000.0),
            image_suffix=".png",
            label_suffix=".png",
            image_dtype="uint8" if modality == "RGB8" else "int16",
            label_dtype="uint8",
            geometries=[],
        )
        reading = reading_of(
            modality=modality if modality in ("RGB8", "CT", "MR") else "auto",
            window=list(source.window),
            mask_threshold=mask_threshold,
        )
        return Stage1(
            source=source,
            image_size=list(size),
            image_network={},
            mask_network={},
            clip=5.0,
            scheme="disjoint",
            postprocess={},
            descriptions=[],
            segmenter={},
            reading=reading,
            appearance=[],
        )

    return build
