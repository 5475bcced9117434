from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignflow.errors import InputError
from alignflow.segmentation.sampler import MixedSampler


def batches(sampler):
    order = list(sampler)
    size = sampler.batch_size
    assert len(order) == len(sampler) == size * sampler.steps
    return [order[k : k + size] for k in range(0, len(order), size)]


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(1, 16),
    st.integers(1, 12),
    st.integers(0, 20),
    st.integers(0, 5),
)
def test_the_share_is_exact_after_every_batch(real, synthetic, batch_size, steps, twentieths, seed):
    share = Fraction(twentieths, 20)
    sampler = MixedSampler(
        real=real,
        synthetic=synthetic,
        batch_size=batch_size,
        steps=steps,
        share=float(share),
        seed=seed,
    )
    drawn = []
    for k, batch in enumerate(batches(sampler), start=1):
        drawn += batch
        assert sum(i >= real for i in drawn) == int(k * batch_size * share)
    assert all(0 <= i < real + synthetic for i in drawn)
    for size, own in (
        (real, [i for i in drawn if i < real]),
        (synthetic, [i for i in drawn if i >= real]),
    ):
        counts = Counter(own).values()
        assert not own or max(counts) - (min(counts) if len(counts) == size else 0) <= 1


def test_a_quarter_of_each_batch():
    sampler = MixedSampler(real=40, synthetic=9, batch_size=16, steps=5, share=0.25)
    assert [sum(i >= 40 for i in batch) for batch in batches(sampler)] == [4] * 5


def test_order_depends_on_seed_and_epoch_alone():
    options = {"real": 40, "synthetic": 40, "batch_size": 8, "steps": 5}
    one, two, other = (MixedSampler(**options, seed=seed) for seed in (1, 1, 2))
    first = list(one)
    assert list(one) == first == list(two) != list(other)
    two.set_epoch(3)
    assert list(two) != first
    one.set_epoch(3)
    assert list(one) == list(two)


def test_without_synthetic_pairs_all_are_real():
    sampler = MixedSampler(real=5, synthetic=0, batch_size=4, steps=5, share=0.5)
    assert Counter(sampler) == Counter({i: 4 for i in range(5)})


def test_synthetic_first():
    sampler = MixedSampler(
        real=6,
        synthetic=4,
        batch_size=2,
        steps=3,
        schedule="synthetic_first",
        synthetic_epochs=2,
        epochs=4,
    )
    for epoch in (1, 2, 3, 4):
        sampler.set_epoch(epoch)
        assert all((i >= 6) == (epoch <= 2) for i in sampler)


@pytest.mark.parametrize(("epochs", "synthetic"), [(2, 0), (2, 4), (1, 4)])
def test_schedules_that_cannot_be(epochs, synthetic):
    with pytest.raises(InputError, match="pairs_dir" if not synthetic else "synthetic_epochs"):
        MixedSampler(
            real=6,
            synthetic=synthetic,
            batch_size=2,
            steps=3,
            schedule="synthetic_first",
            synthetic_epochs=2,
            epochs=epochs,
        )
