import copy
from functools import partial

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from scipy.ndimage import uniform_filter
from torch.utils.data import DataLoader

from alignflow.alignment.gradient import GradientScheme
from alignflow.alignment.matching import ReferenceMatching
from alignflow.alignment.monitor import Monitor
from alignflow.alignment.parameters import choose_parameters
from alignflow.alignment.reward import SetReward
from alignflow.alignment.sampling import FixedSamples, fit_reward
from alignflow.alignment.site import split_references
from alignflow.alignment.statistics import colour
from alignflow.alignment.update import AlignUpdate, detail
from alignflow.device import Precision
from alignflow.errors import InputError
from alignflow.flow.ema import EMA
from alignflow.flow.sampler import FlowSampler
from alignflow.segmentation.pseudo_masks import ReferenceMasks


class Run:
    """An alignment of the small network to bright images."""

    def __init__(
        self, network, segmenter, bank, references=None, lr=1e-2, ema_decay=0.0, **options
    ):
        self.precision = Precision("cpu", "fp32")
        frozen = copy.deepcopy(network)
        chosen = choose_parameters(network, "modulation")
        self.ema = EMA(network, ema_decay)
        self.sampler = FlowSampler(self.ema.module, steps=4, method="euler", guidance=1.5)
        self.samples = FixedSamples(
            bank, count=8, channels=1, precision=self.precision, device="cpu"
        )
        before = self.samples.draw(self.sampler)
        if references is None:
            references = before.roll(1, 0) * 0.5 + 0.4
        self.split = split_references(references, 0.3, 0)
        # an untrained network's samples leave the window of images
        self.reward = SetReward({"colour": partial(colour, floor=-torch.inf)}, queue_size=8)
        fit_reward(self.reward, before, self.split.fitted, 0.0, 0)
        settings = {"anchor": 0.0, "faithfulness": 0.0, "micro_batch": 4} | options
        settings = {"detail_anchor": 0.0, "detail_window": 3} | settings
        self.update = AlignUpdate(
            frozen=frozen,
            ema=self.ema,
            reward=self.reward,
            scheme=GradientScheme(steps=4, active=2),
            segmenter=segmenter,
            num_classes=2,
            guidance=1.5,
            precision=self.precision,
            sampling=self.precision,
            noise=0.0,
            **settings,
        )
        self.monitor = Monitor(
            samples=self.samples,
            sampler=self.sampler,
            split=self.split,
            reward=self.reward,
            segmenter=segmenter,
            num_classes=2,
            lowest_spread=0.0,
            largest_dice_loss=1.0,
        )
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=3,
            train_data_loader=DataLoader(bank, batch_size=4),
            network=network,
            optimizer=torch.optim.Adam(chosen, lr=lr),
            loss_function=torch.nn.MSELoss(),
            inferer=SimpleInferer(),
            iteration_update=self.update,
            train_handlers=[self.monitor],
            decollate=False,
        )


def state(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_alignment_brings_the_samples_nearer_to_references_it_has_not_seen(
    network, segmenter, bank
):
    run = Run(network, segmenter, bank)
    run.trainer.run()
    curve = [values["left_out"] for values in run.monitor.curve]
    assert len(curve) == 4 and curve[run.monitor.best_epoch] < 0.8 * curve[0]


def test_micro_batches_give_the_gradient_of_the_whole_batch(network, segmenter, bank):
    options = {"anchor": 1.0, "detail_anchor": 2.0, "faithfulness": 0.1}
    gradients = []
    for size in (4, 2, 1):
        net = copy.deepcopy(network)
        run = Run(net, segmenter, bank, micro_batch=size, lr=0.0, **options)
        with torch.no_grad():  # else the anchor is 0
            for p in net.parameters():
                p.mul_(1.01)
        run.trainer.state.max_epochs = 1
        run.trainer.run()
        gradients.append([p.grad.clone() for p in net.parameters() if p.requires_grad])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_reward_without_weight_moves_nothing(network, segmenter, bank):
    before = state(network)
    run = Run(network, segmenter, bank, reward_weight=0.0)
    run.trainer.run()
    assert torch.equal(state(network), before)
    assert run.trainer.state.output["reward"] > 0


def test_anchor_holds_the_network_back(network, segmenter, bank):
    moved = []
    for anchor in (0.0, 1e4):
        net = copy.deepcopy(network)
        Run(net, segmenter, bank, anchor=anchor, lr=1e-3).trainer.run()
        x = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        t, maps = torch.full((4,), 0.5), bank[0]["condition"].expand(4, -1, -1, -1)
        moved.append(float((net(x, t, maps) - network(x, t, maps)).square().mean()))
    assert moved[1] < 0.5 * moved[0]


def test_detail_is_what_a_box_filter_takes_away():
    x = torch.randn(2, 3, 12, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blurred = uniform_filter(x.numpy(), size=(1, 1, 5, 5), mode="nearest")
    torch.testing.assert_close(detail(x, 5), x - torch.from_numpy(blurred))


def test_detail_anchor_holds_detail_back_alone(network, segmenter, bank):
    fine, coarse = [], []
    for weight in (0.0, 1e3):
        net = copy.deepcopy(network)
        Run(net, segmenter, bank, detail_anchor=weight, lr=1e-3).trainer.run()
        x = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        t, maps = torch.full((4,), 0.5), bank[0]["condition"].expand(4, -1, -1, -1)
        change = (net(x, t, maps) - network(x, t, maps)).detach()
        fine.append(float(detail(change, 3).square().mean()))
        coarse.append(float((change - detail(change, 3)).square().mean()))
    assert fine[1] < 0.5 * fine[0] and fine[1] / coarse[1] < 0.5 * fine[0] / coarse[0]
    with pytest.raises(InputError, match="detail_window"):
        Run(network, segmenter, bank, detail_window=4)


def test_matching_draws_the_network_towards_the_references(network, segmenter, bank):
    references = 0.8 * torch.ones(4, 1, 16, 16)
    labels = torch.zeros(4, 1, 16, 16, dtype=torch.uint8)
    masks = ReferenceMasks(labels, torch.ones(4, 1, 16, 16))
    matching = ReferenceMatching(
        references, masks, condition=lambda m: torch.zeros(len(m), 3, 16, 16), batch_size=64
    )
    before = float(matching(network, torch.Generator().manual_seed(0)).detach())
    run = Run(network, segmenter, bank, matching=matching, matching_weight=100.0)
    run.monitor.patience = 0
    run.trainer.state.max_epochs = 10
    run.trainer.run()
    assert run.trainer.state.output["matching"] < 0.8 * before


class Still:
    """Flow matching that changes nothing."""

    def __call__(self, network, generator):
        return 0 * next(p for p in network.parameters() if p.requires_grad).sum()


def test_reward_comes_at_its_interval(network, segmenter, bank):
    run = Run(network, segmenter, bank, matching=Still(), matching_weight=1.0, reward_interval=3)
    run.monitor.patience, seen = 0, []
    run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: seen.append("reward" in engine.state.output)
    )
    run.trainer.run()
    assert seen == [n % 3 == 0 for n in range(1, len(seen) + 1)] and any(seen)


def test_reward_that_is_not_finite_ends_the_run_before_it_harms_the_weights(
    network, segmenter, bank, caplog
):
    run = Run(network, segmenter, bank)
    before = state(network)
    run.reward.terms["colour_rbf"].references[:] = float("nan")
    run.monitor.patience = 0
    run.trainer.run()
    assert "not finite" in caplog.text and run.trainer.state.iteration == 1
    assert torch.equal(state(network), before)


@pytest.mark.parametrize("n", [1, 2])
def test_few_references_work(network, segmenter, bank, n):
    references = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    run = Run(network, segmenter, bank, references=references)
    run.trainer.run()
    assert run.split.left_out is None
    assert all(torch.isfinite(torch.tensor(v["fitted"])) for v in run.monitor.curve)


def test_best_weights_are_put_back(network, segmenter, bank):
    run = Run(network, segmenter, bank, lr=0.5)  # far too large: later epochs are worse
    before = state(network)
    run.trainer.run()
    if run.monitor.best_epoch == 0:
        torch.testing.assert_close(state(run.sampler.network), before)
    best = min(run.monitor.curve, key=lambda v: v["left_out"])
    assert run.monitor.curve[run.monitor.best_epoch] is best
    again = run.monitor.measure()
    assert again["left_out"] == pytest.approx(best["left_out"], rel=1e-3)


def test_epoch_that_loses_spread_or_masks_is_not_kept(network, segmenter, bank):
    monitor = Run(network, segmenter, bank).monitor
    monitor.lowest_spread, monitor.largest_dice_loss = 0.8, 0.02
    first = {"left_out": 1.0, "fitted": 1.0, "spread": 1.1, "nearest": 1.0, "dice": 0.7}
    monitor.curve = [first]
    good = first | {"left_out": 0.5, "spread": 0.85, "dice": 0.69}
    assert monitor.key(good) == 0.5
    assert monitor.key(good | {"spread": 0.7}) == float("inf")
    assert monitor.key(good | {"dice": 0.6}) == float("inf")
    assert monitor.key(first) == 1.0
    monitor.matching = Still()  # flow matching holds the masks, whatever the segmenter finds
    assert monitor.key(good | {"dice": 0.1, "matching": 0.3}) == 0.3


def test_state_goes_on_where_it_was(network, segmenter, bank):
    one = Run(copy.deepcopy(network), segmenter, bank)
    one.trainer.run()
    other = Run(copy.deepcopy(network), segmenter, bank)
    other.update.load_state_dict(one.update.state_dict())
    other.monitor.load_state_dict(one.monitor.state_dict())
    assert torch.equal(other.update.generator.get_state(), one.update.generator.get_state())
    content = [run.reward.terms["colour_rbf"].queue.content for run in (one, other)]
    assert torch.equal(*content)
    assert other.monitor.curve == one.monitor.curve


def test_what_is_kept_is_the_average_of_the_weights(network, segmenter, bank):
    """d = min(decay, (1 + n) / (10 + n)), the first update copies."""
    run = Run(network, segmenter, bank, ema_decay=0.95, lr=1e-3)
    run.monitor.patience = 0
    visited = []
    run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: visited.append(state(network).clone())
    )
    averaged = []
    run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: averaged.append(state(run.sampler.network).clone())
    )
    run.trainer.run()
    expected = visited[0]
    for n, weights in enumerate(visited[1:], start=1):
        d = min(0.95, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * weights
    torch.testing.assert_close(averaged[-1], expected)
    assert not torch.equal(averaged[-1], visited[-1])
