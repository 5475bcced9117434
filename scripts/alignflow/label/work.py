"""What an annotation server has learnt so far: aligned bundles and segmenters, in turn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from alignflow.adaptation.jobs import bundle_hash
from alignflow.errors import InputError
from alignflow.files import replacing
from alignflow.segmentation.network import load_segmenter
from alignflow.segmentation.record import FILE as SEGMENTER
from alignflow.segmentation.record import SegmenterRecord
from alignflow.stage1 import FILE as STAGE1
from alignflow.stage1 import Stage1

FILE = "current.json"
KINDS = {"aligned": STAGE1, "segmenter": SEGMENTER}
"""Kinds of results, and the file that a run writes last."""


@dataclass(frozen=True)
class Work:
    """A folder of results, and a file that names those in use.

    A run writes into a folder of its own; when it has ended well, the file names it. So whoever
    reads meanwhile has the former result, whole, and a former one can be taken up again by editing
    the file.

    Attributes:
        folder: receives `aligned/0001`, `segmenter/0001`, ... and `current.json`.
        models: the bundle to start from, which is only read.
        start: the segmenter to start from, a folder of `run segment`; None for the bundle's own.
    """

    folder: Path
    models: Path
    start: Path | None = None

    def require_same_bundle(self) -> None:
        """Refuse what was learnt with another bundle.

        Raises:
            InputError: this folder was used with other `models`.
        """
        used = self._read().get("bundle")
        if used not in (None, bundle_hash(self.models)):
            raise InputError(
                f"'{self.folder}': what was learnt there belongs to another bundle than "
                f"'{self.models}'; set another WORK"
            )

    def bundle(self) -> Path:
        """The bundle in use: the last aligned one, else that to start from."""
        return self.current("aligned") or self.models

    def segmenter(self, device: str) -> nn.Module:
        """The segmenter in use, on the device: the last one trained, else the bundle's own."""
        folder = self.current("segmenter") or self.start
        if folder is not None:
            return SegmenterRecord.load(folder).build(folder, device)
        return load_segmenter(Stage1.load(str(self.models)), self.models, device)

    def version(self) -> str:
        """What is in use, as text: changes with every replacement."""
        return json.dumps({kind: str(self.current(kind)) for kind in KINDS})

    def new_folder(self, kind: str) -> Path:
        """An empty folder for a result of this kind, numbered after the last one."""
        parent = self.folder / kind
        numbers = [int(p.name) for p in parent.glob("[0-9]*") if p.name.isdigit()]
        made = parent / f"{max(numbers, default=0) + 1:04d}"
        made.mkdir(parents=True)
        return made

    def replace(self, kind: str, folder: Path) -> None:
        """Put a result in use; the former ones stay where they are."""
        named = {"bundle": bundle_hash(self.models), kind: str(folder.relative_to(self.folder))}
        content = self._read() | named
        with replacing(self.folder / FILE) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def current(self, kind: str) -> Path | None:
        """The folder in use of this kind, None before the first."""
        name = self._read().get(kind)
        if name is None:
            return None
        if not (self.folder / name / KINDS[kind]).is_file():
            raise InputError(
                f"'{self.folder / FILE}', field '{kind}': '{name}' is not a finished result; "
                "name another, or remove the field"
            )
        return self.folder / name

    def _read(self) -> dict[str, str]:
        path = self.folder / FILE
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"'{path}': not valid JSON ({error}); correct or remove it") from error
        return dict(content)


def parts_of(folder: Path) -> tuple[Path, Path | None]:
    """Bundle and segmenter of what MODELS names: a bundle, or a folder that `adapt` wrote.

    Of the latter the distilled generator, else the aligned one, else the source's, and the
    segmenter that was handed over.

    Raises:
        InputError: neither.
    """
    if (folder / STAGE1).is_file():
        return folder, None
    for name in ("distilled", "aligned", "models"):
        if (folder / name / STAGE1).is_file() and (folder / "segmenter" / SEGMENTER).is_file():
            return folder / name, folder / "segmenter"
    raise InputError(
        f"'{folder}': neither a bundle ({STAGE1}) nor a folder of adapt; set MODELS to one"
    )
