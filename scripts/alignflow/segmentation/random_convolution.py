"""Random convolutions (GIN): change colours and textures but not shapes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, leaky_relu

LAYERS = 4
WIDTH = 2
KERNELS = (1, 3)


def random_convolution(image: Tensor, generator: torch.Generator) -> Tensor:
    """Blend `image` with its output from a shallow network with random weights.

    Source: Ouyang et al., arXiv 2111.12525, sec. 3.1 (GIN): four convolutions with random
    kernel sizes (1 or 3 pixels) and weights, leaky ReLUs between them, a blend with the image by a
    random share, and scaling to the image's Frobenius norm.

    Args:
        image: (C, X, Y) in [-1, 1].
        generator: CPU generator.

    Returns:
        (C, X, Y), clipped to [-1, 1].
    """
    channels = image.shape[0]
    widths = [channels, *[WIDTH] * (LAYERS - 1), channels]
    x = image[None].float()
    for layer in range(LAYERS):
        kernel = KERNELS[int(torch.randint(len(KERNELS), (1,), generator=generator))]
        shape = (widths[layer + 1], widths[layer], kernel, kernel)
        weight = torch.randn(shape, generator=generator).to(x)
        shift = torch.randn(widths[layer + 1], generator=generator).to(x)
        x = conv2d(x, weight, shift, padding=kernel // 2)
        if layer < LAYERS - 1:
            x = leaky_relu(x)
    share = float(torch.rand(1, generator=generator))
    mixed = torch.lerp(image.float(), x[0], share)
    scale = image.norm() / mixed.norm().clamp(min=1e-6)
    return (mixed * scale).clip(-1, 1).to(image)
