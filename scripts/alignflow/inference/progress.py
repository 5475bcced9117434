"""What of a run's pairs is on disk already, so that a stopped run goes on."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence, Sized
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
from torch.utils.data import Dataset, Subset

from alignflow.data.writer import pair_name
from alignflow.distributed import own_batches, rank, world
from alignflow.files import replacing

FOLDER = ".progress"
KINDS = {"images": ("images", "imagesTr"), "labels": ("labels", "labelsTr")}
"""Folders of each kind of file: those of nnU-Net are the second ones."""
FOLDERS = ("bundle_root", "model_dir", "dataset_dir", "output_dir")
PLACES = (*FOLDERS, "dicomweb_url", "dicomweb_timeout", "dicomweb_attempts")
"""Settings that tell where things are; what they are is hashed besides."""


class PairProgress:
    """Which batches of a run are written, with what was counted in each.

    Lives in `output_dir/.progress` until the run is complete: `run.json`, what the pairs depend on,
    `batches-R.jsonl` of process R, and `stored.txt`, which files a server has. Lines are appended;
    one that a kill cut off counts for nothing. Whole volumes are all made again: their slices share
    batches.

    Args:
        output_dir: of the pairs.
        requests: all pairs of the run.
        batch_size: pairs of a batch. Batches are made whole again: equal bytes need equal batches.
        identity: JSON-able facts that the pairs depend on, with others the run begins anew; of its
            "config" the keys of `PLACES` count for nothing.
        again: pairs, from the first one on, that are made once more for the contact sheet.
        volumes: number of the volume that each request is a slice of, where pairs are volumes.
    """

    def __init__(
        self,
        *,
        output_dir: str,
        requests: Dataset[Any],
        batch_size: int,
        identity: dict[str, Any],
        again: int = 32,
        volumes: Sequence[int] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.folder = self.output_dir / FOLDER
        self.requests = requests
        self.batch_size = batch_size
        self.identity = json.loads(json.dumps(identity, default=str))
        for key in PLACES:
            self.identity.get("config", {}).pop(key, None)
        self.again = again
        self.volumes = volumes
        goes_on = volumes is None and self._is_same_run()
        self.counts = self._read() if goes_on else {}

    def __len__(self) -> int:
        """Pairs of the whole run."""
        return self._count() if self.volumes is None else self.volumes[-1] + 1

    def _count(self) -> int:
        return len(cast("Sized", self.requests))

    def remaining(self) -> Subset[Any]:
        """The requests of this process, in their order, of batches that are still to be written."""
        # A process without any batch could not take part, so the first ones are given out anew.
        first = max(-(-self.again // self.batch_size), world())
        done = {batch for batch in self.counts if batch >= first}
        idist.barrier()  # else the first process might write before another one has looked
        wanted = [k for k in range(self._count()) if k // self.batch_size not in done]
        return Subset(self.requests, own_batches(wanted, self.batch_size, self.volumes))

    def begin(self) -> None:
        """Start a run, or go on with it: whatever else lies in the folder is removed."""
        if not self._is_same_run():
            shutil.rmtree(self.folder, ignore_errors=True)
            for path in pair_files(self.output_dir):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for place in sum(KINDS.values(), ()):  # else an empty one would hide another format's
                with suppress(OSError):
                    (self.output_dir / place).rmdir()
            with replacing(self.folder / "run.json") as temporary:
                temporary.write_text(json.dumps(self.identity, indent=1) + "\n", encoding="utf-8")

    @property
    def begun(self) -> str:
        """Day on which the run began, YYYYMMDD, also for one that goes on later."""
        return time.strftime("%Y%m%d", time.localtime((self.folder / "run.json").stat().st_mtime))

    def record(self, indices: list[int], counts: dict[str, Any]) -> None:
        """Note that a batch is written.

        Args:
            indices: of its pairs.
            counts: of its masks, see `MaskGenerator.take_counts`.
        """
        batch = indices[0] // self.batch_size if self.volumes is None else len(self.counts)
        self.counts[batch] = counts
        _append(self.folder / f"batches-{rank()}.jsonl", json.dumps([batch, counts]))

    @property
    def stored(self) -> set[str]:
        """Names of files, relative to the folder, that `note_stored` was told."""
        path = self.folder / "stored.txt"
        return set(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else set()

    def note_stored(self, url: str, path: Path) -> None:
        """Note that a server has a file."""
        _append(self.folder / "stored.txt", self.stored_name(url, path))

    def stored_name(self, url: str, path: Path) -> str:
        """How `stored` names a file."""
        return f"{url} {path.relative_to(self.output_dir).as_posix()}"

    def finish(self) -> None:
        """Forget all: the run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_same_run(self) -> bool:
        try:
            known: bool = (
                json.loads((self.folder / "run.json").read_text(encoding="utf-8")) == self.identity
            )
        except (OSError, ValueError):
            return False
        return known

    def _read(self) -> dict[int, dict[str, Any]]:
        """Counts of the batches whose files are all there."""
        found: dict[int, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("batches-*.jsonl")):
            found |= dict(_whole_lines(path))
        written = [{_pair_of(p) for p in pair_files(self.output_dir, kind)} for kind in KINDS]
        names = written[0] & written[1]

        def is_whole(batch: int) -> bool:
            first, last = batch * self.batch_size, (batch + 1) * self.batch_size
            return all(pair_name(k) in names for k in range(first, min(last, len(self))))

        return {batch: counts for batch, counts in found.items() if is_whole(batch)}


def pair_files(folder: Path, *kinds: str) -> list[Path]:
    """Images (of a volume in DICOM the folder of its slices) and labels, or those of one kind."""
    places = [folder / place for kind in kinds or KINDS for place in KINDS[kind]]
    return [path for place in places for path in sorted(place.glob("*"))]


def _pair_of(path: Path) -> str:
    """Name of the pair that a file belongs to; channels of nnU-Net have a number behind it."""
    return re.sub(r"(?<=\d)_\d{4}$", "", path.name.split(".")[0])


def _append(path: Path, line: str) -> None:
    """Add a line; the line break before it ends one that was cut off."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")


def _whole_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            batch, counts = json.loads(line)
            yield int(batch), counts
        except (ValueError, TypeError):
            continue
