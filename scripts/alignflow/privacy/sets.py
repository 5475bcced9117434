"""The images that an audit compares, each with its name and its patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignflow.data.datalist import Case, build_datalist, split_by_group
from alignflow.data.dataset import SliceDataset
from alignflow.data.folders import short_names
from alignflow.data.references import References
from alignflow.errors import InputError
from alignflow.masks.conditions import describe
from alignflow.privacy.quarantine import PairFiles
from alignflow.segmentation.data import read_slices
from alignflow.stage1 import Stage1

SAME = 1e-4  # largest difference of two descriptions of one mask


@dataclass(frozen=True)
class Images:
    """Images (N, C, X, Y) in [-1, 1], masks (N, 1, X, Y) class indices, names and groups."""

    images: Tensor
    labels: Tensor
    names: list[str]
    groups: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def some(self, rows: Sequence[int]) -> Images:
        """Those of some rows."""
        names, groups = ([values[i] for i in rows] for values in (self.names, self.groups))
        return Images(self.images[rows], self.labels[rows], names, groups)


def source_cases(
    dataset_dir: str | None,
    group_pattern: str | None,
    group_column: str | None,
    validation_fraction: float,
    split_seed: int,
) -> tuple[list[Case], list[Case]] | None:
    """Cases that a bundle was trained on, and those that it held out; None without a folder.

    Args:
        dataset_dir: the source.
        group_pattern, group_column: of `build_datalist`.
        validation_fraction, split_seed: of `split_by_group`; all four as training had them.

    Raises:
        InputError: a split that holds nothing out.
    """
    if dataset_dir is None:
        return None
    cases = build_datalist(dataset_dir, group_pattern, group_column)
    training, held_out = split_by_group(cases, validation_fraction, split_seed)
    if training is held_out:
        raise InputError(
            'config "validation_fraction": 0 holds no image out, so nothing tells how near real '
            "images lie; audit a bundle that was trained with some held out"
        )
    return training, held_out


def require_trained_on(source: Images, stage1: Stage1) -> None:
    """Refuse images that the bundle was not trained on: its record describes each mask it saw.

    Raises:
        InputError: a description that no mask of `source` has.
    """
    described = describe(source.labels, stage1.num_classes)
    known = torch.tensor(stage1.descriptions)
    differences = [(described - row).abs().amax(dim=1).min() for row in known]
    missing = sum(bool(difference > SAME) for difference in differences)
    if missing:
        raise InputError(
            f"dataset_dir: {missing} of {len(known)} masks that the bundle remembers are not among "
            "those it is said to be trained on; give the data set of its training, and "
            "group_pattern, group_column, validation_fraction and split_seed (there: seed) as its "
            "train_config.json has them"
        )


def read_source(cases: Sequence[Case], stage1: Stage1) -> Images:
    """Images of a datalist, as stage 1 read them."""
    dataset = read_slices(cases, stage1, stage1.image_size, as_written=False)
    count = Counter(dataset.case_of)
    seen: Counter[int] = Counter()
    of_case = short_names([case["image"] for case in cases])
    names = []
    for number in dataset.case_of:
        name = of_case[number]
        names.append(name if count[number] == 1 else f"{name}[{seen[number]}]")
        seen[number] += 1
    return _images(dataset, names, [cases[number]["group"] for number in dataset.case_of])


def read_pairs(pairs: Sequence[PairFiles], stage1: Stage1) -> Images:
    """Generated images and masks, one of each for a pair, of the bundle's modality.

    Raises:
        InputError: a pair that is a volume.
    """
    # Files say nothing of CT or MR; `dataset.json` does, and it says what the bundle says.
    modality = stage1.source.modality
    cases = [{"image": str(p.image), "label": str(p.label), "modality": modality} for p in pairs]
    dataset = read_slices(cases, stage1, stage1.image_size, as_written=True)
    if dataset.case_of != list(range(len(pairs))):
        raise InputError("pairs_dir: holds volumes; give pairs as infer writes them, of one slice")
    names = [pair.name for pair in pairs]
    return _images(dataset, names, names)


def from_references(found: References, segmenter: nn.Module) -> Images:
    """Images of a site, all with the masks that the source segmenter sees, given or not.

    Each file is a group: slices of a volume are of one patient.
    """
    device = next(segmenter.parameters()).device
    with torch.no_grad():
        parts = [
            segmenter(batch.to(device)).argmax(1, keepdim=True) for batch in found.images.split(64)
        ]
    labels = torch.cat(parts).to(torch.uint8).cpu()
    return Images(found.images, labels, found.names, [n.split("[")[0] for n in found.names])


def _images(dataset: SliceDataset, names: list[str], groups: list[str]) -> Images:
    images = torch.stack([item["image"] for item in dataset.data])
    return Images(images, dataset.label_stack, names, groups)
