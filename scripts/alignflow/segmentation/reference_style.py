"""Training images in the style of a site's references, or of a random one."""

from __future__ import annotations

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

FOURIER_BETA = 0.02
"""Half the side of the swapped square of frequencies, chosen on polyps (benchmarks/adaptation)."""

Style = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""style(image (C, X, Y), reference (C, X, Y), generator) gives (C, X, Y), all in [-1, 1]."""

STYLES: dict[str, Style] = {
    "histogram": lambda image, reference, _: histogram_style(image, reference),
    "fourier": lambda image, reference, _: fourier_style(image, reference, FOURIER_BETA),
    "convolution": lambda image, _, generator: random_convolution(image, generator),
}


class RandReferenceStyled(RandomizableTransform, MapTransform):
    """Gives an image a style drawn anew each time, by a reference drawn anew; labels stay.

    Args:
        keys: of the images, (C, X, Y) in [-1, 1].
        references: images (N, C, X, Y) in [-1, 1], of the training images' size.
        styles: some of `STYLES`: "histogram" and "fourier" take the reference's, "convolution"
            (GIN) a random one.
        prob: probability of a change.

    Raises:
        InputError: no reference, no style or an unknown one.
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

    def randomize(self, data: Any = None) -> None:
        """Draw whether to change the image, by which style and which reference."""
        super().randomize(None)
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
