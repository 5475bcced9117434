"""Pairs in memory, as a segmenter is trained, validated and tested on them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from monai.data import Dataset
from monai.transforms import Resized
from torch import Tensor, nn
from torch.nn import functional

from alignflow.data.datalist import Case, build_datalist, stated_labels
from alignflow.data.dataset import SliceDataset
from alignflow.data.intensity import IntensityWindow
from alignflow.data.references import References, load_references
from alignflow.data.spec import SourceSpec
from alignflow.errors import InputError
from alignflow.evaluation.faithfulness import dice_table
from alignflow.stage1 import Stage1

logger = logging.getLogger(__name__)

Item = dict[str, Tensor]


class Pairs(Dataset):
    """Items {"image": (C, X, Y) in [-1, 1], "label": (1, X, Y) class index} of given ones.

    Args:
        items: real pairs; may hold more keys, which are left out.
        synthetic: pairs that come behind the real ones.

    Attributes:
        real: number of real pairs.
        synthetic: number of synthetic pairs.
    """

    def __init__(
        self, items: Sequence[Mapping[str, Tensor]], synthetic: Sequence[Mapping[str, Tensor]] = ()
    ) -> None:
        self.real = len(items)
        self.synthetic = len(synthetic)
        both = [*items, *synthetic]
        super().__init__([{key: item[key] for key in ("image", "label")} for item in both])


@dataclass(frozen=True)
class _Known:
    """What `SliceDataset` takes over from the set it must be like."""

    spec: SourceSpec
    image_size: tuple[int, int]


def read_labelled(cases: Sequence[Case], stage1: Stage1, size: Sequence[int]) -> list[Item]:
    """Source pairs, read as stage 1 read them.

    Args:
        cases: datalist.
        stage1: record of the bundle: labels, window, slices.
        size: [X, Y] to resize to, pixels.

    Raises:
        InputError: whatever `SliceDataset` refuses: other channels, modality or label values.
    """
    return cast("list[Item]", read_slices(cases, stage1, size, stage1.intensity).data)


def read_pairs(pairs_dir: str | None, stage1: Stage1, size: Sequence[int]) -> list[Item]:
    """Synthetic pairs as `infer` writes them; an empty list without a folder.

    Their native values come from the window of the bundle, so they are scaled by that one and not
    by percentiles of their own.

    Raises:
        InputError: an empty folder, or pairs of other labels, channels or modality.
    """
    if pairs_dir is None:
        return []
    try:
        cases, labels = build_datalist(pairs_dir), stated_labels(pairs_dir)
    except InputError as error:
        lines = str(error).replace("dataset_dir", "pairs_dir").splitlines()
        raise InputError(*lines) from error
    if labels is not None and labels != stage1.source.labels:
        raise InputError(
            f"pairs_dir '{pairs_dir}': labels {labels}, but the bundle has {stage1.source.labels}; "
            "give pairs of this bundle"
        )
    return cast("list[Item]", read_slices(cases, stage1, size, written_window(stage1)).data)


def written_window(stage1: Stage1) -> IntensityWindow:
    """The window that pairs are written with; percentiles of each would undo its brightness."""
    return IntensityWindow(stage1.reading["modality"], stage1.source.window)


def read_slices(
    cases: Sequence[Case], stage1: Stage1, size: Sequence[int], window: IntensityWindow
) -> SliceDataset:
    """Image-mask pairs of a datalist as a set like that of stage 1, but for window and size."""
    known = _Known(stage1.source, (size[0], size[1]))
    resize: Any = Resized(
        ["image", "label"], size, mode=["bilinear", "nearest-exact"], anti_aliasing=[True, False]
    )
    return SliceDataset(
        cases,
        resize,
        window,
        mask_threshold=stage1.reading["mask_threshold"],
        slice_axis=stage1.reading["slice_axis"],
        foreground_only=stage1.reading["foreground_only"],
        like=cast("SliceDataset", known),
        clip=stage1.clip,
        scheme=stage1.scheme,
    )


def select_faithful(
    pairs: list[Item], segmenter: nn.Module, stage1: Stage1, floor: float
) -> list[Item]:
    """The pairs in whose image the source segmenter finds the mask.

    Args:
        pairs: synthetic ones.
        segmenter: of the bundle.
        stage1: its record; pairs of another size are resized to its own for the test.
        floor: least Dice, in [0, 1], mean over the classes of a pair; 0 keeps all. A pair without
            foreground has no Dice and stays.

    Raises:
        InputError: no pair is left.
    """
    if floor <= 0 or not pairs:
        return pairs
    images = functional.interpolate(
        torch.stack([pair["image"] for pair in pairs]), stage1.image_size, mode="area"
    )
    labels = functional.interpolate(
        torch.stack([pair["label"] for pair in pairs]), stage1.image_size, mode="nearest-exact"
    )
    table = torch.from_numpy(dice_table(segmenter, images, labels, stage1.num_classes))
    kept = [
        pair
        for pair, dice in zip(pairs, table.nanmean(dim=1).tolist(), strict=True)
        if not dice < floor
    ]
    logger.info(
        "%d of %d pairs kept: the Dice of the source segmenter is at least %g on them",
        len(kept),
        len(pairs),
        floor,
    )
    if not kept:
        raise InputError(
            f'config "selection_floor": {floor:g} leaves no pair of {len(pairs)}, '
            f"their mean Dice is {table.nanmean():.2f}; lower it"
        )
    return kept


def read_test(test_dir: str | None, stage1: Stage1, size: Sequence[int]) -> References | None:
    """Labelled images of a site at `size`, (X, Y) pixels; None without a folder.

    Raises:
        InputError: an image without a mask, fewer than two images with foreground, or whatever
            `load_references` refuses.
    """
    if test_dir is None:
        return None
    found = load_references(test_dir, replace(stage1, image_size=list(size)))
    without = [name for name, given in zip(found.names, found.given, strict=True) if not given]
    if without or found.labels is None:
        raise InputError(f"test_dir '{test_dir}': no mask for image '{without[0]}'; add it")
    if found.labels.flatten(1).any(dim=1).sum() < 2:
        raise InputError(
            f"test_dir '{test_dir}': fewer than two images with foreground; "
            "give more, else the scores have no spread"
        )
    return found


def facts(pairs: Pairs, read: list[Any]) -> dict[str, int]:
    """Numbers of pairs that a segmenter was trained on, for its record.

    Args:
        pairs: training set.
        read: synthetic pairs before any were dropped.
    """
    return {
        "real": pairs.real,
        "synthetic": pairs.synthetic,
        "synthetic_dropped": len(read) - pairs.synthetic,
    }
