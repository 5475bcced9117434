"""References to fit and to hold out, their masks, and masks to generate."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from monai.data import Dataset
from torch import Tensor, nn
from tqdm import tqdm

from alignflow.alignment.masks import effective_size, site_descriptions
from alignflow.data.references import References
from alignflow.distributed import rank
from alignflow.errors import InputError
from alignflow.inference.masks import MaskGenerator
from alignflow.masks.conditions import FIELDS, describe
from alignflow.masks.postprocess import MaskPostprocess
from alignflow.segmentation.pseudo_masks import ReferenceMasks, reference_masks
from alignflow.stage1 import Stage1

logger = logging.getLogger(__name__)

FEWEST_TO_SPLIT = 5
"""With fewer references, none is held out."""


class NothingFound(InputError):
    """No mask is given, and the segmenter finds no structure in any reference."""


@dataclass
class Split:
    """References (n, C, X, Y) to fit, and those held out for early stopping, or None.

    `order` holds the indices of the fitted references, then those of the held-out references.
    """

    fitted: Tensor
    left_out: Tensor | None
    order: Tensor

    @property
    def watched(self) -> Tensor:
        """The held-out references, or the fitted references if there are none."""
        return self.fitted if self.left_out is None else self.left_out

    @property
    def fitted_numbers(self) -> Tensor:
        """Indices of `fitted` among all references."""
        return self.order[: len(self.fitted)]

    @property
    def watched_numbers(self) -> Tensor:
        """Indices of `watched` among all references."""
        return self.order[-len(self.watched) :]


def split_references(images: Tensor, share: float, seed: int) -> Split:
    """Hold out a share of the references, at least two, given at least `FEWEST_TO_SPLIT`."""
    if len(images) < FEWEST_TO_SPLIT or share == 0:
        return Split(images, None, torch.arange(len(images)))
    count = min(max(2, round(share * len(images))), len(images) - 2)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return Split(images[order[count:]], images[order[:count]], order.roll(-count))


def augmented_references(images: Tensor, count: int, noise: float, seed: int) -> Tensor:
    """References (n, C, X, Y) in [-1, 1], each repeated `count` times, with a little noise.

    `noise` is its standard deviation. The same noise is added to generated images, so that encoders
    cannot react to differences below it.
    """
    generator = torch.Generator().manual_seed(seed)
    repeated = images.repeat(count, 1, 1, 1)
    return repeated + noise * torch.randn(repeated.shape, generator=generator).to(images.device)


def site_masks(stage1: Stage1, references: References, segmenter: nn.Module) -> ReferenceMasks:
    """Masks of the references: given, or predicted by the segmenter."""
    masks = reference_masks(references, segmenter, MaskPostprocess.from_dict(stage1.postprocess))
    log_masks(references, masks.labels.flatten(1).any(dim=1))
    return masks


def require_structure(references: References, masks: ReferenceMasks) -> None:
    """Refuse masks from which flow matching can learn nothing.

    Raises:
        InputError: all given masks are empty.
        NothingFound: no mask is given, and the segmenter finds no structure in any image.
    """
    found = masks.labels.flatten(1).any(dim=1)
    given = torch.tensor(references.given)
    if given.any() and not found[given].any():
        raise InputError("references: all given masks are empty; outline structures in some")
    if not found.any():
        raise NothingFound(
            f"references: the segmenter finds no structure in any of the {len(found)} images, so "
            "its masks cannot be used; annotate some images (images/ and masks/)"
        )


def log_masks(references: References, found: Tensor) -> None:
    """Log how many masks are given, and warn where the segmenter finds nothing.

    Args:
        references: references of the site.
        found: bool (n,), whether a mask has foreground.
    """
    given = sum(references.given)
    logger.info("masks of the references: %d given, %d predicted", given, len(references) - given)
    pairs = zip(references.names, references.given, found.tolist(), strict=True)
    empty = [name for name, has, one in pairs if not has and not one]
    if empty:
        logger.warning(
            "the segmenter finds nothing in %d references, such as '%s'; annotate them if they "
            "show a structure",
            len(empty),
            empty[0],
        )


def site_record(stage1: Stage1, masks: Tensor, anatomy: str, prior: float) -> Stage1:
    """The record of the site's generator: that of stage 1, with the references' anatomy.

    Args:
        stage1: record of the source's generator.
        masks: masks of the references, see `reference_masks`.
        anatomy: "source" keeps the descriptions of masks; "references" resamples them so that areas
            are distributed as in the references, see `site_descriptions`.
        prior: weight of the source for "references", as a number of references.

    Raises:
        InputError: an unknown `anatomy`.
    """
    if anatomy not in ("source", "references"):
        raise InputError(f'config "anatomy": {anatomy!r}; set source or references')
    if anatomy == "source":
        return stage1
    bank = torch.tensor(stage1.descriptions)
    drawn = site_descriptions(bank, masks, stage1.num_classes, prior=prior)
    before, after = _foreground(bank), _foreground(describe(masks, stage1.num_classes))
    logger.info(
        "anatomy: median log-area (1 is the whole image) %.2f at the source, %.2f in the masks of "
        "%d references, %.2f in the masks to generate (%.0f different descriptions)",
        before, after, len(masks), _foreground(drawn), effective_size(drawn),
    )  # fmt: skip
    return replace(stage1, descriptions=drawn.tolist())


class MaskBank(Dataset):
    """Masks to generate images for; item: {"label": uint8, "condition": maps}.

    Args:
        masks: draws the masks.
        count: number of masks.
        stage1: record of the generator.
        batch_size: masks to draw at once.
    """

    def __init__(
        self, masks: MaskGenerator, count: int, stage1: Stage1, batch_size: int = 32
    ) -> None:
        items = []
        starts = range(0, count, batch_size)
        for start in tqdm(starts, desc="drawing masks", unit="batch", disable=rank() > 0):
            labels = masks(list(range(start, min(start + batch_size, count))))
            items += [_item(label, stage1) for label in labels]
        super().__init__(items)


def _item(label: Tensor, stage1: Stage1) -> dict[str, Tensor]:
    return {"label": label, "condition": stage1.condition(label[None])[0]}


def spread_evenly(bank: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """Labels (S, 1, X, Y) and condition maps of `count` masks, evenly spread over a bank."""
    chosen: Sequence[int] = torch.linspace(0, len(bank) - 1, min(count, len(bank))).long().tolist()
    items = [bank[i] for i in chosen]
    return torch.stack([i["label"] for i in items]), torch.stack([i["condition"] for i in items])


def _foreground(description: Tensor) -> float:
    fields = description.unflatten(1, (-1, FIELDS))
    return float(fields[..., 1][fields[..., 0] > 0].median()) if (fields[..., 0] > 0).any() else 0.0
