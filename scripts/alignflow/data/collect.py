"""Whatever a hospital exports as DICOM, sorted into the folders that training and alignment read.

OUTPUT/images/series_001/000001.dcm   a folder for each regular series
OUTPUT/images/series_002.dcm          a file for an image that stands alone
OUTPUT/masks/series_001.dcm           its segmentation or structure set, if there is one
OUTPUT/collection.json                what was found; what was left out, and why

A run works in OUTPUT/.collecting and moves what it has made out of there at its end.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import MediaStorageDirectoryStorage, SecondaryCaptureImageStorage

from alignflow.data.check import raise_problems
from alignflow.data.dicom import NON_IMAGES, find_series
from alignflow.data.dicom_masks import KINDS
from alignflow.data.dicomweb import fetch, is_url
from alignflow.errors import InputError
from alignflow.files import replacing
from alignflow.lock import FILE as LOCK

logger = logging.getLogger(__name__)

WORK, SORTED = ".collecting", "sorted"
MADE = ("masks", "images", "collection.json")
IRREGULAR = ("refuse", "leave_out", "slices")
Header = pydicom.Dataset
Group = list[tuple[Path, Header]]


def collect(
    source: str | None,
    output_dir: str,
    irregular: str = "refuse",
    dicomweb_timeout: float = 60.0,
    dicomweb_attempts: int = 5,
) -> None:
    """Sort DICOM files by series; files are copied, not changed.

    Localizers are left out, and secondary captures where there are other images; a series of
    several orientations or sizes becomes several.

    Args:
        source: a folder (with all below it), a DICOMDIR, or a DICOMweb URL as `dicomweb.fetch`
            takes it.
        output_dir: a new folder.
        irregular: what becomes of series with gaps, repeated positions or a tilted gantry:
            "refuse" them all, "leave_out", or "slices": each image by itself, without mask.
        dicomweb_timeout, dicomweb_attempts: of a server, see `dicomweb.fetch`.

    Raises:
        InputError: nothing there, no image in it, the folder is in use, or irregular series.
    """
    if irregular not in IRREGULAR:
        raise InputError(f'config "irregular": {irregular!r}; set one of {", ".join(IRREGULAR)}')
    root = Path(output_dir)
    work = root / WORK
    foreign = [path.name for path in root.glob("*") if path.name not in (WORK, LOCK)]
    if foreign and not work.is_dir():
        raise InputError(f"output_dir '{root}': not empty; give a new folder")
    for name in (*MADE, f"{WORK}/{SORTED}"):  # of a run that was stopped
        _remove(root / name)
    fetched = work / "fetched"
    if is_url(str(source)):
        files = fetch(str(source), fetched, dicomweb_timeout, dicomweb_attempts)
    else:
        files = _files(source)
    try:
        _Collection(work / SORTED, irregular).fill(files, str(source))
    except InputError:
        _remove(work / SORTED)
        for folder in (work, root):  # not if something was fetched: it serves the next try
            with suppress(OSError):
                folder.rmdir()
        raise
    for name in MADE:
        if (work / SORTED / name).exists():
            (work / SORTED / name).replace(root / name)
    _remove(work)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _files(source: str | None) -> list[Path]:
    path = Path(source or "")
    if not source or not path.exists():
        raise InputError(f"source '{source}': not there; give a folder, a DICOMDIR or a URL")
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    header = _header(path)
    if header is None or header.file_meta.MediaStorageSOPClassUID != MediaStorageDirectoryStorage:
        raise InputError(f"source '{path}': no DICOMDIR; give the folder of the file instead")
    records = header.get("DirectoryRecordSequence") or []
    names = [r.ReferencedFileID for r in records if r.get("ReferencedFileID")]
    parts = [[name] if isinstance(name, str) else list(name) for name in names]
    files = [path.parent.joinpath(*part) for part in parts]
    raise_problems(
        [
            f"'{f}': listed in '{path}', but no such file; copy the whole medium"
            for f in files
            if not f.is_file()
        ]
    )
    return files


def _header(path: Path) -> Header | None:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError, EOFError):
        return None


class _Collection:
    """What one call finds and writes."""

    def __init__(self, root: Path, irregular: str) -> None:
        self.root = root
        self.irregular = irregular
        self.left_out: Counter[str] = Counter()
        self.images: dict[str, dict[str, object]] = {}
        self.by_series: dict[str, list[str]] = defaultdict(list)
        self.problems: list[str] = []
        self.masks = 0

    def fill(self, files: Iterable[Path], source: str) -> None:
        """Write the folders and the report."""
        groups, masks = self.sort(files)
        if not groups:
            found = ", ".join(f"{n} {what}" for what, n in self.left_out.items()) or "nothing"
            raise InputError(f"source '{source}': no DICOM image in it (found: {found})")
        for number, group in enumerate(groups, start=1):
            self.write_group(f"series_{number:03d}", group)
        if self.problems:
            hint = 'set "irregular" to "leave_out" or "slices" to go on without'
            raise_problems([f"{line} ({hint})" for line in self.problems])
        for path, header in masks:
            self.write_mask(path, header)
        report = {
            "images": self.images,
            "masks": self.masks,
            "left_out": dict(sorted(self.left_out.items())),
        }
        with replacing(self.root / "collection.json") as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")
        logger.info("%d images or series, %d masks", len(groups), self.masks)
        for what, count in sorted(self.left_out.items()):
            logger.info("left out: %d %s", count, what)

    def sort(self, files: Iterable[Path]) -> tuple[list[Group], Group]:
        """Groups of images that may be one volume, in the order of their files; and masks."""
        groups: dict[tuple[object, ...], Group] = defaultdict(list)
        captures: dict[tuple[object, ...], Group] = defaultdict(list)
        masks: Group = []
        seen: set[str] = set()
        for path in files:
            header = _header(path)
            if header is None:
                self.left_out["files that are not DICOM"] += 1
                continue
            instance = str(header.get("SOPInstanceUID") or path)
            if instance in seen:
                self.left_out["copies of an image"] += 1
            elif header.get("Modality") in KINDS:
                masks.append((path, header))
            elif header.get("Modality") in NON_IMAGES or "Rows" not in header:
                self.left_out["objects without image"] += 1
            elif "LOCALIZER" in (header.get("ImageType") or []):
                self.left_out["localizers"] += 1
            elif str(header.get("SOPClassUID")).startswith(SecondaryCaptureImageStorage):
                captures[_key(header)].append((path, header))
            else:
                groups[_key(header)].append((path, header))
            seen.add(instance)
        if groups and captures:
            self.left_out["secondary captures"] += sum(map(len, captures.values()))
        return list((groups or captures).values()), masks

    def write_group(self, name: str, group: Group) -> None:
        """Copy one series, and see whether it is a regular grid."""
        folder, first = self.root / "images", group[0][1]
        has_place = all("ImagePositionPatient" in header for _, header in group)
        is_volume = len(group) > 1 and has_place
        if is_volume:
            for number, (path, _) in enumerate(group, start=1):
                _copy(path, folder / name / f"{number:06d}.dcm")
            try:
                find_series(folder / name)
            except InputError as error:
                shutil.rmtree(folder / name)
                reason = str(error).partition("': ")[2]
                if self.irregular == "refuse":
                    self.problems.append(f"series with '{group[0][0]}': {reason}")
                    return
                if self.irregular == "leave_out":
                    self.left_out[f"images of an irregular series: {reason}"] += len(group)
                    return
                is_volume = False
        names = [name]
        if not is_volume:
            if len(group) > 1:
                names = [f"{name}_{number:04d}" for number in range(1, len(group) + 1)]
            for target, (path, _) in zip(names, group, strict=True):
                _copy(path, folder / f"{target}.dcm")
        self.by_series[str(first.get("SeriesInstanceUID"))] += names
        for target in names:
            files = len(group) if is_volume else 1
            self.images[target] = {"modality": str(first.get("Modality", "")), "files": files}

    def write_mask(self, path: Path, header: Header) -> None:
        """Copy the mask of a series beside it."""
        names = self.by_series.get(_referenced_series(header), [])
        target = self.root / "masks" / f"{names[0]}.dcm" if len(names) == 1 else None
        if target is None:
            self.left_out["masks without their series, or of one in several parts"] += 1
        elif target.exists():
            self.left_out["further masks of a series that has one"] += 1
        else:
            _copy(path, target)
            self.masks += 1


def _key(header: Header) -> tuple[object, ...]:
    """Equal for images that may be slices of one volume; frames stand alone."""
    orientation = header.get("ImageOrientationPatient")
    turned = tuple(round(float(x), 3) for x in orientation) if orientation else ()
    alone = header.get("SOPInstanceUID") if int(header.get("NumberOfFrames") or 1) > 1 else None
    size = (header.get("Rows"), header.get("Columns"))
    return (header.get("SeriesInstanceUID"), turned, *size, alone)


def _referenced_series(header: Header) -> str:
    """SeriesInstanceUID of the images that a mask refers to, "" where it names none."""
    try:
        if header.Modality == "SEG":
            return str(header.ReferencedSeriesSequence[0].SeriesInstanceUID)
        frame = header.ReferencedFrameOfReferenceSequence[0]
        study = frame.RTReferencedStudySequence[0]
        return str(study.RTReferencedSeriesSequence[0].SeriesInstanceUID)
    except (AttributeError, IndexError):
        return ""


def _copy(path: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)
