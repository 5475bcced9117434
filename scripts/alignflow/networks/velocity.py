"""The velocity network: MONAI's diffusion UNet on patches of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from alignflow.errors import InputError
from alignflow.flow.prediction import PREDICTIONS, velocity_of


class VelocityUNet(nn.Module):
    """v(x, t | condition, vector) for images of (X, Y) pixels.

    `patch` x `patch` pixels become channels before the UNet and pixels again after it
    (`pixel_unshuffle`), which makes a training step several times cheaper. A mask is concatenated
    to the input; a vector (for the mask flow: area, position) is added to the time embedding.

    Args:
        data_channels: C of the image or of the distance maps.
        condition_channels: channels of the spatial condition, 0 for none.
        vector_size: length of the vector condition, 0 for none.
        patch: side of the pixel patches, 1 for none.
        channels: width of each level of the UNet; X and Y must be divisible by `divisor`.
        attention_levels: which levels have self-attention.
        num_res_blocks: residual blocks of each level.
        num_head_channels: channels of each attention head.
        norm_num_groups: groups of each group norm; all `channels` must be multiples of it. A group
            norm removes any shift of a whole group, so groups must be several channels wide: with
            one channel per group (32 channels in MONAI's 32 groups) the norm after the time
            embedding cancels it, and the block sees neither time nor vector.
        time_scale: radians by which the fastest sinusoid of the time embedding turns from t = 0 to
            1. MONAI's embedding is designed for 1000. A trained velocity then has small ripples in
            t that 100 solver steps cannot follow; at 100 it has none, with no gain at 10 steps.
        prediction: what the UNet's output is, "velocity" or "data", see `velocity_of`; `forward`
            returns the velocity in both cases.

    Raises:
        InputError: arguments that do not go together.
    """

    def __init__(
        self,
        *,
        data_channels: int,
        condition_channels: int = 0,
        vector_size: int = 0,
        patch: int = 2,
        channels: Sequence[int] = (64, 96, 128),
        attention_levels: Sequence[bool] = (False, False, True),
        num_res_blocks: int = 1,
        num_head_channels: int = 32,
        norm_num_groups: int = 8,
        time_scale: float = 1000.0,
        prediction: str = "velocity",
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise InputError(
                f"network: prediction {prediction!r}; set one of {', '.join(PREDICTIONS)}"
            )
        # Everything needed to build this network again, saved beside the weights.
        self.arguments = {
            "data_channels": data_channels,
            "condition_channels": condition_channels,
            "vector_size": vector_size,
            "patch": patch,
            "channels": list(channels),
            "attention_levels": list(attention_levels),
            "num_res_blocks": num_res_blocks,
            "num_head_channels": num_head_channels,
            "norm_num_groups": norm_num_groups,
            "time_scale": time_scale,
            "prediction": prediction,
        }
        self.prediction = prediction
        self.data_channels = data_channels
        self.patch = patch
        self.time_scale = time_scale
        self.divisor = size_divisor(patch, channels)
        try:
            self.unet = DiffusionModelUNet(
                spatial_dims=2,
                in_channels=(data_channels + condition_channels) * patch**2,
                out_channels=data_channels * patch**2,
                channels=tuple(channels),
                attention_levels=tuple(attention_levels),
                num_res_blocks=num_res_blocks,
                num_head_channels=num_head_channels,
                norm_num_groups=norm_num_groups,
                num_class_embeds=1 if vector_size else None,
                use_flash_attention=True,
            )
        except ValueError as error:
            raise InputError(f"network: {error}; fix its arguments in the config") from error
        if vector_size:
            # MONAI embeds an integer class here; any module that takes `class_labels` and returns
            # the width of the time embedding works as well.
            self.unet.class_embedding = _vector_embedding(  # type: ignore[assignment]
                vector_size, 4 * channels[0]
            )

    def forward(
        self, x: Tensor, t: Tensor, condition: Tensor | None = None, vector: Tensor | None = None
    ) -> Tensor:
        """Velocity (B, C, X, Y) at x (B, C, X, Y) and t (B,) in [0, 1].

        Args:
            x: the state.
            t: time, 0 noise, 1 data.
            condition: (B, condition_channels, X, Y); zeros mean "not given".
            vector: (B, vector_size); zeros mean "not given".

        Raises:
            ValueError: if X or Y is not divisible by `divisor`.
        """
        if x.shape[-1] % self.divisor or x.shape[-2] % self.divisor:
            raise ValueError(f"image size {tuple(x.shape[-2:])} is not divisible by {self.divisor}")
        seen = x if condition is None else torch.cat([x, condition], dim=1)
        blocks = pixel_unshuffle(seen, self.patch)
        if blocks.is_cuda:
            # Tensor cores want channels last. On a CPU it makes the backward pass of GroupNorm in
            # bf16 13 times slower, and the whole training step by a fifth.
            blocks = blocks.contiguous(memory_format=torch.channels_last)
        output = self.unet(blocks, t * self.time_scale, class_labels=vector)
        return velocity_of(pixel_shuffle(output, self.patch), x, t, self.prediction)


def size_divisor(patch: int, channels: Sequence[int]) -> int:
    """X and Y must be divisible by this: the patch size, doubled at each level but the last."""
    return patch * 2 ** (len(channels) - 1)


def _vector_embedding(size: int, width: int) -> nn.Module:
    """An MLP whose last layer is initialised to zero, so that it adds nothing at first."""
    last = nn.Linear(width, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(size, width), nn.SiLU(), last)
