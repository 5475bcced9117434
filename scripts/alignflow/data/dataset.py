"""All slices of a data set in memory, ready for training."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.utils import convert_to_tensor

from alignflow.data.check import raise_problems
from alignflow.data.named_masks import warn_of_others
from alignflow.data.preprocessing import Preprocessing, read
from alignflow.data.slices import unique_geometries
from alignflow.data.spec import SourceSpec, output_suffixes, writable_dtype
from alignflow.data.structures import Classes, Structures
from alignflow.data.threads import for_each
from alignflow.errors import InputError
from alignflow.masks.distance import to_distance

Slices = list[dict[str, Any]]


class SliceDataset(Dataset):
    """2-D pairs for training: every file is read and checked once, and kept small in memory.

    Item i is {"image": float32 (C, X, Y) in [-1, 1], "label": uint8 (1, X, Y) class index,
    "distance": float32 (K-1, X, Y) in [-1, 1], the truncated signed distance}.

    Args:
        data: the datalist.
        preprocessing: from its entries to slices, see `preprocessing.read`.
        classes: see `find_classes`.
        num_workers: threads that read files.
        like: the training set, whose spec a validation set takes over.
        clip: of `to_distance`.
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
        preprocessing: Preprocessing,
        classes: Classes,
        num_workers: int = 4,
        like: SliceDataset | None = None,
        clip: float = 5.0,
        transform: Callable[[Any], Any] | None = None,
        progress: bool = True,
    ) -> None:
        if not data:
            raise InputError("datalist: empty; give at least one image with its mask")
        if like is not None:
            warn_of_others([case["label"] for case in data], Structures.of(**classes))
        cases = read_cases(data, preprocessing, num_workers, progress)
        slices = [part for case in cases for part in case]
        self.image_size = _common_size(slices, like)
        _check_alike(cases, None if like is None else like.spec)
        if like is None and not any(part["label"].any() for part in slices):
            raise InputError(
                f"masks: none of {len(cases)} has foreground at image_size; correct the masks"
            )
        self.spec: SourceSpec = _spec(cases, classes) if like is None else like.spec
        self.channels = self.spec.channels
        self.num_classes = len(classes["labels"])
        self.case_of = [number for number, case in enumerate(cases) for _ in case]
        super().__init__([self._item(part, clip, classes) for part in slices], transform)

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
        self, part: Mapping[str, Any], clip: float, classes: Classes
    ) -> dict[str, torch.Tensor]:
        image, label = (convert_to_tensor(part[k], track_meta=False) for k in ("image", "label"))
        distance = to_distance(label, self.num_classes, clip, classes["scheme"])
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
            f"batch_size: {batch_size}, but there are only {len(dataset)} training images; "
            f"set batch_size to at most {len(dataset)}"
        )


def read_cases(
    data: Sequence[Mapping[str, str]],
    preprocessing: Preprocessing,
    num_workers: int,
    progress: bool,
) -> list[Slices]:
    """The slices of all entries, by threads, in their order; raise the problems of all at once.

    A slice of a volume without foreground after resizing is left out.
    """

    def attempt(item: Mapping[str, str]) -> Slices | InputError:
        try:
            found = read(preprocessing, item)
        except InputError as error:
            return error
        return [p for p in found if p["label"].any() or not p["image"].meta["needs_foreground"]]

    loaded = for_each(data, attempt, num_workers, "reading", progress)
    raise_problems([str(result) for result in loaded if isinstance(result, InputError)])
    return [result for result in loaded if not isinstance(result, InputError)]


def _check_alike(cases: Sequence[Slices], spec: SourceSpec | None) -> None:
    """All images need equal channels and one modality, those of the training set where given."""
    facts = [
        (Path(image.meta["filename_or_obj"]).name, len(image), image.meta["modality"])
        for image in (case[0]["image"] for case in cases if case)
    ]
    channels = spec.channels if spec else _most_common([fact[1] for fact in facts])
    modality = spec.modality if spec else _most_common([fact[2] for fact in facts])
    fitting = [fact for fact in facts if fact[1:] == (channels, modality)]
    example = "the training set" if spec else f"'{(fitting or facts)[0][0]}'"
    raise_problems(
        [
            f"image '{name}': {own} channels, but {example} has {channels}; "
            "convert one of them, all images of a source must have equal channels"
            for name, own, _ in facts
            if own != channels
        ]
    )
    raise_problems(
        [
            f"image '{name}': {own}, but {example} is {modality}; remove it or set \"modality\""
            for name, _, own in facts
            if own != modality
        ]
    )


def _most_common(values: list[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _spec(cases: Sequence[Slices], classes: Classes) -> SourceSpec:
    images = [case[0]["image"] for case in cases if case]
    masks = [case[0]["label"] for case in cases if case]
    labels, channels = classes["labels"], len(images[0])
    low, high = np.median([image.meta["window"] for image in images], axis=0)
    image_dtype = np.result_type(*(image.meta["native_dtype"] for image in images)).name
    suffix = _most_common([image.meta["suffix"] for image in images])
    image_suffix, label_suffix = output_suffixes(suffix, channels, image_dtype)
    label_dtype = np.result_type(*(mask.meta["native_dtype"] for mask in masks)).name
    geometries = [part["image"].meta["geometry"] for case in cases for part in case]
    return SourceSpec(
        channels=channels,
        labels=labels,
        structures=classes["structures"],
        modality=images[0].meta["modality"],
        window=(float(low), float(high)),
        image_suffix=image_suffix,
        label_suffix=label_suffix,
        image_dtype=writable_dtype(image_dtype, image_suffix, channels),
        label_dtype=writable_dtype(label_dtype, label_suffix, 1, labels.values()),
        geometries=unique_geometries(geometries),
    )


def _common_size(slices: Slices, like: SliceDataset | None) -> tuple[int, int]:
    sizes = sorted({(part["image"].shape[1], part["image"].shape[2]) for part in slices})
    if not sizes and like is not None:
        raise InputError(
            "validation set: no slice has foreground; set another validation_fraction or seed"
        )
    if not sizes:
        raise InputError("masks: no slice has foreground after resizing; use a larger image_size")
    if like is not None and sizes != [like.image_size]:
        raise InputError(
            f"preprocessing: gives {sizes[0]}, but the training set has {like.image_size}"
        )
    if len(sizes) > 1:
        raise InputError(
            f"preprocessing: slices of {len(sizes)} sizes, such as {sizes[0]} and {sizes[-1]}; "
            "add Resized, as train.json has it"
        )
    return sizes[0]
