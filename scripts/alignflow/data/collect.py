"""Whatever a hospital exports as DICOM, sorted into the folders that training and alignment read.

OUTPUT/images/series_001/000001.dcm   a folder for each regular series
OUTPUT/images/series_002.dcm          a file for an image that stands alone
OUTPUT/images/series_003.nii.gz       an irregular series that was resampled
OUTPUT/masks/series_001.dcm           its segmentation or structure set, if there is one
OUTPUT/index.csv                      the patient of each image, as a number: splits keep it whole
OUTPUT/collection.json                what was found; what was left out or resampled, and why
OUTPUT/dataset.json                   the modality, which resampled files do not state

A run works in OUTPUT/.collecting and moves what it has made out of there at its end.
"""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import cast

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import MediaStorageDirectoryStorage, SecondaryCaptureImageStorage

from alignflow.data.check import raise_problems
from alignflow.data.dicom import (
    NON_IMAGES,
    Series,
    find_series,
    is_repetition,
    read_series,
    series_of,
    stacks,
)
from alignflow.data.dicom_header import read_file
from alignflow.data.dicom_masks import KINDS, read_mask_on_planes
from alignflow.data.dicom_planes import Planes, irregularity, resample
from alignflow.data.dicomweb import fetch, is_url
from alignflow.data.formats import first_line
from alignflow.data.intensity import to_dtype
from alignflow.data.writer import write_volume
from alignflow.errors import InputError
from alignflow.files import replacing
from alignflow.hashes import is_inside
from alignflow.lock import FILE as LOCK

logger = logging.getLogger(__name__)

WORK, SORTED = ".collecting", "sorted"
MADE = ("masks", "images", "dataset.json", "index.csv", "collection.json")
IRREGULAR = ("refuse", "resample", "leave_out", "slices")
Header = pydicom.Dataset
Group = list[tuple[Path, Header]]


def collect(
    source: str | None,
    output_dir: str,
    irregular: str = "refuse",
    dicomweb_timeout: float = 60.0,
    dicomweb_attempts: int = 5,
) -> None:
    """Sort DICOM files by series; files are copied, not changed, but for series to resample.

    Localizers are left out, and secondary captures where there are other images; a series of
    several orientations or sizes becomes several.

    Args:
        source: a folder (with all below it), a DICOMDIR, or a DICOMweb URL as `dicomweb.fetch`
            takes it.
        output_dir: a new folder.
        irregular: what becomes of series with gaps, uneven steps or a tilted gantry: "refuse" them
            all, "resample" them to a regular grid along their normal (images linearly, masks by the
            nearest voxel), "leave_out", or "slices": each image by itself, without mask, and none
            of multi-frame files. Different slices at one place cannot be resampled.
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
    """A folder or a file, if it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


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
    # Anything else could bring in another person's files from beside the medium.
    raise_problems(
        [
            f"'{path}': lists '{'/'.join(part)}', which is not below its folder; give the folder"
            for part in parts
            if not is_inside("/".join(part))
        ]
    )
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
        return read_file(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError, EOFError):
        return None


class _Collection:
    """What one call finds and writes."""

    def __init__(self, root: Path, irregular: str) -> None:
        self.root = root
        self.irregular = irregular
        self.left_out: Counter[str] = Counter()
        self.images: dict[str, dict[str, object]] = {}
        self.patients: dict[str, str] = {}
        self.by_series: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.problems: list[str] = []
        self.masks = 0
        self.resampled: dict[str, tuple[tuple[int, int], Planes, list[str]]] = {}

    def fill(self, files: Iterable[Path], source: str) -> None:
        """Write the folders and the report."""
        groups, masks = self.sort(files)
        if not groups:
            found = ", ".join(f"{n} {what}" for what, n in self.left_out.items()) or "nothing"
            raise InputError(f"source '{source}': no DICOM image in it (found: {found})")
        for number, group in enumerate(groups, start=1):
            self.write_group(f"series_{number:03d}", group)
        if self.problems:
            others = [f'"{way}"' for way in IRREGULAR if way not in ("refuse", self.irregular)]
            hint = f'set "irregular" to {" or ".join(others)}'
            raise_problems([f"{line} ({hint})" for line in self.problems])
        for path, header in masks:
            self.write_mask(path, header)
        for name in self.resampled:
            _remove(self.root / "images" / name)
            _remove(self.root / "images" / f"{name}.dcm")
        self.write_modality()
        self.write_patients()
        report = {
            "images": self.images,
            "masks": self.masks,
            "left_out": dict(sorted(self.left_out.items())),
        }
        with replacing(self.root / "collection.json") as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        logger.info("%d images or series, %d masks", len(groups), self.masks)
        for what, count in sorted(self.left_out.items()):
            logger.info("left out: %d %s", count, what)

    def sort(self, files: Iterable[Path]) -> tuple[list[Group], Group]:
        """Groups of images that may be one volume, in the order of their files; and masks."""
        groups: dict[tuple[object, ...], Group] = defaultdict(list)
        captures: dict[tuple[object, ...], Group] = defaultdict(list)
        masks: Group = []
        seen: dict[str, Path] = {}
        for path in files:
            header = _header(path)
            if header is None:
                self.left_out["files that are not DICOM"] += 1
                continue
            instance = str(header.get("SOPInstanceUID") or path)
            if instance in seen and is_repetition(path, seen[instance]):
                self.left_out["copies of an image"] += 1
            elif header.get("Modality") in KINDS:
                masks.append((path, header))
            elif header.get("Modality") in NON_IMAGES or "Rows" not in header:
                self.left_out["objects without image"] += 1
            elif "LOCALIZER" in (header.get("ImageType") or []):
                self.left_out["localizers"] += 1
            elif str(header.get("SOPClassUID")).startswith(SecondaryCaptureImageStorage):
                captures[_key(header, path)].append((path, header))
            else:
                groups[_key(header, path)].append((path, header))
            seen.setdefault(instance, path)
        if groups and captures:
            self.left_out["secondary captures"] += sum(map(len, captures.values()))
        parts = [stacks(group) for group in (groups or captures).values()]
        return [group for found in parts for _, group in found], masks

    def write_group(self, name: str, group: Group) -> None:
        """Copy one series, and see whether it is a regular grid."""
        has_frames = int(group[0][1].get("NumberOfFrames") or 1) > 1
        has_place = all("ImagePositionPatient" in header for _, header in group)
        if not has_frames and (len(group) == 1 or not has_place):
            self.copy_images(name, group)
            return
        target = self.root / "images" / (f"{name}.dcm" if has_frames else name)
        for number, (path, _) in enumerate(group, start=1):
            _copy(path, target if has_frames else target / f"{number:06d}.dcm")
        try:
            series = find_series(target, regular=False)
            reason = None if series.planes is None else irregularity(series.planes)
            if reason is not None and self.irregular == "resample":
                self.resample(name, group, series)
            elif reason is None:
                self.keep(name, group, series)
        except InputError as error:
            reason = str(error).partition("': ")[2]
        if reason is not None and name not in self.images:
            _remove(target)
            self.write_irregular(name, group, reason, has_frames)

    def write_irregular(self, name: str, group: Group, reason: str, has_frames: bool) -> None:
        """What is to become of a series that is no regular grid and is not resampled."""
        if self.irregular == "slices" and not has_frames:
            self.copy_images(name, group)
        elif self.irregular in ("leave_out", "slices"):
            self.left_out[f"images of an irregular series: {reason}"] += len(group)
        else:
            self.problems.append(f"series with '{group[0][0]}': {reason}")

    def resample(self, name: str, group: Group, series: Series) -> None:
        """Write an irregular series on a regular grid, and say from what it was made."""
        planes = cast("Planes", series.planes)
        try:
            array, meta = read_series(series)
        except Exception as error:  # as in `formats.load`
            raise InputError(
                f"image '{name}': cannot be read ({first_line(error)}); remove it"
            ) from error
        volume, affine = resample(array, planes, "linear", float(array.min()))
        path = self.root / "images" / f"{name}.nii.gz"
        write_volume(to_dtype(volume, meta["native_dtype"]), path, affine)
        self.keep(name, group, series)
        facts = _facts(planes, affine, volume.shape[3])
        self.images[name]["resampled"] = facts
        self.resampled[name] = (array.shape[1], array.shape[2]), planes, series.files
        logger.info("'%s': resampled, %s", name, json.dumps(facts))

    def copy_images(self, name: str, group: Group) -> None:
        """Copy each image of a group by itself."""
        names = [name]
        if len(group) > 1:
            names = [f"{name}_{number:04d}" for number in range(1, len(group) + 1)]
        for target, (path, _) in zip(names, group, strict=True):
            _copy(path, self.root / "images" / f"{target}.dcm")
        self.note(names, group, 1)

    def keep(self, name: str, group: Group, series: Series) -> None:
        """Remember a series, and remove copies of slices that it is read without."""
        kept = set(map(Path, series.files))
        for path in set((self.root / "images" / name).glob("*")) - kept:
            path.unlink()
            self.left_out["slices that repeat another"] += 1
        self.note([name], group, len(series.files))

    def note(self, names: list[str], group: Group, files: int) -> None:
        """Remember what was written of a series."""
        first = group[0][1]
        series = str(first.get("PatientID", "")), str(first.get("SeriesInstanceUID"))
        self.by_series[series] += names
        patient = str(first.get("PatientID") or first.get("StudyInstanceUID") or names[0])
        for name in names:
            self.images[name] = {"modality": str(first.get("Modality", "")), "files": files}
            self.patients[name] = patient

    def write_mask(self, path: Path, header: Header) -> None:
        """Copy the mask of a series beside it, or resample it as its series."""
        names = self.by_series.get(_referenced_series(header), [])
        if len(names) != 1:
            self.left_out["masks without their series, or of one in several parts"] += 1
        elif list((self.root / "masks").glob(f"{names[0]}.*")):
            logger.warning("'%s': a further mask of '%s', left out", path, names[0])
            self.left_out["further masks of a series that has one"] += 1
        elif names[0] not in self.resampled:
            _copy(path, self.root / "masks" / f"{names[0]}.dcm")
            self.masks += 1
        else:
            self.resample_mask(path, names[0])

    def resample_mask(self, path: Path, name: str) -> None:
        """Write the mask of a resampled series on the grid of that."""
        shape, planes, files = self.resampled[name]
        try:
            array = read_mask_on_planes(path, shape, planes, files)
        except InputError as error:
            self.left_out[f"masks of resampled series: {str(error).partition(': ')[2]}"] += 1
            return
        volume, affine = resample(array, planes, "nearest", 0.0)
        dtype = "uint8" if volume.max() < 256 else "uint16"
        write_volume(to_dtype(volume, dtype), self.root / "masks" / f"{name}.nii.gz", affine)
        self.masks += 1

    def write_modality(self) -> None:
        """State the modality where all images share it: files that were resampled do not."""
        found = {str(entry["modality"]) for entry in self.images.values()} - {"", "OT"}
        if self.resampled and len(found) == 1:
            with replacing(self.root / "dataset.json") as temporary:
                temporary.write_text(
                    json.dumps({"modality": {"0": found.pop()}}) + "\n", encoding="utf-8"
                )

    def write_patients(self) -> None:
        """Number the patients in the order of their images: identifiers stay where they are."""
        number = {patient: k for k, patient in enumerate(dict.fromkeys(self.patients.values()), 1)}
        rows = [(name, f"patient_{number[p]:03d}") for name, p in sorted(self.patients.items())]
        with (
            replacing(self.root / "index.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows([("stem", "patient"), *rows])


def _facts(planes: Planes, affine: np.ndarray, slices: int) -> dict[str, object]:
    """What a series was resampled from, and to what; steps of slices in mm."""
    steps = np.diff(planes.along)
    facts: dict[str, object] = {
        "from_slices": len(planes.positions),
        "from_steps_mm": [round(float(step), 4) for step in (steps.min(), steps.max())],
        "to_slices": slices,
        "to_step_mm": round(float(np.linalg.norm(affine[:3, 2])), 4),
    }
    return facts | ({"tilt_degrees": round(planes.tilt, 2)} if planes.tilt > 0.01 else {})


def _key(header: Header, path: Path) -> tuple[object, ...]:
    """Equal for images that may be slices of one volume; frames stand alone."""
    alone = path if int(header.get("NumberOfFrames") or 1) > 1 else None
    return *series_of(header), alone


def _referenced_series(header: Header) -> tuple[str, str]:
    """PatientID and SeriesInstanceUID of the images that a mask refers to, "" where it names none.

    A structure set may refer to several frames of reference: its contours lie in one of them.
    """
    patient = str(header.get("PatientID", ""))
    try:
        if header.Modality == "SEG":
            return patient, str(header.ReferencedSeriesSequence[0].SeriesInstanceUID)
        own = header.StructureSetROISequence[0].get("ReferencedFrameOfReferenceUID")
        frames = list(header.ReferencedFrameOfReferenceSequence)
        frame = next((f for f in frames if f.get("FrameOfReferenceUID") == own), frames[0])
        study = frame.RTReferencedStudySequence[0]
        return patient, str(study.RTReferencedSeriesSequence[0].SeriesInstanceUID)
    except (AttributeError, IndexError):
        return patient, ""


def _copy(path: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)
