from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from alignflow.training.epochs import EpochSampler

sizes = st.integers(1, 40)
seeds = st.integers(0, 1000)


def order(size, draws, seed, epoch):
    sampler = EpochSampler(size, draws, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


@given(sizes, sizes, seeds, seeds)
def test_no_index_again_before_every_other_was_drawn(size, draws, seed, epoch):
    drawn = order(size, draws, seed, epoch)
    assert len(drawn) == draws == len(EpochSampler(size, draws))
    assert set(drawn) <= set(range(size))
    for start in range(0, draws, size):
        assert len(set(drawn[start : start + size])) == len(drawn[start : start + size])
    counts = Counter({index: 0 for index in range(size)} | Counter(drawn))
    assert max(counts.values()) - min(counts.values()) <= 1


@given(seeds, seeds)
def test_depends_on_seed_and_epoch_alone(seed, epoch):
    sampler = EpochSampler(20, 30, seed)
    for passed in (5, 3):
        sampler.set_epoch(passed)
        list(sampler)
    sampler.set_epoch(epoch)
    assert list(sampler) == list(sampler) == order(20, 30, seed, epoch)


def test_epochs_and_seeds_differ():
    orders = [tuple(order(20, 20, seed, epoch)) for seed in range(5) for epoch in range(5)]
    assert len(set(orders)) == 25


def test_every_epoch_of_a_run_has_its_own_order(build):
    run = build(epochs=3, steps=2)
    seen = []
    shuffled = run.sampler.__iter__

    class Recorder(EpochSampler):
        def __iter__(self):
            seen.append(self.epoch)
            return shuffled()

    run.sampler.__class__ = Recorder
    run.trainer.run()
    assert seen == [1, 2, 3]


@given(sizes, st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), seeds)
def test_processes_share_each_batch_of_the_order(size, steps, each, world, epoch):
    batch = each * world
    whole = order(size, steps * batch, 0, epoch)
    for rank in range(world):
        sampler = EpochSampler(size, steps * batch, 0, rank, world)
        sampler.set_epoch(epoch)
        own = list(sampler)
        assert len(own) == len(sampler) == steps * each
        for k in range(steps):
            assert own[k * each : (k + 1) * each] == whole[k * batch : (k + 1) * batch][rank::world]
