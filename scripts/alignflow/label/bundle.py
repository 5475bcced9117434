"""What MONAI Label's own app for bundles runs around the image flow: a mask in, an image out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Resize
from monai.utils import convert_to_tensor

from alignflow.data.formats import load
from alignflow.data.intensity import unscale
from alignflow.data.slices import is_single_slice
from alignflow.errors import InputError
from alignflow.inference.noise import pair_noise
from alignflow.label.values import tool_index
from alignflow.label.volumes import ANSWERS
from alignflow.stage1 import Stage1


class MaskToInputd(MapTransform):
    """The file of a 2-D mask becomes noise and condition maps (C + 2K - 1, X, Y).

    Args:
        keys: hold paths; values are those of the tool or of the source.
        stage1: record of the generator.
        seed: of the noise.
    """

    def __init__(self, keys: KeysCollection, stage1: Stage1, seed: int = 0) -> None:
        super().__init__(keys)
        self.stage1 = stage1
        self.seed = seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same dictionary with tensors, whose meta has the mask's grid.

        Raises:
            InputError: a volume, or a value that is no class.
        """
        found = dict(data)
        for key in self.key_iterator(found):
            found[key] = self.maps(Path(str(found[key])))
        return found

    def maps(self, path: Path) -> MetaTensor:
        """Noise and condition maps of one file."""
        stage1 = self.stage1
        mask = load(path, is_mask=True)
        if not is_single_slice(mask):
            raise InputError(f"mask '{path.name}': a volume; this app draws 2-D images, give one")
        threshold = stage1.reading["mask_threshold"]
        index = tool_index(mask.as_tensor(), stage1.source.labels, threshold, path.name)
        flat = index.reshape(1, *index.shape[1:3]).float()
        small = Resize(stage1.image_size, mode="nearest-exact")(flat)
        label = convert_to_tensor(small, track_meta=False).to(torch.uint8)
        noise = pair_noise(self.seed, [0], "image", stage1.image_shape)
        x = torch.cat([noise, stage1.condition(label[None])], dim=1)[0]
        return MetaTensor(x, meta={"spatial_shape": flat.shape[1:], "original_affine": None})


class NativeValuesd(MapTransform):
    """An image in [-1, 1] gets the source's native units.

    The app would write it in the format of the mask, which may hold small whole numbers alone: it
    is told to write float32, channels first, as NIfTI unless the client asks for NRRD.

    Args:
        keys: hold images (C, X, Y).
        stage1: record of the generator.
    """

    def __init__(self, keys: KeysCollection, stage1: Stage1) -> None:
        super().__init__(keys)
        self.window = stage1.source.window

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same dictionary with images in native units, float32."""
        found = dict(data)
        for key in self.key_iterator(found):
            found[key] = unscale(found[key].float(), *self.window)
        asked = found.get("result_extension")
        suffix = asked if asked in ANSWERS else ".nii.gz"
        return found | {"result_extension": suffix, "result_dtype": None}
