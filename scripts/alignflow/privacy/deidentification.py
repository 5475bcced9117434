"""Do written files hold anything that tells of a person, a file or a folder of the inputs?"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import pydicom
import SimpleITK
from PIL import Image
from pydicom.dataelem import DataElement

from alignflow.data.dicom import SUFFIXES as DICOM_SUFFIXES
from alignflow.data.formats import ITK_SUFFIXES, NIFTI_SUFFIXES, PIL_SUFFIXES, split_suffix

LEAST_LETTERS = 6  # shorter names stand in files by chance
OWN_NAME = re.compile(r"pair_\d+|dataset\.json|index\.csv")
TEXT = re.compile(rb"[ -~]{%d,}" % LEAST_LETTERS)
OWN_UIDS = ("2.25.", "1.2.840.10008.", "1.2.826.0.1.3680043.8.498.")
"""Made from nothing but numbers; the standard's own; pydicom as the writing program."""
TEXTS = {"AE", "AS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UN", "UR", "UT"}
OWN_TEXTS = {
    "PatientName": r"Synthetic\^Image",
    "PatientID": "SYNTHETIC",
    "StudyDescription": "Synthetic images",
    "SeriesDescription": r"(Mask of s|S)ynthetic image \d+",
    "Manufacturer": "AlignFlow",
    "ManufacturerModelName": "AlignFlow",
    "AlgorithmName": "AlignFlow",
    "SegmentAlgorithmName": "AlignFlow",
    "SoftwareVersions": r"[\d.]+\w*",
    "AlgorithmVersion": r"[\d.]+\w*",
    "DeviceSerialNumber": r"\d{1,16}",
    "ImplementationVersionName": r"PYDICOM [\d.]+",
    "ContentDate": "20000101",
    "ContentTime": "000000",
    "RescaleType": "HU|US",
    "DimensionDescriptionLabel": "[A-Za-z ]+",
    # names of classes and coded terms; names of the inputs are looked for in them all the same
    "SegmentLabel": ".*",
    "CodeValue": ".*",
    "CodeMeaning": ".*",
    "CodingSchemeDesignator": ".*",
}
"""What `data/dicom_writer.py` and `dicom_seg.py` write; any other text may tell of a person."""
PATIENT_GROUP = 0x0010  # numbers and codes of which (age, sex, weight) describe a person
NIFTI_TEXTS = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
OWN_KEYS = re.compile(r"ITK_|NRRD_(space|kinds|measurement)|ObjectType|Modality$")
SOFTWARE_TAG = 305  # of EXIF and TIFF: the program
PICTURE_KEYS = {"Software", "compression", "exif"}

Finding = dict[str, str]


def check_folders(
    folders: Iterable[Path], names: Iterable[str], left_out: Iterable[Path] = ()
) -> dict[str, Any]:
    """Check every file below some folders.

    Pictures: comments, text chunks, EXIF. NIfTI: text fields, extensions. NRRD and MetaImage: keys.
    DICOM: Synthetic Data (0008,001C) YES; no private attribute; no text, date, identifier of this
    patient or UID but those that this package writes, which is stricter than the Basic Profile of
    PS3.15, annex E. Every file, of whatever kind: its bytes (those of .gz decompressed) and its
    name hold none of `names`.

    Args:
        folders: to check, with all below them.
        names: that no file may hold, such as those of `names_of`.
        left_out: folders within them that are not checked.

    Returns:
        "files": their number by kind; "findings": [{"file", "field", "value"}], empty if all is
        well, values cut to 80 characters.
    """
    searched = [(name, name.encode()) for name in sorted(set(names))]
    counts: Counter[str] = Counter()
    findings: list[Finding] = []
    for folder in folders:
        for path in _files(folder, left_out):
            kind, check = _kind(path)
            counts[kind] += 1
            found = [*_guarded(check, path), *_names_in(path, searched)]
            file = str(path.relative_to(folder))
            findings += [{"file": file, "field": f, "value": v[:80]} for f, v in found]
    return {"files": dict(counts), "findings": findings}


def names_of(folders: Iterable[str | Path | None]) -> set[str]:
    """What would tell where an image came from: paths, file names, persons and UIDs of inputs.

    Names of fewer than `LEAST_LETTERS` characters, and those of digits alone, are left out: they
    stand in many files by chance.
    """
    found: set[str] = set()
    for folder in folders:
        if folder is None:
            continue
        root = Path(folder)
        found |= {str(folder), str(root.resolve())}
        for path in root.rglob("*"):
            if path.is_dir():
                continue
            stem = split_suffix(path)[0]
            found |= {stem, re.sub(r"_\d{4}$", "", stem)}  # of a case of nnU-Net too
            if split_suffix(path)[1] in ("", *DICOM_SUFFIXES):
                found |= set(_identities(path))
    return {
        name
        for name in found
        if len(name) >= LEAST_LETTERS and not name.isdigit() and not OWN_NAME.fullmatch(name)
    }


def _files(folder: Path, left_out: Iterable[Path]) -> Iterator[Path]:
    hidden = {path.resolve() for path in left_out}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not hidden & set(path.resolve().parents):
            yield path


def _kind(path: Path) -> tuple[str, Callable[[Path], Iterator[tuple[str, str]]]]:
    suffix = split_suffix(path)[1]
    for kind, suffixes, check in (
        ("picture", PIL_SUFFIXES, _picture),
        ("nifti", NIFTI_SUFFIXES, _nifti),
        ("nrrd or metaimage", ITK_SUFFIXES, _itk),
        ("dicom", DICOM_SUFFIXES, _dicom),
    ):
        if suffix in suffixes:
            return kind, check
    return "other", lambda _: iter(())


def _guarded(
    check: Callable[[Path], Iterator[tuple[str, str]]], path: Path
) -> list[tuple[str, str]]:
    try:
        return list(check(path))
    except Exception as error:  # each library has exceptions of its own
        return [("unreadable", f"{type(error).__name__}: {error}")]


def _names_in(path: Path, names: list[tuple[str, bytes]]) -> Iterator[tuple[str, str]]:
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    # Weights hold next to no text, and many names are searched in what little there is.
    text = b"\n".join(TEXT.findall(data))
    for name, coded in names:
        if coded in path.name.encode() and _whole(coded, path.name.encode()):
            yield "file name", name
        searched = text if name.isascii() and name.isprintable() else data
        if coded in searched and _whole(coded, searched):
            yield "content", name


def _whole(name: bytes, data: bytes) -> bool:
    """Whether a name stands there and not only within a longer word."""
    return re.search(rb"(?<![A-Za-z0-9])" + re.escape(name) + rb"(?![A-Za-z0-9])", data) is not None


def _picture(path: Path) -> Iterator[tuple[str, str]]:
    with Image.open(path) as image:
        image.load()
        for key, value in image.info.items():
            if isinstance(value, (str, bytes)) and value and key not in PICTURE_KEYS:
                yield f"text '{key}'", str(value)
        for tag, value in image.getexif().items():
            if isinstance(value, (str, bytes)) and value and tag != SOFTWARE_TAG:
                yield f"EXIF {tag}", str(value)


def _nifti(path: Path) -> Iterator[tuple[str, str]]:
    header: Any = nibabel.load(path).header
    for field in NIFTI_TEXTS:
        if field in header and bytes(header[field].item()).strip(b"\0 "):
            yield field, bytes(header[field].item()).decode(errors="replace")
    for extension in getattr(header, "extensions", []):
        yield "extension", str(extension.get_content())


def _itk(path: Path) -> Iterator[tuple[str, str]]:
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    for key in reader.GetMetaDataKeys():
        if not OWN_KEYS.match(key) and reader.GetMetaData(key).strip():
            yield key, reader.GetMetaData(key)


def _dicom(path: Path) -> Iterator[tuple[str, str]]:
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    if dataset.get("SyntheticData") != "YES":
        yield "SyntheticData", str(dataset.get("SyntheticData", "missing"))
    for element in (*dataset.file_meta.iterall(), *dataset.iterall()):
        name = element.keyword or str(element.tag)
        if not _is_own(element):
            yield name, str(element.value)


def _is_own(element: DataElement) -> bool:
    if element.tag.is_private:
        return False
    if element.VR == "SQ" or element.is_empty:
        return True
    values = element.value if element.VM > 1 else [element.value]
    if element.VR == "UI":
        return all(str(value).startswith(OWN_UIDS) for value in values)
    if element.VR in TEXTS:
        allowed = OWN_TEXTS.get(element.keyword)
        return allowed is not None and all(re.fullmatch(allowed, str(v)) for v in values)
    return element.tag.group != PATIENT_GROUP


def _identities(path: Path) -> Iterator[str]:
    """Persons, identifiers and UIDs of an input file; nothing where it is no DICOM."""
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
    except (pydicom.errors.InvalidDicomError, OSError):
        return
    for element in dataset.iterall():
        values = [] if element.is_empty or element.VR == "SQ" else [element.value]
        values = list(element.value) if values and element.VM > 1 else values
        for value in map(str, values):
            is_uid = element.VR == "UI" and not value.startswith("1.2.840.10008.")
            if is_uid or element.VR == "PN" or element.keyword in ("PatientID", "AccessionNumber"):
                yield value
