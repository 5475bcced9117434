"""The iteration update of alignment for a MONAI trainer."""

from __future__ import annotations

import logging
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from torch import Tensor, nn
from torch.nn import functional

from alignflow.alignment.gradient import GradientScheme, Plan, Visited, connect, roll_out
from alignflow.alignment.masks import dice_loss
from alignflow.alignment.matching import ReferenceMatching
from alignflow.alignment.reward import SetReward
from alignflow.device import Precision
from alignflow.distributed import accumulating, all_true, local_rows, mean_over_processes, world
from alignflow.errors import InputError
from alignflow.flow.ema import EMA
from alignflow.flow.guidance import guided_velocity
from alignflow.flow.solver import Velocity
from alignflow.networks.velocity import VelocityUNet

logger = logging.getLogger(__name__)


class AlignUpdate:
    """Flow matching on the references and, every few updates, reward, anchor and mask loss.

    Flow matching teaches the look of each structure; the reward adds sharpness and spread.

    The reward needs two passes (gradient caching, Gao et al., arXiv 2101.06983). First, samples of
    the whole batch are drawn without a gradient, and the reward's gradient with respect to all of
    them is computed. Then each micro-batch is connected to the network and receives its part of
    this gradient. So the set distance uses the whole batch, with the memory of a micro-batch. With
    several processes each draws its share of the samples; noise and plans are drawn for the whole
    batch, and features are gathered.

    Args:
        frozen: the velocity network of stage 1.
        ema: average of the trained network's weights, updated after each step.
        reward: fitted distances to the references.
        scheme: which solver steps have a gradient.
        segmenter: frozen segmenter of the source.
        num_classes: K.
        guidance: weight of classifier-free guidance, as in inference.
        precision: autocast of the computation with a gradient.
        sampling: autocast of the roll-out, as in inference: bf16 adds grain to samples, which the
            reward would try to correct.
        anchor: weight of the mean of |v - v_stage1|^2 on visited states.
        detail_anchor: weight of the same for the detail only, see `detail`: changes of colour and
            brightness cost `anchor`, changes of grain cost both.
        detail_window: side of the square that separates detail from the rest, pixels, odd.
        faithfulness: weight of `dice_loss`.
        noise: standard deviation of the noise added before encoder and segmenter.
        micro_batch: samples with a gradient at a time.
        reward_weight: weight of the reward.
        reward_interval: reward, anchor and mask loss are used every so many updates; without
            `matching` in every update.
        matching: flow matching on the references, or None.
        matching_weight: weight of the flow matching loss.
        clip: largest norm of the gradient.
        seed: random seed of plans and noise.

    Raises:
        InputError: an even `detail_window`.
    """

    def __init__(
        self,
        *,
        frozen: VelocityUNet,
        ema: EMA,
        reward: SetReward,
        scheme: GradientScheme,
        segmenter: nn.Module,
        num_classes: int,
        guidance: float,
        precision: Precision,
        sampling: Precision,
        anchor: float,
        detail_anchor: float,
        detail_window: int,
        faithfulness: float,
        noise: float,
        micro_batch: int,
        reward_weight: float = 1.0,
        reward_interval: int = 1,
        matching: ReferenceMatching | None = None,
        matching_weight: float = 0.0,
        clip: float = 1.0,
        seed: int = 0,
    ) -> None:
        if detail_window % 2 == 0:
            raise InputError(f'config "detail_window": {detail_window} is even; set an odd number')
        self.frozen = frozen
        self.frozen.eval().requires_grad_(False)
        self.ema = ema
        self.reward = reward
        self.scheme = scheme
        self.segmenter = segmenter.eval().requires_grad_(False)
        self.num_classes = num_classes
        self.guidance = guidance
        self.precision = precision
        self.sampling = sampling
        self.anchor = anchor
        self.detail_anchor = detail_anchor
        self.detail_window = detail_window
        self.faithfulness = faithfulness
        self.reward_weight = reward_weight
        self.reward_interval = 1 if matching is None else reward_interval
        self.uses_reward = (
            matching is None or reward_weight + faithfulness + anchor + detail_anchor > 0
        )
        self.matching = matching
        self.matching_weight = matching_weight
        self.noise = noise
        self.micro_batch = micro_batch
        self.clip = clip
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, engine: SupervisedTrainer, batch: dict[str, Tensor]) -> dict[str, float]:
        """One update; returns its "loss" and the values of its terms.

        These are "matching" and, when the reward is used, "reward", each of its terms, the norm of
        its "gradient", "anchor" and "mask". A value that is not finite stops the run before it
        changes the weights.
        """
        engine.network.eval()
        engine.optimizer.zero_grad(set_to_none=True)
        values: dict[str, float] = {}
        if self.uses_reward and engine.state.iteration % self.reward_interval == 0:
            values |= self.reward_step(engine, batch)
        if self.matching is not None:
            values["matching"] = self.match(self.matching, engine.network)
        values["loss"] = values["reward"] if self.matching is None else values["matching"]
        if not all_true(all(map(_is_finite, values.values()))):
            logger.error("step %d: the loss is not finite; stopped", engine.state.iteration)
            engine.optimizer.zero_grad(set_to_none=True)
            engine.terminate()
            return values
        self.precision.step(engine.network, engine.optimizer, self.clip)
        self.ema.update_parameters(engine.network)
        return values

    def reward_step(self, engine: SupervisedTrainer, batch: dict[str, Tensor]) -> dict[str, float]:
        """Add the gradient of reward, anchor and mask loss; returns their values."""
        device = engine.state.device
        maps, labels = batch["condition"].to(device), batch["label"].to(device)
        noise = self.draw_noise((len(maps), self.frozen.data_channels, *maps.shape[2:]), device)
        plan = self.scheme.draw(self.generator)
        parts = list(zip(noise.split(self.micro_batch), maps.split(self.micro_batch), strict=True))
        visited = [self.roll_out(engine.network, n, m, plan) for n, m in parts]
        sample = torch.cat([v.sample for v in visited])
        gradient, values = self.reward_gradient(sample, labels)
        values["gradient"] = float(gradient.norm())
        values["anchor"] = 0.0
        gradients = gradient.split(self.micro_batch)
        for k, (v, (_, m), g) in enumerate(zip(visited, parts, gradients, strict=True), start=1):
            weight = len(m) / len(sample)
            with accumulating(engine.network, self.matching is None and k == len(parts)):
                anchor = self.backward(engine.network, m, plan, v, g, weight)
            values["anchor"] += weight * anchor
        values["anchor"] = mean_over_processes(values["anchor"])
        return values

    def roll_out(self, network: nn.Module, noise: Tensor, maps: Tensor, plan: Plan) -> Visited:
        """Samples without a gradient."""
        with self.sampling.autocast():
            return roll_out(self.velocity(network, maps), noise, plan)

    def velocity(self, network: nn.Module, maps: Tensor) -> Velocity:
        """Guided velocity, always in float32."""
        guided = guided_velocity(network, {"condition": maps}, self.guidance)
        return lambda x, t: guided(x, t).float()

    def draw_noise(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Standard normal noise for this process's samples (B, ...)."""
        whole = (shape[0] * world(), *shape[1:])
        return local_rows(torch.randn(whole, generator=self.generator)).to(device)

    def reward_gradient(self, sample: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Gradient of reward and mask loss with respect to the samples, and their values.

        Each process gets the gradient of its own samples, multiplied by `world()`, since
        DistributedDataParallel averages over processes.
        """
        x = sample.detach().requires_grad_()
        seen = x + self.noise * self.draw_noise(tuple(x.shape), x.device)
        loss, values = self.reward(seen)
        loss = self.reward_weight * loss
        values = {"reward": self.reward.total(values), **values}
        if self.faithfulness:
            mask = dice_loss(self.segmenter, seen, labels, self.num_classes)
            loss = loss + self.faithfulness * mask
            values["mask"] = float(mask.detach())
        (gradient,) = torch.autograd.grad(world() * loss, x)
        return gradient, values

    def backward(
        self,
        network: nn.Module,
        maps: Tensor,
        plan: Plan,
        visited: Visited,
        gradient: Tensor,
        weight: float,
    ) -> float:
        """Back-propagate the gradient of a micro-batch; returns the value of its anchor.

        `weight` is the micro-batch's share of the samples.
        """
        with self.precision.autocast():
            sample, seen = connect(self.velocity(network, maps), visited, plan)
            changes = [self.change(x, t, v, maps) for x, t, v in seen]
        anchor = torch.stack([d.square().mean() for d in changes]).mean()
        fine = torch.stack([detail(d, self.detail_window).square().mean() for d in changes]).mean()
        anchors = self.anchor * anchor + self.detail_anchor * fine
        loss = (sample * gradient).sum() + anchors * weight
        self.precision.backward(loss)
        return float(anchor.detach())

    def match(self, matching: ReferenceMatching, network: nn.Module) -> float:
        """Add the gradient of flow matching on the references, the same in each process."""
        with self.precision.autocast():
            loss = matching(network, self.generator)
        self.precision.backward(self.matching_weight * loss)
        return float(loss.detach())

    def change(self, x: Tensor, t: Tensor, v: Tensor, maps: Tensor) -> Tensor:
        """v - v_stage1 at a state, (B, C, X, Y)."""
        with torch.no_grad():
            before = self.velocity(self.frozen, maps)(x.detach(), t)
        return v - before

    def state_dict(self) -> dict[str, Any]:
        """State of generator, loss scaling and queues."""
        return {
            "generator": self.generator.get_state(),
            "precision": self.precision.state_dict(),
            "queues": self.reward.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.generator.set_state(state["generator"].cpu())
        self.precision.load_state_dict(state["precision"])
        self.reward.load_state_dict(state["queues"])


def detail(x: Tensor, window: int) -> Tensor:
    """Images (B, C, X, Y) minus their local means; the border is repeated."""
    padded = functional.pad(x, [window // 2] * 4, mode="replicate")
    return x - functional.avg_pool2d(padded, window, stride=1)


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")
