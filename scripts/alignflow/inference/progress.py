"""Keeps track of the pairs that are already written, so that a stopped run can resume."""

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
"""Folders of each kind of file; the second is nnU-Net's."""
FOLDERS = ("bundle_root", "model_dir", "dataset_dir", "output_dir")
PLACES = (*FOLDERS, "dicomweb_url", "dicomweb_timeout", "dicomweb_attempts")
"""Settings that say where things are; their contents are hashed separately."""


class PairProgress:
    """Which batches of a run are written, and the counts of each.

    Kept in `output_dir/.progress` until the run is complete: `run.json` (the facts that the pairs
    depend on), `batches-R.jsonl` of process R, and `stored.txt` (files sent to a server). Lines are
    appended; an incomplete line is ignored. Whole volumes are all generated again, since their
    slices share batches.

    Args:
        output_dir: output folder of the pairs.
        requests: all pairs of the run.
        batch_size: pairs per batch. Only whole batches are resumed, since bytes depend on them.
        identity: JSON-compatible facts that the pairs depend on; if they change, the run starts
            over. In its "config" the keys of `PLACES` are ignored.
        again: number of first pairs to generate again for the contact sheet.
        volumes: the volume number of each request, if pairs are volumes.
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
        """Number of pairs in the run."""
        return self._count() if self.volumes is None else self.volumes[-1] + 1

    def _count(self) -> int:
        return len(cast("Sized", self.requests))

    def remaining(self) -> Subset[Any]:
        """The requests of this process that are not yet written, in order."""
        # Every process needs a batch, so the first batches are always generated again.
        first = max(-(-self.again // self.batch_size), world())
        done = {batch for batch in self.counts if batch >= first}
        idist.barrier()  # otherwise the first process might write before another has looked
        wanted = [k for k in range(self._count()) if k // self.batch_size not in done]
        return Subset(self.requests, own_batches(wanted, self.batch_size, self.volumes))

    def begin(self) -> None:
        """Start or resume a run; files of other runs are removed."""
        if not self._is_same_run():
            shutil.rmtree(self.folder, ignore_errors=True)
            for path in pair_files(self.output_dir):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for place in sum(
                KINDS.values(), ()
            ):  # else an empty folder would hide another format's
                with suppress(OSError):
                    (self.output_dir / place).rmdir()
            with replacing(self.folder / "run.json") as temporary:
                temporary.write_text(json.dumps(self.identity, indent=1) + "\n", encoding="utf-8")

    @property
    def begun(self) -> str:
        """Day on which the run began, YYYYMMDD, also for one that goes on later."""
        return time.strftime("%Y%m%d", time.localtime((self.folder / "run.json").stat().st_mtime))

    def record(self, indices: list[int], counts: dict[str, Any]) -> None:
        """Record that a batch is written.

        Args:
            indices: numbers of its pairs.
            counts: counts of its masks, see `MaskGenerator.pop_counts`.
        """
        batch = indices[0] // self.batch_size if self.volumes is None else len(self.counts)
        self.counts[batch] = counts
        _append(self.folder / f"batches-{rank()}.jsonl", json.dumps([batch, counts]))

    @property
    def stored(self) -> set[str]:
        """Names passed to `note_stored`."""
        path = self.folder / "stored.txt"
        return set(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else set()

    def note_stored(self, url: str, path: Path) -> None:
        """Record that a file was sent to a server."""
        _append(self.folder / "stored.txt", self.stored_name(url, path))

    def stored_name(self, url: str, path: Path) -> str:
        """Name of a file in `stored`."""
        return f"{url} {path.relative_to(self.output_dir).as_posix()}"

    def finish(self) -> None:
        """Remove the record: the run is complete."""
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
        """Counts of the batches whose files all exist."""
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
    """Paths of images (for DICOM volumes, folders of slices) and labels, or of one kind."""
    places = [folder / place for kind in kinds or KINDS for place in KINDS[kind]]
    return [path for place in places for path in sorted(place.glob("*"))]


def _pair_of(path: Path) -> str:
    """Name of a file's pair, without nnU-Net's channel number."""
    return re.sub(r"(?<=\d)_\d{4}$", "", path.name.split(".")[0])


def _append(path: Path, line: str) -> None:
    """Append a line; the line break before it ends an incomplete line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")


def _whole_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            batch, counts = json.loads(line)
            yield int(batch), counts
        except (ValueError, TypeError):
            continue
