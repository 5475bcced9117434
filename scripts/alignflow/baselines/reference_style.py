"""Training images in the style of a random reference image."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor
from torch import Tensor

from alignflow.errors import InputError

Style = Callable[[Tensor, Tensor], Tensor]
"""style(image (C, X, Y), reference (C, X, Y)) gives (C, X, Y), all in [-1, 1]."""


class RandReferenceStyled(RandomizableTransform, MapTransform):
    """Gives an image the style of a reference that is drawn anew each time; labels stay.

    Args:
        keys: of the images, (C, X, Y) in [-1, 1].
        references: images (N, C, X, Y) in [-1, 1], of the training images' size.
        style: `fourier_style` with its strength, or `histogram_style`.
        prob: probability of a change.

    Raises:
        InputError: no reference.
    """

    def __init__(
        self,
        keys: KeysCollection,
        references: Tensor | Sequence[Tensor],
        style: Style,
        prob: float = 1.0,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        if len(references) == 0:
            raise InputError("references: none; give at least one image of the target site")
        self.references = [convert_to_tensor(one, track_meta=False) for one in references]
        self.style = style
        self.chosen = 0

    def randomize(self, data: Any = None) -> None:
        """Draw whether to change the image, and by which reference."""
        super().randomize(None)
        self.chosen = int(self.R.randint(len(self.references)))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the images under `keys` as plain tensors, changed or not."""
        item = dict(data)
        self.randomize()
        for key in self.key_iterator(item):
            image = convert_to_tensor(item[key], track_meta=False)
            if self._do_transform:
                image = self.style(image, self.references[self.chosen])
            item[key] = image
        return item
