"""Gives training images the style of a site's references, or a random style."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor
from torch import Tensor

from alignflow.errors import InputError
from alignflow.segmentation.fourier_style import fourier_style
from alignflow.segmentation.histogram_style import histogram_style
from alignflow.segmentation.random_convolution import random_convolution

logger = logging.getLogger(__name__)

FOURIER_BETA = 0.02
"""Half the side of the replaced square of frequencies, chosen on polyps."""

Style = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""style(image (C, X, Y), reference (C, X, Y), generator) gives (C, X, Y), all in [-1, 1]."""

STYLES: dict[str, Style] = {
    "histogram": lambda image, reference, _: histogram_style(image, reference),
    "fourier": lambda image, reference, _: fourier_style(image, reference, FOURIER_BETA),
    "convolution": lambda image, _, generator: random_convolution(image, generator),
}

OF_REFERENCES = ("histogram", "fourier")
"""Styles that depend on a reference. They keep bright structures bright."""


class RandReferenceStyled(RandomizableTransform, MapTransform):
    """Applies a random style to an image each time; labels are unchanged.

    Args:
        keys: keys of the images, (C, X, Y) in [-1, 1].
        references: images (N, C, X, Y) in [-1, 1], of the training images' size.
        styles: some of `STYLES`. "histogram" and "fourier" use a random reference, "convolution"
            (GIN) none.
        prob: probability of a change.

    Raises:
        InputError: no reference, no style, or an unknown style.
    """

    def __init__(
        self,
        keys: KeysCollection,
        references: Tensor | Sequence[Tensor],
        styles: Sequence[str] = tuple(STYLES),
        prob: float = 0.5,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        if len(references) == 0:
            raise InputError("references: none; give at least one image of the target site")
        if unknown := [name for name in styles if name not in STYLES] or not styles:
            raise InputError(f'config "styles": {unknown}; set some of {", ".join(STYLES)}')
        self.references = [convert_to_tensor(one, track_meta=False) for one in references]
        self.styles = list(styles)
        self.change: Callable[[Tensor], Tensor] | None = None

    def leave_out_references(self) -> None:
        """Keep only the styles that do not use a reference."""
        self.styles = [name for name in self.styles if name not in OF_REFERENCES]
        self.prob = self.prob if self.styles else 0.0

    def randomize(self, data: Any = None) -> None:
        """Draw whether to change the image, the style and the reference."""
        super().randomize(None)
        if not self.styles:
            return
        style = STYLES[self.styles[int(self.R.randint(len(self.styles)))]]
        reference = self.references[int(self.R.randint(len(self.references)))]
        generator = torch.Generator().manual_seed(int(self.R.randint(2**31)))
        if self._do_transform:
            self.change = lambda image: style(image, reference, generator)
        else:
            self.change = None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the images under `keys` as plain tensors, changed or not."""
        item = dict(data)
        self.randomize()
        for key in self.key_iterator(item):
            image = convert_to_tensor(item[key], track_meta=False)
            item[key] = image if self.change is None else self.change(image)
        return item


def has_same_contrast(
    source: Sequence[Mapping[str, Tensor]], site: Sequence[Mapping[str, Tensor]]
) -> bool:
    """Whether classes that are bright in one set are also bright in the other.

    If not (fluorescence and stained tissue), an image in the style of a reference would show its
    classes with inverted contrast. A warning says so.

    Args:
        source, site: {"image": (C, X, Y), "label": (1, X, Y) class index}.
    """
    known = sorted(
        {int(k) for item in source for k in item["label"].unique()}
        & {int(k) for item in site for k in item["label"].unique()}
    )
    own, other = _brightness(source, known), _brightness(site, known)
    agrees = bool(((own - own.mean()) * (other - other.mean())).sum() >= 0)
    if not agrees:
        logger.warning(
            "references: the classes have the opposite contrast of the source's, so styles %s are "
            "left out",
            " and ".join(OF_REFERENCES),
        )
    return agrees


def _brightness(items: Sequence[Mapping[str, Tensor]], classes: Sequence[int]) -> Tensor:
    """Mean brightness of each class (K,), in standard deviations of its image, over images."""
    rows = []
    for item in items:
        gray, label = item["image"].mean(dim=0), item["label"][0]
        scaled = (gray - gray.mean()) / gray.std().clamp(min=1e-6)
        rows.append(torch.stack([scaled[label == k].mean() for k in classes]))  # NaN where absent
    return torch.stack(rows).nanmean(dim=0)
