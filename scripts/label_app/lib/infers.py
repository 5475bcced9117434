"""infer: a mask for an image, and an image for a mask."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from torch import nn

from alignflow.label.segment import segment_file
from alignflow.label.synthesize import load_image_sampler, synthesize_file
from alignflow.label.values import tool_values
from alignflow.label.volumes import in_format
from alignflow.label.work import Work
from alignflow.stage1 import Stage1
from lib.studies import image_path, mask_path, sent_file

Store = Callable[[], Datastore]


class Latest:
    """A network that is loaded again when another one has been put in use.

    Training runs in a process of its own, so nobody tells this one.
    """

    def __init__(self, work: Work, load: Callable[[], nn.Module]) -> None:
        self.work = work
        self.load = load
        self.version = ""
        self.network: nn.Module | None = None

    def __call__(self) -> nn.Module:
        """The network in use."""
        version = self.work.version()
        if self.network is None or version != self.version:
            self.network, self.version = self.load(), version
        return self.network


class Segment(InferTask):
    """The site's segmenter: the last one trained here, or the bundle's."""

    def __init__(self, work: Work, device: str, store: Store) -> None:
        self.stage1, self.store = Stage1.load(str(work.models)), store
        self.network = Latest(work, lambda: work.segmenter(device))
        super().__init__(
            InferType.SEGMENTATION,
            foreground(self.stage1),
            3,
            "The site's segmenter: image to mask",
        )

    def is_valid(self) -> bool:
        """Always: the bundle was checked when the server started."""
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The mask's file, and what it took."""
        start = time.monotonic()
        source = sent_file(request)
        if request["image_id"] in self.store().list_images():
            source = image_path(self.store(), request["image_id"])
        path = segment_file(source, self.network(), self.stage1, temporary_stem())
        path = in_format(path, request.get("result_extension"))
        return str(path), result(start, self.labels)


class Synthesize(InferTask):
    """The image flow: an image of the site for a mask.

    The mask is a file that comes with the request, or the one that an image of the studies has.
    """

    def __init__(self, work: Work, device: str, store: Store) -> None:
        self.stage1, self.store = Stage1.load(str(work.models)), store
        self.network = Latest(work, lambda: load_image_sampler(work.bundle(), self.stage1, device))
        super().__init__(
            InferType.OTHERS, [], 3, "The image flow: mask to image", config={"seed": 0}
        )

    def is_valid(self) -> bool:
        """Always: the bundle was checked when the server started."""
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The image's file, and what it took."""
        start = time.monotonic()
        seed = int(request.get("seed", 0))
        source = sent_file(request)
        if request["image_id"] in self.store().list_images():
            source = mask_path(self.store(), request["image_id"])
        path = synthesize_file(source, self.network(), self.stage1, temporary_stem(), seed=seed)
        path = in_format(path, request.get("result_extension"))
        return str(path), result(start, {})


def foreground(stage1: Stage1) -> dict[str, int]:
    """{class: value in masks}."""
    values = tool_values(stage1.source.labels)
    return dict(list(values.items())[1:])


def temporary_stem() -> Path:
    """Of a new file; MONAI Label removes it when it has been sent."""
    with tempfile.NamedTemporaryFile(prefix="alignflow-") as file:
        return Path(file.name)


def result(start: float, labels: dict[str, int]) -> dict[str, Any]:
    """What clients expect beside the file."""
    seconds = round(time.monotonic() - start, 3)
    return {"label_names": labels, "latencies": {"total": seconds}, "centroids": {}}
