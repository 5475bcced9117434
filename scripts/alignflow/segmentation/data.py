"""Pairs in memory, to train, validate and test a segmenter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from monai.data import Dataset
from torch import Tensor, nn

from alignflow.data.datalist import Case, build_datalist, stated_labels
from alignflow.data.dataset import SliceDataset
from alignflow.data.references import References, load_references
from alignflow.data.spec import SourceSpec
from alignflow.errors import InputError
from alignflow.masks.postprocess import MaskPostprocess
from alignflow.segmentation.pseudo_masks import reference_masks
from alignflow.segmentation.reference_style import RandReferenceStyled, has_same_contrast
from alignflow.stage1 import Stage1

Item = dict[str, Tensor]


class Pairs(Dataset):
    """Items {"image": (C, X, Y) in [-1, 1], "label": (1, X, Y) class index}.

    Args:
        items: pairs of the source; other keys are ignored.
        synthetic: generated pairs, which follow those of the source.
        site: references with their masks, which come last.
        style: random transform for pairs of the source only.
        seed: random seed of the styles.

    Attributes:
        sizes: numbers of pairs of the source, of generated pairs, and of the site.
    """

    def __init__(
        self,
        items: Sequence[Mapping[str, Tensor]],
        synthetic: Sequence[Mapping[str, Tensor]] = (),
        site: Sequence[Mapping[str, Tensor]] = (),
        style: RandReferenceStyled | None = None,
        seed: int = 0,
    ) -> None:
        self.sizes = [len(items), len(synthetic), len(site)]
        self.style = style
        if style is not None:
            style.set_random_state(seed=seed)
            if items and site and not has_same_contrast(items, site):
                style.leave_out_references()
        everything = [*items, *synthetic, *site]
        super().__init__([{key: item[key] for key in ("image", "label")} for item in everything])

    def _transform(self, index: int) -> Any:
        item = self.data[index]
        return self.style(item) if self.style is not None and index < self.sizes[0] else item


@dataclass(frozen=True)
class _Known:
    """The part of the training set that `SliceDataset` needs for another set."""

    spec: SourceSpec
    image_size: tuple[int, int]


def read_labelled(cases: Sequence[Case], stage1: Stage1, size: Sequence[int]) -> list[Item]:
    """Pairs of the source, read as in stage 1; or pairs written by `infer`.

    Args:
        cases: datalist.
        stage1: record of the bundle: labels, window, slices.
        size: [X, Y] to resize to, pixels.

    Raises:
        InputError: channels, modality or label values differ from the bundle's.
    """
    folder = Path(cases[0]["image"]).parents[1] if cases else Path()
    generated = bool(cases) and (folder / "provenance.json").is_file()
    return cast("list[Item]", read_slices(cases, stage1, size, as_written=generated).data)


def read_pairs(pairs_dir: str | None, stage1: Stage1, size: Sequence[int]) -> list[Item]:
    """Synthetic pairs written by `infer`; an empty list without a folder.

    They were written with the bundle's window, so they are scaled by it, not by percentiles.

    Raises:
        InputError: an empty folder, or labels, channels or modality differ from the bundle's.
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
    return cast("list[Item]", read_slices(cases, stage1, size, as_written=True).data)


def read_slices(
    cases: Sequence[Case], stage1: Stage1, size: Sequence[int], as_written: bool
) -> SliceDataset:
    """Image-mask pairs of a datalist, read as in stage 1 but at another size.

    Args:
        cases: the datalist.
        stage1: record of the bundle.
        size: [X, Y], pixels.
        as_written: read them with the window that pairs are written with.
    """
    known = _Known(stage1.source, (size[0], size[1]))
    record = stage1.as_written() if as_written else stage1
    return SliceDataset(
        cases,
        record.preprocessing(image_size=list(size)),
        stage1.classes,
        like=cast("SliceDataset", known),
        clip=stage1.clip,
    )


def read_site(reference_dir: str | None, stage1: Stage1, size: Sequence[int]) -> References | None:
    """Images of a site, with or without masks, at `size` (X, Y); None without a folder.

    Raises:
        InputError: see `load_references`.
    """
    if reference_dir is None:
        return None
    return load_references(reference_dir, replace(stage1, image_size=list(size)))


def site_pairs(
    references: References | None, stage1: Stage1, labeller: nn.Module | None = None
) -> list[Item]:
    """References with given masks, or with masks predicted by a segmenter.

    Args:
        references: references of the site, or None.
        stage1: record of the bundle.
        labeller: logits (B, K, X, Y); None leaves out references without a mask.
    """
    if references is None:
        return []
    labels, known = references.labels, references.given
    if labeller is not None:
        rules = MaskPostprocess.from_dict(stage1.postprocess)
        labels, known = reference_masks(references, labeller, rules).labels, [True] * len(known)
    if labels is None:
        return []
    return [
        {"image": image, "label": label}
        for image, label, one in zip(references.images, labels, known, strict=True)
        if one
    ]


def read_test(test_dir: str | None, stage1: Stage1, size: Sequence[int]) -> References | None:
    """Labelled images of a site at `size` (X, Y); None without a folder.

    Raises:
        InputError: an image without a mask, fewer than two images with foreground; see
            `load_references`.
    """
    found = read_site(test_dir, stage1, size)
    if found is None:
        return None
    without = [name for name, given in zip(found.names, found.given, strict=True) if not given]
    if without or found.labels is None:
        raise InputError(f"test_dir '{test_dir}': no mask for image '{without[0]}'; add it")
    if found.labels.flatten(1).any(dim=1).sum() < 2:
        raise InputError(
            f"test_dir '{test_dir}': fewer than two images with foreground; add more, else the "
            "scores have no interval"
        )
    return found


def facts(pairs: Pairs) -> dict[str, int]:
    """Numbers of training pairs of a segmenter, for its record.

    Args:
        pairs: training set.
    """
    return dict(zip(("real", "synthetic", "site"), pairs.sizes, strict=True))
