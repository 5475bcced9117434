"""Steps of the `preprocessing` in train.json that MONAI has none for: masks, windows, slices."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageReader, MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys

from alignflow.data.check import check_image, check_mask, check_pair
from alignflow.data.formats import PIL_SUFFIXES, has_geometry, load
from alignflow.data.intensity import Window, scale, unscale
from alignflow.data.labels import check_values, to_index, to_native, values_in
from alignflow.data.slices import is_single_slice, slice_axis_of, slice_geometry, stack_slices
from alignflow.data.spec import Geometry
from alignflow.data.structures import Classes, Structures
from alignflow.errors import InputError

logger = logging.getLogger(__name__)

Item = dict[Hashable, Any]
OF_THE_FILE = ("filename_or_obj", "suffix", "has_place", "spatial_shape", "original_affine")
MODALITIES = ("auto", "CT", "MR", "RGB8")
WINDOWS = {"CT": (-200.0, 300.0), "RGB8": (0.0, 255.0)}  # HU: soft tissue with contrast agent
AIR = -900.0  # HU: no MR image, of whatever scale, reaches down to it
KEPT = (*OF_THE_FILE, "native_dtype", "modality", "window")  # in the meta of slices

# LoadImaged makes one of each reader of MONAI, and this one complains where there is no GPU.
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")


class FileReader(ImageReader):
    """Reader for `LoadImaged` of all formats, see `formats.load`: (C, X, Y[, Z]), float32.

    Raises:
        InputError: a file that cannot be read; values that are not finite, or all equal.
    """

    def verify_suffix(self, filename: Any) -> bool:
        """Whatever the name: `load` says what is wrong with it."""
        return True

    def read(self, data: Any, **kwargs: Any) -> Any:
        """The path: MONAI hides what is raised here."""
        return data[0] if isinstance(data, tuple) else data

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Voxels and meta of the file, channels first."""
        image = load(img)
        check_image(image)
        grid = {"spatial_shape": tuple(image.shape[1:]), "original_affine": image.affine}
        return image.numpy(), {**image.meta, **grid, "original_channel_dim": 0}


class LoadMaskd(MapTransform, InvertibleTransform):
    """Read a mask, on the grid of its image, as class indices uint8 (1, X, Y[, Z]).

    Args:
        keys: hold paths.
        classes: see `classes.find_classes`.
        threshold: foreground is what lies above it; None: masks hold class values.
        image_key: of the image that was loaded before; masks are read without one, too.
        allow_missing_keys: pass over images without a mask.
    """

    def __init__(
        self,
        keys: KeysCollection,
        classes: Classes,
        threshold: float | None = None,
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels = classes["labels"]
        self.rules = Structures.of(**classes)
        self.threshold = threshold
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """The same dictionary with masks.

        Raises:
            InputError: whatever `load` and `check_pair` refuse, or a value that is not a class.
        """
        found = dict(data)
        for key in self.key_iterator(found):
            image = found.get(self.image_key)
            mask = load(found[key], is_mask=True, image=image, structures=self.rules)
            if image is not None:
                check_pair(image, mask)
            check_mask(mask, is_integer=self.threshold is None)
            found[key] = MetaTensor(self._index(mask), meta=mask.meta)
            self.push_transform(found[key])
        return found

    def _index(self, mask: MetaTensor) -> torch.Tensor:
        if self.threshold is not None:
            return (mask.as_tensor() > self.threshold).to(torch.uint8)
        found = values_in(mask.as_tensor())
        check_values(mask.meta["filename_or_obj"], found, self.labels)
        return to_index(mask.as_tensor(), self.labels)

    def inverse(self, data: Mapping[Hashable, Any]) -> Item:
        """Class indices become values of the mask."""
        found = dict(data)
        for key in self.key_iterator(found):
            self.pop_transform(found[key])
            index = found[key].as_tensor().round().long().numpy()
            native = torch.from_numpy(to_native(index, self.labels, "float32"))
            found[key] = MetaTensor(native, meta=found[key].meta)
        return found


class Channelsd(MapTransform):
    """Give gray and colour images one number of channels.

    Args:
        keys: hold images (C, X, Y[, Z]).
        channels: 3 repeats gray images, 1 takes the mean of colours; None: as they are.
        allow_missing_keys: as MONAI has it.
    """

    def __init__(
        self, keys: KeysCollection, channels: int | None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if channels not in (None, 1, 3):
            raise InputError(f"channels: {channels}; set 1, 3 or null")
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """The same dictionary; images of other numbers of channels are left alone."""
        found = dict(data)
        for key in self.key_iterator(found):
            image = found[key]
            if self.channels == 3 and len(image) == 1:
                found[key] = image.repeat(3, *(1,) * (image.ndim - 1))
            elif self.channels == 1 and len(image) == 3:
                found[key] = image.mean(dim=0, keepdim=True)
        return found


class N4BiasFieldCorrectiond(MapTransform):
    """Take slow changes of brightness out of MR images, by N4 (IEEE TMI 29:1310, 2010).

    Args:
        keys: hold images (C, X, Y[, Z]) of positive values.
        shrink: the field is fitted on every so many voxels.
        allow_missing_keys: as MONAI has it.
    """

    def __init__(
        self, keys: KeysCollection, shrink: int = 4, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.shrink = shrink

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """The same dictionary with images divided by their fields, of mean 1."""
        found = dict(data)
        for key in self.key_iterator(found):
            image = found[key]
            fields = torch.stack([self._field(channel) for channel in image.as_tensor()])
            found[key] = image / (fields / fields.mean())
        return found

    def _field(self, values: torch.Tensor) -> torch.Tensor:
        import SimpleITK  # not at the start of every run, for a step that few take

        image = SimpleITK.GetImageFromArray(values.squeeze().numpy())
        mask = SimpleITK.OtsuThreshold(image, 0, 1)
        factors = [max(1, min(self.shrink, n // 8)) for n in image.GetSize()]
        fit = SimpleITK.N4BiasFieldCorrectionImageFilter()
        fit.Execute(SimpleITK.Shrink(image, factors), SimpleITK.Shrink(mask, factors))
        log = SimpleITK.GetArrayFromImage(fit.GetLogBiasFieldAsImage(image))
        return torch.from_numpy(log).exp().reshape(values.shape)


class FindWindowd(MapTransform):
    """Find the window of native values that images are scaled by.

    A fixed window is used for 8-bit colour and gray photographs (0 to 255) and for CT (HU are
    absolute). MR units are arbitrary, so MR and all else is scaled by percentiles of each volume,
    of which every slice shares the window: brightness within a volume survives.

    Window and modality go to the image's `meta`, and its slices are scaled when they are small.
    "modality" in the dictionary is what a data set says of images whose files say nothing.

    Args:
        keys: hold images (C, X, Y[, Z]).
        modality: "CT", "MR", "RGB8", or "auto": by file type, DICOM or dataset.json.
        window: (low, high) in native units, used for all images whatever their modality.
        percentiles: the lower and upper one (0 to 100), of all voxels and channels of a volume.
        allow_missing_keys: as MONAI has it.

    Raises:
        InputError: an unknown modality, a window or percentiles that do not ascend.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modality: str = "auto",
        window: Sequence[float] | None = None,
        percentiles: Sequence[float] = (0.5, 99.5),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if modality not in MODALITIES:
            raise InputError(f"modality: '{modality}'; set one of {', '.join(MODALITIES)}")
        self.modality = modality
        self.window = None if window is None else _ascending("window", window)
        self.percentiles = _ascending("percentiles", percentiles)

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """The same dictionary with images that know their window.

        Raises:
            InputError: values that look like HU, but nothing states the modality; two percentiles
                that are equal.
        """
        for key in self.key_iterator(dict(data)):
            meta = data[key].meta
            meta["modality"] = self._modality_of(data[key], data.get("modality"))
            meta["window"] = self._window_of(data[key])
        return dict(data)

    def _modality_of(self, image: MetaTensor, stated: str | None) -> str:
        if self.modality != "auto":
            return self.modality
        # 8 bits a channel from a picture file, or in colour (an ultrasound or endoscopy DICOM)
        is_picture = image.meta["suffix"] in PIL_SUFFIXES or len(image) == 3
        if is_picture and image.meta["native_dtype"] == "uint8":
            return "RGB8"
        modality = str(image.meta["modality"] or stated or "").upper()
        if modality:
            return "MR" if modality.startswith("MR") else modality
        if self.window is None and image.min() <= AIR:
            raise InputError(
                f"image '{image.meta['filename_or_obj']}': values down to {image.min().item():g} "
                'look like CT, but the modality is not stated; set "modality" to "CT" or "MR"'
            )
        return "MR"

    def _window_of(self, image: MetaTensor) -> Window:
        fixed = self.window or WINDOWS.get(image.meta["modality"])
        if self.window is None and image.meta["modality"] == "CT" and image.min() >= 0:
            logger.warning(
                "image '%s': CT without a value below 0, so hardly in HU; save it in HU, or set "
                '"window"',
                image.meta["filename_or_obj"],
            )
        if fixed is not None:
            return fixed
        low, high = np.percentile(image.numpy(), self.percentiles)
        if not low < high:
            raise InputError(
                f"image '{image.meta['filename_or_obj']}': percentiles {self.percentiles} are both "
                f'{low:g}; set "window" or wider "percentiles"'
            )
        return float(low), float(high)


def _ascending(field: str, pair: Sequence[float]) -> Window:
    if len(pair) != 2 or not pair[0] < pair[1]:
        raise InputError(f"{field}: {list(pair)}; set two numbers, the lower one first")
    return float(pair[0]), float(pair[1])


class ScaleWindowd(MapTransform, InvertibleTransform):
    """Scale images to [-1, 1] by the window that `FindWindowd` found.

    Args:
        keys: hold images.
        allow_missing_keys: as MONAI has it.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """The same dictionary with scaled images."""
        found = dict(data)
        for key in self.key_iterator(found):
            window = found[key].meta["window"]
            found[key] = scale(found[key], *window)
            self.push_transform(found[key], extra_info={"window": window})
        return found

    def inverse(self, data: Mapping[Hashable, Any]) -> Item:
        """Values of [-1, 1] become native ones."""
        found = dict(data)
        for key in self.key_iterator(found):
            window = self.pop_transform(found[key])[TraceKeys.EXTRA_INFO]["window"]
            found[key] = unscale(found[key], *(float(value) for value in window))
        return found


class Slicesd(MapTransform):
    """Cut images and masks into slices: the dictionary becomes a list of them.

    In `meta` of each slice are "geometry", its own grid, "slice", its number (None where it was 2-D
    already), and "needs_foreground". What changes the grid of a volume comes before.

    Args:
        keys: hold (C, X, Y[, Z]).
        axis: 0, 1 or 2, to cut along.
        foreground_only: leave out slices of volumes whose mask is 0 throughout.
        label_key: of the mask.
        allow_missing_keys: as MONAI has it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        axis: int = 2,
        foreground_only: bool = False,
        label_key: str = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if axis not in (0, 1, 2):
            raise InputError(f"slice_axis: {axis}; set 0, 1 or 2")
        self.axis = axis
        self.foreground_only = foreground_only
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> list[Item]:
        """A dictionary for each slice, (C, A, B): the other two axes keep their order."""
        volumes = {key: data[key] for key in self.key_iterator(dict(data))}
        stacks = {
            key: stack_slices(volume.as_tensor(), slice_axis_of(volume, self.axis))
            for key, volume in volumes.items()
        }
        first, stack = next(iter(volumes.values())), next(iter(stacks.values()))
        axis, is_flat = slice_axis_of(first, self.axis), is_single_slice(first)
        mask = stacks.get(self.label_key) if self.foreground_only and not is_flat else None
        found = []
        for k in range(len(stack)):
            if mask is None or mask[k].any():
                own = {
                    "geometry": geometry_of(first, stack[k], axis, k),
                    "slice": None if is_flat else k,
                    "needs_foreground": mask is not None,
                }
                slices = {key: _slice(volumes[key], stacks[key][k], own) for key in stacks}
                found.append({**data, **slices})
        return found


def _slice(volume: MetaTensor, pixels: torch.Tensor, own: dict[str, Any]) -> MetaTensor:
    """A copy, for a view would keep the whole volume in memory; its grid stands in `own`."""
    meta = {name: volume.meta[name] for name in KEPT if name in volume.meta}
    return MetaTensor(pixels.clone(), affine=torch.eye(4), meta=meta | own)


def geometry_of(image: MetaTensor, pixels: torch.Tensor, axis: int, k: int) -> Geometry:
    """Grid of slice `k` (C, A, B) of an image; without affine where its file states none."""
    shape = (pixels.shape[1], pixels.shape[2])
    if not has_geometry(image):
        return {"shape": list(shape), "affine": None}
    return slice_geometry(image.affine.numpy(), shape, axis, k)
