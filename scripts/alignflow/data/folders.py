"""Images and masks in folders, and which of them belong together."""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from alignflow.data.check import listed, raise_problems
from alignflow.data.content import is_dicom, is_system
from alignflow.data.dicom import SUFFIXES as DICOM_SUFFIXES
from alignflow.data.formats import split_suffix
from alignflow.data.nnunet import FOLDERS as NNUNET_FOLDERS
from alignflow.errors import InputError

FOLDERS = {"images": ("labels", "masks"), **{i: (m,) for i, m in NNUNET_FOLDERS.items()}}
SEPARATOR = re.compile(r"[_\-. /]")
WORD_FIRST = re.compile(r"[\W_]+[^\W\d_]")
MASK_WORD = re.compile(
    "seg|mask|label|annot|contour|outline|truth|manual|lesion|(?<![a-z])(?:roi|gt)", re.IGNORECASE
)
MASK_NAME = re.compile(r"(.*)([_\-. /])(?:d?seg|segmentation|masks?|labels?)", re.IGNORECASE)
BIDS_END = re.compile(r"(?:_[a-zA-Z]+-[^_/]+)*_[a-zA-Z0-9]+|/.*")  # no suffix of another image
BIDS = re.compile(r"((?:.*/)?sub-[^_/]+(?:_[a-zA-Z]+-[^_/]+)*)_[a-zA-Z0-9]+")  # entities_suffix


def find_folders(root: Path) -> tuple[Path, list[Path]]:
    """The folder of the images, and the folders of masks that are there.

    Returns:
        `images/` with `labels/`, `masks/`, or nnU-Net's `imagesTr/` with `labelsTr/`, `imagesTs/`
        with `labelsTs/`; else the folder itself with `labels/`, `masks/`.
    """
    name = next((name for name in FOLDERS if (root / name).is_dir()), "")
    masks = FOLDERS.get(name, FOLDERS["images"])
    return root / name, [root / mask for mask in masks if (root / mask).is_dir()]


def list_images(folder: Path, aside: Sequence[Path] = ()) -> list[Path]:
    """Images of a folder and its subfolders: files, and folders that are a DICOM series.

    DICOM files without a suffix are listed, too: `formats.load` tells of it.

    Args:
        folder: with all below it but what systems leave there, see `content.is_system`.
        aside: folders that are left out.
    """
    return [path for path in _files(folder, series=True) if not {*path.parents, path} & {*aside}]


def list_masks(folder: Path) -> list[Path]:
    """Files of a folder and its subfolders that may be masks."""
    return list(_files(folder, series=False))


def list_entries(folder: Path) -> list[Path]:
    """Files and folders of a folder, sorted, but what systems leave there."""
    return [path for path in sorted(folder.iterdir()) if not is_system(path)]


def by_name(paths: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Paths by their names below a folder without suffix: "case0", "patient0/case0".

    Letters are composed (NFC), whichever way the file system has them.

    Raises:
        InputError: two of one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        name = _name(path, folder)
        if name in found:
            raise InputError(
                f"'{path}': '{found[name].name}' has the same stem; rename one, pairs go by stem"
            )
        found[name] = path
    return found


def pair(
    images: Mapping[str, Path], masks: Mapping[str, Path], folder: Path | None = None
) -> dict[str, Path]:
    """The mask of each image, by name: case0 has the mask case0, or case0_mask, case0.seg, ...

    A warning names the masks that fit no image.

    Args:
        images, masks: see `by_name`.
        folder: of the masks, where each image needs one; None: images may have none.

    Raises:
        InputError: several masks fit an image; an image has none and needs one.
    """
    fits = _fitting(images, masks)
    used = {mask for found in fits.values() for mask in found}
    free = sorted(masks.keys() - used)
    problems = [
        f"image '{images[image]}': {len(found)} masks fit, "
        f"{listed(mask + split_suffix(masks[mask])[1] for mask in found)}; leave one, with a "
        "value for each class"
        for image, found in fits.items()
        if len(found) > 1
    ]
    if folder is not None:
        there = [masks[mask] for mask in free or sorted(masks)] or list_entries(folder)
        names = listed(path.relative_to(folder).as_posix() for path in there)
        problems += [
            f"image '{images[image]}': no mask '{folder / image}.*'; add it (there: {names})"
            for image, found in fits.items()
            if not found
        ]
    raise_problems(problems)
    for mask in free:
        warnings.warn(f"mask '{masks[mask]}': no image of this name; it is not used", stacklevel=3)
    return {image: masks[found[0]] for image, found in fits.items() if found}


def masks_among(paths: Iterable[Path], folder: Path) -> list[Path]:
    """Files whose names say that they are masks of others: case0_mask beside case0, p0/mask."""
    names = {path: f"/{_name(path, folder)}" for path in paths}
    known = {*names.values()}
    matches = ((path, MASK_NAME.fullmatch(name)) for path, name in names.items())
    return [path for path, match in matches if match and (match[2] == "/" or match[1] in known)]


def short_names(paths: Sequence[str]) -> list[str]:
    """File names; where two are equal, of all what follows the folder that they share."""
    names = [Path(path).name for path in paths]
    if len(set(names)) == len(names):
        return names
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [Path(os.path.relpath(path, shared)).as_posix() for path in paths]


def _name(path: Path, folder: Path) -> str:
    name = path.relative_to(folder).with_name(split_suffix(path)[0]).as_posix()
    return unicodedata.normalize("NFC", name)


def _files(folder: Path, series: bool, within: tuple[Path, ...] = ()) -> Iterator[Path]:
    within = (*within, folder.resolve())  # a link may lead back
    for path in list_entries(folder):
        if not path.is_dir():
            if split_suffix(path)[1] or is_dicom(path):
                yield path
        elif series and _is_series(path):
            yield path
        elif path.resolve() not in within:
            yield from _files(path, series, within)


def _is_series(folder: Path) -> bool:
    """Whether a folder holds the slices of an image, and not images of a patient."""
    entries = list_entries(folder)
    files = [path for path in entries if not path.is_dir()]
    suffixes = {split_suffix(path)[1] for path in files}
    if suffixes & {*DICOM_SUFFIXES} or any(is_dicom(f) for f in files if not split_suffix(f)[1]):
        return True
    return suffixes <= {""} and len(files) == len(entries)


def _fitting(images: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, list[str]]:
    """Names of the masks that fit each image."""
    fits = _by_begin(images, masks)
    nested = [any("/" in name for name in names) for names in (images, masks)]
    if not any(fits.values()) and nested[0] != nested[1]:  # one of them in folders of patients
        flat = [{name.rpartition("/")[2]: name for name in names} for names in (images, masks)]
        if len(flat[0]) == len(images) and len(flat[1]) == len(masks):
            found = _by_begin(*flat)
            fits = {flat[0][i]: [flat[1][m] for m in names] for i, names in found.items()}
    for image in [image for image, found in fits.items() if not found]:
        fits[image] = _in_folder(image, images, masks)
    return fits


def _by_begin(images: Collection[str], masks: Collection[str]) -> dict[str, list[str]]:
    """Masks of each image: that of its own name, else those whose names begin with it.

    What follows the name must speak of a mask, or be the same in all pairs: where others have masks
    of their own names, case_1_left is not a mask of case_1.
    """
    owners = _owners(images)
    fits = {image: [image] if image in masks else [] for image in images}
    has_own = any(fits.values())
    begun = [
        (image, mask, end)
        for mask in masks
        if mask not in images
        for image, end in _owner(mask, owners)
        if not fits[image]
    ]
    is_uniform = not has_own and len({end for _, _, end in begun}) == 1
    ends = {image: "" for image, found in fits.items() if found}
    for image, mask, end in begun:
        if end[0] == "/" or is_uniform or MASK_WORD.search(end):
            fits[image].append(mask)
            ends |= {} if end[0] == "/" else {mask: end}
    common = Counter(ends.values()).most_common(1)
    odd = [mask for mask, end in ends.items() if end != common[0][0]]
    if odd:
        warnings.warn(
            f"masks: {listed(odd)} end differently from the other masks; check that each is of the "
            "image whose name it begins with",
            stacklevel=5,
        )
    return fits


def _owners(images: Collection[str]) -> dict[str, str]:
    """Image by what the name of its mask may begin with.

    That is its name, and of a BIDS name the entities alone: sub-01_T1w has the mask sub-01_dseg,
    if it is the only image of sub-01.
    """
    entities = {image: match[1] for image in images if (match := BIDS.fullmatch(image))}
    counts = Counter(entities.values())
    only = {begin: image for image, begin in entities.items() if counts[begin] == 1}
    return only | {image: image for image in images}


def _owner(mask: str, owners: Mapping[str, str]) -> list[tuple[str, str]]:
    """The image with the longest name that a mask's begins with, and what follows it."""
    for match in reversed([*SEPARATOR.finditer(mask)]):
        begin, end = mask[: match.start()], mask[match.start() :]
        # case_1_2_mask is of another case, but p0/1-1 lies in the folder of p0
        is_whole = owners.get(begin) == begin or BIDS_END.fullmatch(end)
        if begin in owners and is_whole and (end[0] == "/" or WORD_FIRST.match(end)):
            return [(owners[begin], end)]
    return []


def _in_folder(image: str, images: Collection[str], masks: Mapping[str, Path]) -> list[str]:
    """Masks of a patient who has this image alone: of the patient's name, or in DICOM.

    DICOM masks state their place in space, others need a name.
    """
    patient = image.rpartition("/")[0]
    while patient and sum(other.startswith(f"{patient}/") for other in images) == 1:
        found = [
            mask
            for mask, path in masks.items()
            if mask == patient
            or (mask.startswith(f"{patient}/") and split_suffix(path)[1] in DICOM_SUFFIXES)
        ]
        if found:
            return found
        patient = patient.rpartition("/")[0]
    return []
