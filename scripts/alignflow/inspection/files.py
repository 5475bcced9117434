"""Facts of one image file and its mask."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from monai.data import MetaTensor
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d
from tqdm import tqdm

from alignflow.data.check import check_image, check_mask, check_pair
from alignflow.data.classes import Look, look_at
from alignflow.data.folders import short_names
from alignflow.data.formats import has_geometry, load, split_suffix
from alignflow.data.labels import Labels
from alignflow.data.structures import Structures
from alignflow.errors import InputError

THUMBNAIL = 32
"""Pixels along the sides of what duplicates are looked for in; of volumes half, in 4 layers."""


@dataclass
class FileFacts:
    """One image with its mask, as far as they could be read.

    Attributes:
        image, label: paths; None without a mask.
        group: patient or sequence.
        name: of the image's file, for messages.
        problem: why it cannot be used, or "".
        suffix: ".png", ...
        size: voxels along each axis, of 2-D images two.
        spacing: mm along each axis; None where the file states none.
        modality: of the file or of `dataset.json`, "" where neither states one.
        channels: C.
        intensity: (low, mean, high) of each channel, native units.
        look: at the mask, see `classes.look_at`; no values where it cannot be used.
        shares: native mask value -> share of the pixels.
        digest, thumbnail: of the image; (D,) float32, mean 0 and norm 1.
        mask_digest: of the mask.
    """

    image: str
    label: str | None
    group: str
    name: str
    problem: str = ""
    suffix: str = ""
    size: tuple[int, ...] = ()
    spacing: tuple[float, ...] | None = None
    modality: str = ""
    channels: int = 0
    intensity: list[tuple[float, float, float]] = field(default_factory=list)
    look: Look = field(default_factory=lambda: ([], set()))
    shares: dict[float, float] = field(default_factory=dict)
    digest: str = ""
    thumbnail: Tensor | None = None
    mask_digest: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is a mask without foreground."""
        return bool(self.shares) and not any(self.shares[v] for v in self.shares if v != 0)


def read_facts(
    cases: Iterable[dict[str, str]],
    mask_threshold: float | None,
    name: str,
    structures: Structures | None = None,
) -> list[FileFacts]:
    """Facts of all files; what cannot be read becomes a problem of its entry.

    Args:
        cases: "image", and optionally "label", "group" and "modality".
        mask_threshold: foreground is what lies above it; None: masks hold class values.
        name: shown before the progress bar.
        structures: of DICOM masks, as `formats.load` takes them.
    """
    cases = list(cases)
    names = short_names([case["image"] for case in cases])
    shown = tqdm(cases, desc=f"checking {name}", unit="file", disable=None)
    return [
        facts_of(case, own, mask_threshold, structures)
        for own, case in zip(names, shown, strict=True)
    ]


def facts_of(
    case: dict[str, str],
    name: str,
    mask_threshold: float | None,
    structures: Structures | None = None,
) -> FileFacts:
    """Read one image and its mask; `name` is that of the image in messages."""
    group = case.get("group", split_suffix(case["image"])[0])
    facts = FileFacts(case["image"], case.get("label"), group, name)
    try:
        image = load(case["image"])
        _describe(facts, image)
        facts.modality = str(image.meta["modality"] or case.get("modality", ""))
        check_image(image)
        if facts.label is not None:
            mask = load(facts.label, is_mask=True, image=image, structures=structures)
            _describe_mask(facts, mask, mask_threshold)
            check_pair(image, mask)
            check_mask(mask, is_integer=mask_threshold is None)
            facts.look = look_at(mask)
    except InputError as error:
        facts.problem = str(error)
    return facts


def _describe(facts: FileFacts, image: MetaTensor) -> None:
    values = image.as_tensor()
    facts.suffix = image.meta["suffix"]
    facts.channels = values.shape[0]
    size = tuple(values.shape[1:])
    facts.size = size[:2] if size[2:] == (1,) else size
    if has_geometry(image):
        voxel = np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
        facts.spacing = tuple(round(float(mm), 4) for mm in voxel)
    flat = values.flatten(1)
    facts.intensity = [(float(c.min()), float(c.mean()), float(c.max())) for c in flat]
    facts.digest = _digest(values)
    facts.thumbnail = thumbnail(values)


def _describe_mask(facts: FileFacts, mask: MetaTensor, mask_threshold: float | None) -> None:
    values = mask.as_tensor()
    facts.mask_digest = _digest(values)
    if mask_threshold is not None:
        values = (values > mask_threshold).float()
    found, counts = values.unique(return_counts=True)
    total = values.numel()
    facts.shares = {
        float(v): int(n) / total for v, n in zip(found.tolist(), counts.tolist(), strict=True)
    }


def thumbnail(values: Tensor) -> Tensor:
    """(D,) of mean 0 and norm 1 from (C, X, Y[, Z]), unmoved by brightness and contrast."""
    flat = values.shape[3:] in ((), (1,))
    small = (
        adaptive_avg_pool2d(values.reshape(values.shape[:3]), THUMBNAIL)
        if flat
        else adaptive_avg_pool3d(values, (THUMBNAIL // 2, THUMBNAIL // 2, 4))
    )
    centred = (small - small.mean()).flatten()
    return centred / centred.norm().clamp(min=1e-12)


def _digest(values: Tensor) -> str:
    content = f"{tuple(values.shape)}".encode() + values.contiguous().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def facts(files: Sequence[FileFacts]) -> dict[str, Any]:
    """Counts, formats, sizes, spacing and intensities of files, for JSON."""
    read = [f for f in files if f.channels]
    result: dict[str, Any] = {
        "images": len(files),
        "unreadable": len(files) - len(read),
        "formats": dict(Counter(f.suffix for f in read)),
        "channels": dict(Counter(str(f.channels) for f in read)),
        "modalities": dict(Counter(f.modality or "not stated" for f in read)),
        "sizes": _range([f.size for f in read]),
        "spacing_mm": _range([f.spacing for f in read if f.spacing is not None]),
        "intensity": [],
    }
    for channel in range(max((f.channels for f in read), default=0)):
        rows = np.array([f.intensity[channel] for f in read if f.channels > channel])
        result["intensity"].append(
            {
                "lowest": float(rows[:, 0].min()),
                "median_mean": float(np.median(rows[:, 1])),
                "highest": float(rows[:, 2].max()),
            }
        )
    return result


def mask_facts(files: Sequence[FileFacts], labels: Labels | None = None) -> dict[str, Any]:
    """Classes, their share of the area, and empty masks, for JSON."""
    names = {value: name for name, value in (labels or {}).items()}
    masked = [f for f in files if f.shares]
    values = sorted({v for f in masked for v in f.shares} - {0.0})
    classes = {}
    for value in values[:32]:
        shares = np.array([f.shares[value] for f in masked if f.shares.get(value)])
        low, middle, high = np.percentile(shares, [5, 50, 95])
        classes[f"{value:g}"] = {
            "name": names.get(value, ""),
            "images": len(shares),
            "area": {"low": float(low), "median": float(middle), "high": float(high)},
        }
    return {
        "masks": len(masked),
        "empty": sum(f.is_empty for f in masked),
        "values": len(values),
        "classes": classes,
    }


def _range(values: Sequence[tuple[float, ...]]) -> dict[str, Any] | None:
    """The most common tuple, how many have it, and the smallest and largest along each axis."""
    if not values:
        return None
    common, count = Counter(values).most_common(1)[0]
    alike = np.array([v for v in values if len(v) == len(common)])
    return {
        "common": list(common),
        "share": count / len(values),
        "smallest": alike.min(axis=0).tolist(),
        "largest": alike.max(axis=0).tolist(),
    }
