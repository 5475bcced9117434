"""Scores of the images by the reward's witness function, and the strategy that goes by them."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from alignflow.files import sha256
from alignflow.label.site import file_name, fingerprint, link_site
from alignflow.label.work import Work
from alignflow.label.workflow import run_workflow
from alignflow.stage1 import FILE, Stage1
from lib.settings import CONFIGS, WITNESS, chosen, environment
from lib.studies import image_path, unlabelled


class WitnessScoring(ScoringMethod):
    """`run witness`: how far each image lies from what the generator draws.

    An image's info receives `witness`, high where the site has images and the generator none, and
    `witness_of`, a hash of the weights and of the images that it was computed with.
    """

    def __init__(self, work: Work, device: str) -> None:
        self.work, self.device = work, device
        super().__init__("Witness function of the alignment's reward: high is far from synthetic")

    def subject(self, datastore: Datastore) -> str:
        """Hash of what scores depend on."""
        record = sha256(self.work.bundle() / FILE)  # it has the hashes of the weights
        return fingerprint([record, *sorted(datastore.list_images())])

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score all images."""
        start = time.monotonic()
        bundle, subject = str(self.work.bundle()), self.subject(datastore)
        images = {name: image_path(datastore, name) for name in datastore.list_images()}
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            site = link_site(folder / "site", images, {}, Stage1.load(bundle))
            overrides = {
                "model_dir": bundle,
                "reference_dir": str(site),
                "output_dir": str(folder / "out"),
                "device": self.device,
                **chosen(request, WITNESS),
            }
            run_workflow("witness", CONFIGS / "align.json", overrides, folder, environment())
            scores = json.loads((folder / "out/witness.json").read_text(encoding="utf-8"))
        for name, path in images.items():
            # a duplicate of another image has no score of its own
            info = {"witness": scores.get(file_name(name, path)), "witness_of": subject}
            datastore.update_image_info(name, info)
        seconds = round(time.monotonic() - start, 1)
        return {"images": len(images), "scored": len(scores), "executionTime": seconds}


class WitnessStrategy(Strategy):
    """The unlabelled image of the highest witness score; images are scored first if need be."""

    def __init__(self, scoring: WitnessScoring) -> None:
        self.scoring = scoring
        super().__init__("The image that is least like what the generator draws")

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """{"id": image, "witness": score}, None when all are labelled."""
        names = unlabelled(datastore)
        if not names:
            return None
        subject = self.scoring.subject(datastore)
        infos = {name: datastore.get_image_info(name) for name in names}
        if any(info.get("witness_of") != subject for info in infos.values()):
            self.scoring(request, datastore)
            infos = {name: datastore.get_image_info(name) for name in names}
        scores = {name: info.get("witness") for name, info in infos.items()}
        best = max(names, key=lambda name: -1e9 if scores[name] is None else scores[name])
        return {"id": best, "witness": scores[best]}
