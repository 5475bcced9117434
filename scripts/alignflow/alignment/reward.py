"""The distribution reward: distances to the references in several unlike feature spaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignflow.alignment.distance import Kernel, linear, median_distance, mmd2, rbf, witness
from alignflow.alignment.queue import FeatureQueue
from alignflow.distributed import all_gather_rows
from alignflow.errors import InputError

FeatureSpace = Callable[[Tensor], Tensor]
"""Images (B, C, X, Y) in [-1, 1] to features (B, D)."""

KERNELS = ("rbf", "linear")


@dataclass
class Term:
    """One feature space with one kernel, fitted to a site.

    Attributes:
        space: images to features.
        centre, scale: (D,) mean and standard deviation of the unaligned generator's features.
        references: their standardised features (M, D).
        kernel: k.
        unit: MMD^2 between the unaligned generator and the references, which divides the term.
        weight: share of the term in the reward.
        queue: features of earlier samples.
    """

    space: FeatureSpace
    centre: Tensor
    scale: Tensor
    references: Tensor
    kernel: Kernel
    unit: float
    weight: float
    queue: FeatureQueue

    def features(self, images: Tensor) -> Tensor:
        """Standardised features (B, D)."""
        return (self.space(images) - self.centre) / self.scale


class SetReward:
    """Weighted sum of squared MMDs, each in units of its value before alignment.

    Any single encoder can be gamed, hence several spaces (Li et al., arXiv 2607.02375). The sum is
    minimised; its negative is the reward.

    Args:
        spaces: name -> images to features.
        weights: name -> weight, 1 by default. The weights are scaled to sum to 1.
        kernels: kernels of each term, from `KERNELS`, with equal weights. A single reference uses
            only the linear kernel, since only the mean can be matched.
        bandwidths: bandwidths of the RBF kernel, in units of the median distance. Narrow kernels
            pull samples onto single references, wide kernels match low moments.
        queue_size: samples in the queue of each term; 0 for none.

    Raises:
        InputError: an unknown kernel, or a weight of an unknown space.
    """

    def __init__(
        self,
        spaces: Mapping[str, FeatureSpace],
        *,
        weights: Mapping[str, float] | None = None,
        kernels: Sequence[str] = ("rbf", "linear"),
        bandwidths: Sequence[float] = (1.0, 2.0, 4.0),
        queue_size: int = 128,
    ) -> None:
        if unknown := [k for k in kernels if k not in KERNELS] or not kernels:
            raise InputError(f"reward: kernels {unknown}; set some of {', '.join(KERNELS)}")
        for name in (weights or {}).keys() - spaces.keys():
            raise InputError(f"reward: weight of '{name}'; the spaces are {', '.join(spaces)}")
        self.spaces = dict(spaces)
        self.weights = {name: (weights or {}).get(name, 1.0) for name in spaces}
        self.kernels = list(kernels)
        self.bandwidths = list(bandwidths)
        self.queue_size = queue_size
        self.terms: dict[str, Term] = {}

    @torch.no_grad()
    def fit(self, samples: Tensor, references: Tensor) -> None:
        """Set centre, scale and unit of each term, and fill the queues.

        Args:
            samples: samples of the unaligned generator, (S, C, X, Y), S >= 2.
            references: (M, C, X, Y), possibly augmented.
        """
        kernels = self.kernels if len(references) > 1 else ["linear"]
        total = sum(self.weights.values()) * len(kernels)
        for name, space in self.spaces.items():
            if self.weights[name] == 0:
                continue
            raw = space(samples)
            centre, scale = raw.mean(dim=0), raw.std(dim=0).clamp(min=1e-3)
            x, y = (raw - centre) / scale, (space(references) - centre) / scale
            for kernel in kernels:
                function = self._kernel(kernel, torch.cat([x, y]))
                unit = float(mmd2(x, y, function))
                self.terms[f"{name}_{kernel}"] = Term(
                    space=space,
                    centre=centre,
                    scale=scale,
                    references=y,
                    kernel=function,
                    # Without a gap the unit is noise around 0.
                    unit=max(unit, 1e-3),
                    weight=self.weights[name] / total,
                    queue=FeatureQueue(x, self.queue_size),
                )

    def __call__(self, images: Tensor) -> tuple[Tensor, dict[str, float]]:
        """A loss with the gradient of the sum, and the value of each term.

        Args:
            images: (B, C, X, Y) with a gradient; each process passes its share. The features of all
                processes are compared and added to the queues.

        Returns:
            The loss (its value has no meaning, see `witness`), and name -> MMD^2 over batch and
            queue, in units of its initial value.
        """
        loss, values = images.new_zeros(()), {}
        features = {space: all_gather_rows(x) for space, x in self._features(images).items()}
        for name, term in self.terms.items():
            x = features[name.rsplit("_", 1)[0]]
            seen = term.queue.content
            w = witness(x, term.references, term.kernel, seen)
            loss = loss + term.weight / term.unit * 2 * w.mean()
            everything = x.detach() if seen is None else torch.cat([x.detach(), seen])
            values[name] = float(mmd2(everything, term.references, term.kernel)) / term.unit
            term.queue.push(x.detach())
        return loss, values

    @torch.no_grad()
    def distance(self, images: Tensor, references: Tensor) -> dict[str, float]:
        """MMD^2 of each term between two sets of images, in units of its initial value."""
        x, y = self._features(images), self._features(references)
        spaces = {name: name.rsplit("_", 1)[0] for name in self.terms}
        return {
            name: float(mmd2(x[spaces[name]], y[spaces[name]], term.kernel)) / term.unit
            for name, term in self.terms.items()
        }

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Standardised features of all spaces, concatenated with equal weights (B, D)."""
        spaces = self._features(images)
        return torch.cat([x / x.shape[1] ** 0.5 for x in spaces.values()], dim=1)

    @torch.no_grad()
    def witness(self, images: Tensor, others: Tensor) -> Tensor:
        """`distance.witness` summed over all terms (N,): large for images unlike the others.

        Each term has its weight and is divided by its standard deviation over the images. Dividing
        by its initial value would inflate a term in which the two sets already agree.

        Args:
            images: (N, C, X, Y), N >= 2.
            others: (M, C, X, Y), M >= 1.
        """
        x, y = self._features(images), self._features(others)
        total = images.new_zeros(len(images))
        for name, term in self.terms.items():
            space = name.rsplit("_", 1)[0]
            values = witness(x[space], y[space], term.kernel)
            total += term.weight * values / values.std().clamp(min=1e-12)
        return total

    def total(self, values: Mapping[str, float]) -> float:
        """Weighted sum of the terms: 1 before alignment."""
        return sum(term.weight * values[name] for name, term in self.terms.items())

    def state_dict(self) -> dict[str, Tensor | None]:
        """Content of the queue of each term."""
        return {name: term.queue.content for name, term in self.terms.items()}

    def load_state_dict(self, state: Mapping[str, Tensor | None]) -> None:
        """Restore the queues; the terms are fitted again."""
        for name, content in state.items():
            term = self.terms[name]
            term.queue.content = None if content is None else content.to(term.centre.device)

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        """Standardised features of each space, computed once for all its kernels."""
        first = {name.rsplit("_", 1)[0]: term for name, term in reversed(self.terms.items())}
        return {space: term.features(images) for space, term in first.items()}

    def _kernel(self, name: str, features: Tensor) -> Kernel:
        if name == "rbf":
            median = median_distance(features)
            return rbf([b * median for b in self.bandwidths])
        return linear
