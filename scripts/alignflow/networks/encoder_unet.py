"""A segmenter pretrained on ImageNet: a U-Net whose encoder is EfficientNet-Lite1."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.basic_unet import UpCat
from torch import Tensor, nn
from torch.nn.functional import interpolate

from alignflow.errors import InputError
from alignflow.networks.efficientnet import adapt_channels, efficientnet_lite

WIDTHS = (16, 24, 40, 112, 320)
"""Channels of EfficientNet-Lite1 at 1/2, 1/4, ... 1/32 of its input's size."""


class EncoderUNet(nn.Module):
    """Class logits of images of any size.

    The images are resized to the encoder's size, and the logits back. The encoder's batch norms
    update their running statistics ten times faster than in the package; otherwise a short training
    would end with the statistics of ImageNet. The decoder has instance norms, like BasicUNet.

    Args:
        in_channels: C; the first convolution is adapted where it is not 3.
        out_channels: K.
        input_size: [X, Y] of the encoder's input, pixels, multiples of 32. It was trained at 240;
            enlarge small images, since the encoder halves them five times.
        decoder: widths of the decoder at 1/16, 1/8, 1/4, 1/2 and full `input_size`.
        pretrained: start from the ImageNet weights. `build_network` sets it to false, since it
            loads other weights afterwards, so the package with ImageNet weights is not needed.

    Raises:
        InputError: a package is missing, or sizes that do not go together.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        input_size: Sequence[int] = (128, 128),
        decoder: Sequence[int] = (128, 96, 64, 32, 16),
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        if len(input_size) != 2 or any(side < 32 or side % 32 for side in input_size):
            raise InputError(
                f'segmenter: "input_size" is {list(input_size)}; set [X, Y], multiples of 32'
            )
        if len(decoder) != len(WIDTHS):
            raise InputError(f'segmenter: "decoder" is {list(decoder)}; set {len(WIDTHS)} widths')
        self.input_size = tuple(input_size)
        encoder = efficientnet_lite(
            1, input_size, pretrained, "segmenter: EncoderUNet", batch_norm_momentum=0.9
        )
        adapt_channels(encoder._conv_stem, in_channels)
        self.stem = nn.Sequential(encoder._conv_stem, encoder._bn0, encoder._swish)
        self.blocks = encoder._blocks
        below = (WIDTHS[-1], *decoder)
        skips = (*WIDTHS[-2::-1], in_channels)
        self.decoder = nn.ModuleList(
            _up(deep, skip, width) for deep, skip, width in zip(below, skips, decoder, strict=False)
        )
        self.head = nn.Conv2d(decoder[-1], out_channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, X, Y) of images (B, C, X, Y) in [-1, 1]."""
        resized = interpolate(images, self.input_size, mode="bilinear", antialias=True)
        *skips, x = self.encode(resized)
        for up, skip in zip(self.decoder, [*reversed(skips), resized], strict=True):
            x = up(x, skip)
        return interpolate(self.head(x), images.shape[2:], mode="bilinear")

    def encode(self, images: Tensor) -> list[Tensor]:
        """The last maps (B, WIDTHS[i], x, y) before each halving, and the deepest ones.

        Args:
            images: (B, C, X, Y) of `input_size` in [-1, 1].
        """
        maps = []
        x = self.stem(images)
        for block in self.blocks:
            deeper = block(x)
            if deeper.shape[-1] < x.shape[-1]:
                maps.append(x)
            x = deeper
        return [*maps, x]


def _up(below: int, skip: int, width: int) -> nn.Module:
    """Enlarge, concatenate the encoder's map, convolve twice."""
    return UpCat(
        2,
        below,
        skip,
        width,
        act="RELU",
        norm=("instance", {"affine": True}),
        bias=False,
        upsample="nontrainable",
        pre_conv=None,
        align_corners=False,
    )
