"""Test-time adaptation: a trained segmenter is fitted to unlabelled images of the target site."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from alignflow.errors import InputError

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)  # the first: batch and instance norms


def adapt_batch_norm(
    segmenter: nn.Module, images: Tensor, *, batch_size: int = 64, source_weight: float = 0.0
) -> nn.Module:
    """A copy whose batch norms hold the statistics of `images`.

    Source: Schneider et al., arXiv 2006.16971, eq. 2; `source_weight` is their N / (N + n).

    Args:
        segmenter: logits (B, K, X, Y) from images (B, C, X, Y) in [-1, 1].
        images: (N, C, X, Y) in [-1, 1], unlabelled.
        batch_size: with N above it the statistics are means of those of the batches, which are
            equal in size up to one image.
        source_weight: share that the statistics of training keep, from 0 to 1.

    Returns:
        The adapted copy, in eval mode, on the device of `segmenter`.

    Raises:
        InputError: the network has no batch norm with running statistics, or no image is given.
    """
    adapted = copy.deepcopy(segmenter).eval()
    norms = require_batch_norms(adapted)
    require_images(images)
    before = [[value.clone() for value in statistics(norm)] for norm in norms]
    with using_batch_statistics(norms, forget=True), torch.no_grad():
        for batch in even_batches(images, batch_size):
            adapted(batch.to(device_of(adapted)))
    for norm, old in zip(norms, before, strict=True):
        for new_value, old_value in zip(statistics(norm), old, strict=True):
            new_value.lerp_(old_value, source_weight)
    return adapted


def adapt_by_entropy(
    segmenter: nn.Module,
    images: Tensor,
    *,
    steps: int = 10,
    learning_rate: float = 1e-3,
    batch_size: int = 16,
    seed: int = 0,
) -> nn.Module:
    """A copy whose norms' scales and shifts minimise the entropy of its predictions (TENT).

    Where there are batch norms, their statistics are those of the batch during the steps, and those
    of all `images` afterwards; other norms have none to adapt.
    Source: Wang et al., arXiv 2006.10726, section 3; there on a stream of test images, here on
    a set that is seen several times.

    Args:
        segmenter, images: as in `adapt_batch_norm`.
        steps: of Adam, each on `batch_size` random images.
        learning_rate: of Adam.
        batch_size: images in a step, at most N.
        seed: of their order.

    Returns:
        The adapted copy, in eval mode, its gradients switched as they were.

    Raises:
        InputError: no norm with scale and shift, or no image is given.
    """
    adapted = copy.deepcopy(segmenter).eval()
    norms, parameters = find_batch_norms(adapted), affine_parameters(adapted)
    require_images(images)
    learned = {id(parameter) for parameter in parameters}
    wanted = [parameter.requires_grad for parameter in adapted.parameters()]
    for parameter in adapted.parameters():
        parameter.requires_grad_(id(parameter) in learned)
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    with using_batch_statistics(norms), torch.enable_grad():
        for _ in range(steps):
            chosen = torch.randperm(len(images), generator=generator)[:batch_size]
            loss = entropy(adapted(images[chosen].to(device_of(adapted)))).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for parameter, flag in zip(adapted.parameters(), wanted, strict=True):
        parameter.requires_grad_(flag)
    return adapt_batch_norm(adapted, images) if norms else adapted


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax over the classes, nats: (B, X, Y) from (B, K, X, Y)."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def find_batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Its batch norms with running statistics."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def require_batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The same; raises `InputError` where there is none."""
    found = find_batch_norms(network)
    if not found:
        kinds = sorted({type(m).__name__ for m in network.modules() if "Norm" in type(m).__name__})
        raise InputError(
            f"segmenter: no batch norm to adapt (it has {', '.join(kinds) or 'no norm'}); "
            'train one with "norm": "batch"'
        )
    return found


def statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Its running mean and variance (C,)."""
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var


def affine_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Scales and shifts of its norms.

    Raises:
        InputError: there is none.
    """
    norms = [m for m in network.modules() if isinstance(m, NORMS)]
    found = [parameter for norm in norms for parameter in norm.parameters(recurse=False)]
    if not found:
        raise InputError("segmenter: no norm with scale and shift; train one with affine norms")
    return found


@contextmanager
def using_batch_statistics(norms: list[_BatchNorm], forget: bool = False) -> Iterator[None]:
    """Let batch norms use the statistics of each batch, and with `forget` keep their mean."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        if forget:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for the mean over all batches
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def require_images(images: Tensor) -> None:
    """Raise `InputError` where there is no image."""
    if not len(images):
        raise InputError("images: none; give unlabelled images of the target site")


def even_batches(images: Tensor, batch_size: int) -> list[Tensor]:
    """As few batches of at most `batch_size` as there can be, equal in size up to one image."""
    return list(torch.tensor_split(images, -(-len(images) // batch_size)))


def device_of(network: nn.Module) -> torch.device:
    """Where its first parameter lies."""
    return next(network.parameters()).device
