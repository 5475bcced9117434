"""train: the generator is aligned to the site, and a segmenter trained for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from alignflow.errors import InputError
from alignflow.label.site import link_site
from alignflow.label.synthesize import best_student
from alignflow.label.work import Work
from alignflow.label.workflow import run_workflow
from alignflow.segmentation.network import without_pretrained
from alignflow.segmentation.record import SegmenterRecord
from alignflow.stage1 import Stage1
from lib.settings import ALIGN, CONFIGS, SEGMENT, chosen, environment
from lib.studies import image_path, labelled


class Align(TrainTask):
    """`run align`: all images of the studies are references; masks, where there are, tell sizes.

    It starts from the bundle that the server was given, not from the last alignment.
    """

    def __init__(self, work: Work, device: str) -> None:
        self.work, self.device = work, device
        super().__init__("Align the image flow to the images of the studies")

    def config(self) -> dict[str, Any]:
        """Keys of align.json that a client may change."""
        return dict(ALIGN)

    def stats(self) -> dict[str, Any]:
        """Of the alignment in use: what it was watched by, before and for the weights kept."""
        record = read(self.work.bundle() / "align.json")
        return {key: record[key] for key in ("kept_epoch", "before", "kept") if key in record}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Align, and put the result in use."""
        stage1 = Stage1.load(str(self.work.models))
        images = {name: image_path(datastore, name) for name in datastore.list_images()}
        folder = self.work.new_folder("aligned")
        site = link_site(folder / "site", images, labelled(datastore), stage1)
        overrides = {
            "model_dir": str(self.work.models),
            "reference_dir": str(site),
            "output_dir": str(folder),
            "device": self.device,
            "mlflow": False,
            **chosen(request, ALIGN),
        }
        run_workflow("align", CONFIGS / "align.json", overrides, folder, environment())
        self.work.replace("aligned", folder)
        return {"bundle": str(folder), **self.stats()}


class TrainSegmenter(TrainTask):
    """`run infer`, then `run segment`: the masks so far, and synthetic pairs of the site.

    It starts from the segmenter that the server was given, whatever was trained here before, so
    that early masks do not count more often than late ones.
    """

    def __init__(self, work: Work, device: str) -> None:
        self.work, self.device = work, device
        super().__init__("Train the segmenter on the masks so far and on synthetic pairs")

    def config(self) -> dict[str, Any]:
        """Keys of segment.json and inference.json that a client may change."""
        return dict(SEGMENT)

    def stats(self) -> dict[str, Any]:
        """Dice of the segmenter in use on the pairs that it was trained on."""
        folder = self.work.current("segmenter")
        record = {} if folder is None else read(folder / "segmenter.json")
        return {"validation": record["validation"]} if record else {}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, and put the result in use."""
        masks = labelled(datastore)
        if not masks:
            raise InputError("datastore: no image has a final mask yet; annotate one first")
        images = {name: image_path(datastore, name) for name in masks}
        model_dir = self.work.bundle()
        stage1 = Stage1.load(str(model_dir))
        settings = chosen(request, SEGMENT)
        count = settings.pop("num_pairs")
        with_pairs = count > 0 and settings["synthetic_share"] > 0
        folder, start = self.work.new_folder("segmenter"), self.work.start
        network = stage1.segmenter if start is None else SegmenterRecord.load(start).network
        overrides = {
            "model_dir": str(model_dir),
            "dataset_dir": str(link_site(folder / "site", images, masks, stage1)),
            "pairs_dir": self.draw_pairs(model_dir, folder, count) if with_pairs else None,
            "output_dir": str(folder),
            "device": self.device,
            "network_def": without_pretrained(network),
            "init": str(start or "source"),
            "validation_fraction": 0,
            "mlflow": False,
            **settings,
        }
        run_workflow("segment", CONFIGS / "segment.json", overrides, folder, environment())
        self.work.replace("segmenter", folder)
        return {"segmenter": str(folder), **self.stats()}

    def draw_pairs(self, model_dir: Path, folder: Path, count: int) -> str:
        """Write synthetic pairs of a bundle; their folder."""
        overrides = {
            "model_dir": str(model_dir),
            "output_dir": str(folder / "pairs"),
            "device": self.device,
            "num_pairs": count,
            "student": best_student(model_dir),
            "native_size": False,
        }
        run_workflow("infer", CONFIGS / "inference.json", overrides, folder, environment())
        return str(folder / "pairs")


def read(path: Path) -> dict[str, Any]:
    """A JSON file; {} where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
