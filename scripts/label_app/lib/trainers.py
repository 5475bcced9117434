"""train: the generator is aligned to the site, and a segmenter trained for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lib.settings import ALIGN, CONFIGS, SEGMENT, chosen, environment
from lib.studies import image_path, labelled
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from alignflow.errors import InputError
from alignflow.label.site import link_site
from alignflow.label.synthesize import best_student
from alignflow.label.work import Work
from alignflow.label.workflow import run_workflow
from alignflow.stage1 import Stage1


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

    It starts from the bundle's own segmenter, whatever was trained here before, so that early masks
    do not count more often than late ones.
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
        model_dir = str(self.work.bundle())
        settings = chosen(request, SEGMENT)
        num_pairs = settings.pop("num_pairs")
        folder = self.work.new_folder("segmenter")
        site = link_site(folder / "site", images, masks, Stage1.load(model_dir))
        overrides = {"model_dir": model_dir, "device": self.device}
        pairs = {"pairs_dir": str(folder / "pairs")}
        if num_pairs and settings["synthetic_share"]:
            drawn = overrides | {"num_pairs": num_pairs, "output_dir": pairs["pairs_dir"]}
            drawn |= {"output_format": None, "native_size": False, "student": best_student(model_dir)}
            run_workflow("infer", CONFIGS / "inference.json", drawn, folder, environment())
        else:
            pairs = {}
        overrides |= settings | pairs | {"dataset_dir": str(site), "output_dir": str(folder)}
        overrides |= {"init": "source", "validation_fraction": 0, "val_interval": settings["epochs"]}
        run_workflow("segment", CONFIGS / "segment.json", overrides, folder, environment())
        self.work.replace("segmenter", folder)
        return {"segmenter": str(folder), **self.stats()}


def read(path: Path) -> dict[str, Any]:
    """A JSON file; {} where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}
