"""All slices of a data set in memory, ready for training."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.utils import convert_to_tensor
from tqdm import tqdm

from alignflow.data.case import LoadedCase, Resize, Slice, load_case, name_of
from alignflow.data.check import raise_problems
from alignflow.data.intensity import IntensityWindow, Window, median_window, scale
from alignflow.data.labels import (
    Labels,
    check_values,
    complete_labels,
    find_labels,
    require_one_palette,
    to_index,
)
from alignflow.data.named_masks import classes_of_masks, warn_of_others
from alignflow.data.slices import unique_geometries
from alignflow.data.spec import SourceSpec, output_suffixes, writable_dtype
from alignflow.data.structures import Structures
from alignflow.distributed import rank
from alignflow.errors import InputError
from alignflow.masks.class_index import Scheme
from alignflow.masks.distance import to_distance

BINARY: Labels = {"background": 0.0, "foreground": 1.0}  # what a mask above a threshold is read as


class SliceDataset(Dataset):
    """2-D pairs for training: every file is read and checked once, and kept small in memory.

    Item i is {"image": float32 (C, X, Y) in [-1, 1], "label": uint8 (1, X, Y) class index,
    "distance": float32 (K-1, X, Y) in [-1, 1], the truncated signed distance}.

    Args:
        data: the datalist.
        resize: MONAI dictionary transform that brings every slice to one size; labels by "nearest"
            or "nearest-exact". None where they have one size already.
        intensity: the window policy.
        num_workers: threads that read files.
        labels: {name: native value}, or of DICOM masks {name: structure or list of structures};
            None: every value, or every structure by name, is a class.
        mask_threshold: two classes, foreground being values above it (soft or JPEG masks).
        slice_axis: the axis of volumes to cut along: 0, 1 or 2.
        foreground_only: leave out slices of volumes without foreground; 2-D images always stay.
        like: the training set, whose spec (labels, data set window) a validation set takes over.
        clip, scheme: of `to_distance`.
        transform: augmentation of an item, may be random.
        progress: show a progress bar.

    Attributes:
        spec: facts of the source; those of `like` where it is given.
        channels, num_classes, image_size: C, K (with background) and (X, Y).
        case_of: of each item, the number of its entry in `data`.

    Raises:
        InputError: the problems of all files, the first ten of them in full.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        resize: Resize | None,
        intensity: IntensityWindow,
        num_workers: int = 4,
        labels: Labels | None = None,
        mask_threshold: float | None = None,
        slice_axis: int = 2,
        foreground_only: bool = True,
        like: SliceDataset | None = None,
        clip: float = 5.0,
        scheme: Scheme = "disjoint",
        transform: Callable[[Any], Any] | None = None,
        progress: bool = True,
    ) -> None:
        if not data:
            raise InputError("datalist: empty; give at least one image with its mask")
        if slice_axis not in (0, 1, 2):
            raise InputError(f"slice_axis: {slice_axis}; set 0, 1 or 2")
        if like is None:
            labels, structures = classes_of_masks([c["label"] for c in data], labels, scheme)
        else:
            labels, structures = like.spec.labels, like.spec.structures
            rules = Structures.of(scheme, labels, structures)
            warn_of_others([c["label"] for c in data], rules)
        read = partial(
            load_case,
            intensity=intensity,
            resize=resize,
            mask_threshold=mask_threshold,
            slice_axis=slice_axis,
            foreground_only=foreground_only,
            structures=Structures.of(scheme, labels or {}, structures),
        )
        cases = load_cases(data, read, num_workers, progress)
        _check_alike(cases, None if like is None else like.spec)
        if like is None:
            native = _labels(cases, labels, mask_threshold)
        else:
            native = _known_labels(cases, like.spec.labels, mask_threshold)
        self.spec: SourceSpec = _spec(cases, native, structures) if like is None else like.spec
        self.channels = self.spec.channels
        self.num_classes = len(self.spec.labels)
        coded = (
            native if mask_threshold is None else dict(zip(native, BINARY.values(), strict=True))
        )
        window = self.spec.window if intensity.scope == "dataset" else None
        slices = list(_scaled_slices(cases, coded, window))
        self.image_size = _common_size(slices, like)
        self.case_of = [number for number, _, _ in slices]
        items = [self._item(image, label, clip, scheme) for _, image, label in slices]
        super().__init__(items, transform)

    @property
    def label_stack(self) -> torch.Tensor:
        """All masks, uint8 (N, 1, X, Y), as they are before augmentation."""
        return torch.stack([item["label"] for item in self.data])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all images and masks: tells whether two runs saw the same data."""
        digest = hashlib.sha256()
        for item in self.data:
            digest.update(item["image"].numpy().tobytes())
            digest.update(item["label"].numpy().tobytes())
        return digest.hexdigest()

    def _item(
        self, image: torch.Tensor, label: torch.Tensor, clip: float, scheme: Scheme
    ) -> dict[str, torch.Tensor]:
        distance = to_distance(label, self.num_classes, clip, scheme)
        return {"image": image, "label": label, "distance": distance.float()}

    def _transform(self, index: int) -> dict[str, torch.Tensor]:
        item = dict(self.data[index])
        if self.transform is not None:
            item = self.transform(item)
        # MONAI's transforms return MetaTensors, which collate and index many times slower.
        return {key: convert_to_tensor(value, track_meta=False) for key, value in item.items()}


def require_batch(dataset: Sequence[Any] | Dataset, batch_size: int) -> None:
    """Raise `InputError` where a data set cannot fill one batch."""
    if len(dataset) < batch_size:
        raise InputError(
            f"batch_size: {batch_size}, but there are only {len(dataset)} images; "
            f"set batch_size to at most {len(dataset)}"
        )


def load_cases(
    data: Sequence[Mapping[str, str]],
    read: Callable[[Mapping[str, str]], LoadedCase],
    num_workers: int,
    progress: bool,
) -> list[LoadedCase]:
    """Read all cases with threads, in the order of `data`; raise the problems of all at once."""

    def attempt(item: Mapping[str, str]) -> LoadedCase | InputError:
        try:
            return read(item)
        except InputError as error:
            return error

    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        results = pool.map(attempt, data)
        hidden = not progress or rank() > 0
        shown = tqdm(results, total=len(data), desc="reading", unit="file", disable=hidden)
        loaded = list(shown)
    raise_problems([str(result) for result in loaded if isinstance(result, InputError)])
    return [result for result in loaded if isinstance(result, LoadedCase)]


def _check_alike(cases: list[LoadedCase], spec: SourceSpec | None) -> None:
    """All images need equal channels and one modality, those of the training set where given."""
    channels = spec.channels if spec else _most_common([case.channels for case in cases])
    modality = spec.modality if spec else _most_common([case.modality for case in cases])
    example = "the training set" if spec else f"'{_example(cases, channels, modality)}'"
    raise_problems(
        [
            f"image '{name_of(c)}': {c.channels} channels, but {example} has {channels}; "
            "convert one of them, all images of a source must have equal channels"
            for c in cases
            if c.channels != channels
        ]
    )
    raise_problems(
        [
            f"image '{name_of(c)}': {c.modality}, but {example} is {modality}; "
            'remove it or set "modality"'
            for c in cases
            if c.modality != modality
        ]
    )


def _example(cases: list[LoadedCase], channels: int, modality: str) -> str:
    fitting = [c for c in cases if c.channels == channels and c.modality == modality]
    return name_of((fitting or cases)[0])


def _most_common(values: list[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _spec(cases: list[LoadedCase], labels: Labels, structures: dict[str, float]) -> SourceSpec:
    channels = cases[0].channels
    image_dtype = np.result_type(*(case.image_dtype for case in cases)).name
    suffix = _most_common([case.suffix for case in cases])
    image_suffix, label_suffix = output_suffixes(suffix, channels, image_dtype)
    label_dtype = np.result_type(*(case.label_dtype for case in cases)).name
    return SourceSpec(
        channels=channels,
        labels=labels,
        structures=structures,
        modality=cases[0].modality,
        window=median_window([case.window for case in cases]),
        image_suffix=image_suffix,
        label_suffix=label_suffix,
        image_dtype=writable_dtype(image_dtype, image_suffix, channels),
        label_dtype=writable_dtype(label_dtype, label_suffix, 1, labels.values()),
        geometries=unique_geometries([s.geometry for case in cases for s in case.slices]),
    )


def _labels(cases: list[LoadedCase], labels: Labels | None, threshold: float | None) -> Labels:
    values = {case.label_path: case.label_values for case in cases}
    require_one_palette(values)
    if threshold is None:
        return find_labels(values, labels)
    find_labels(values, BINARY)  # raises where no mask has foreground
    if labels is None:
        # Written masks must come back as foreground when they are read with the same threshold.
        return {"background": 0.0, "class1": max(case.label_maximum for case in cases)}
    named = complete_labels(labels)
    if len(named) != 2:
        raise InputError(
            f"labels: {labels} with mask_threshold; give one foreground class, or none"
        )
    return named


def _known_labels(cases: list[LoadedCase], labels: Labels, threshold: float | None) -> Labels:
    """Those of the training set; few validation images may well hold background alone."""
    if threshold is None:
        for case in cases:
            check_values(case.label_path, case.label_values, labels)
    return labels


def _scaled_slices(
    cases: list[LoadedCase], labels: Labels, window: Window | None
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(case, image in [-1, 1], class index) of all slices that have foreground or must stay.

    `window` is that of the data set; None gives each volume its own.
    """
    for number, case in enumerate(cases):
        for part in case.slices:
            index = _index(part, labels, case)
            if part.always_keep or index.any():
                yield number, scale(part.image, *(window or case.window)), index


def _index(part: Slice, labels: Labels, case: LoadedCase) -> torch.Tensor:
    if not torch.isin(part.label, torch.tensor(list(labels.values()))).all():
        raise InputError(
            f"resize: invents label values in '{case.label_path}'; "
            "set mode 'nearest' or 'nearest-exact' for label"
        )
    return to_index(part.label, labels)


def _common_size(
    slices: list[tuple[int, torch.Tensor, torch.Tensor]], like: SliceDataset | None
) -> tuple[int, int]:
    sizes = sorted({(image.shape[1], image.shape[2]) for _, image, _ in slices})
    if not sizes and like is not None:
        raise InputError(
            "validation set: no slice has foreground; set another validation_fraction or seed"
        )
    if not sizes:
        raise InputError("masks: no slice has foreground after resizing; use a larger spatial_size")
    if like is not None and sizes != [like.image_size]:
        raise InputError(f"resize: gives {sizes[0]}, but the training set has {like.image_size}")
    if len(sizes) > 1:
        raise InputError(
            f"resize: slices of {len(sizes)} sizes, such as {sizes[0]} and {sizes[-1]}; "
            "set a resize that gives one size"
        )
    return sizes[0]
