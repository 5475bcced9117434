"""MONAI Label app: segment, synthesize, align, and the next image by the reward's witness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib.activelearning import WitnessScoring, WitnessStrategy
from lib.infers import Segment, Synthesize
from lib.trainers import Align, TrainSegmenter
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.activelearning.random import Random

import alignflow
from alignflow.device import default_device, require_device
from alignflow.label.work import Work


class AlignFlowApp(MONAILabelApp):
    """Started by start.py with the settings `models`, `work` and `segmenter`, see `Work`."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        start = Path(conf["segmenter"]) if conf.get("segmenter") else None
        self.work = Work(Path(conf["work"]), Path(conf["models"]), start)
        self.device = conf.get("device") or default_device()
        require_device(self.device)
        super().__init__(
            app_dir,
            studies,
            conf,
            name=f"AlignFlow {alignflow.__version__}",
            description="Annotation at a new site, with a generator that is aligned to it",
            version=alignflow.__version__,
        )

    def init_infers(self) -> dict[str, Any]:
        """Segment and synthesize."""
        return {
            "segment": Segment(self.work, self.device, self.datastore),
            "synthesize": Synthesize(self.work, self.device, self.datastore),
        }

    def init_trainers(self) -> dict[str, Any]:
        """Align and segment."""
        return {
            "align": Align(self.work, self.device),
            "segment": TrainSegmenter(self.work, self.device),
        }

    def init_scoring_methods(self) -> dict[str, Any]:
        """Witness."""
        return {"witness": WitnessScoring(self.work, self.device)}

    def init_strategies(self) -> dict[str, Any]:
        """Witness, and random beside it."""
        scoring = WitnessScoring(self.work, self.device)
        return {"witness": WitnessStrategy(scoring), "random": Random()}

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> Any:
        """As MONAI Label does; the tasks are told which image it is, not only its file."""
        return super().infer({**request, "image_id": request.get("image")}, datastore)
