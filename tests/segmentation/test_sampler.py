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


def kind_of(index, sizes):
    return sum(index >= end for end in (sizes[0], sizes[0] + sizes[1]))


@given(
    st.tuples(*[st.integers(1, 30)] * 3),
    st.integers(1, 16),
    st.integers(1, 12),
    st.tuples(*[st.integers(0, 10)] * 2),
    st.integers(0, 5),
)
def test_the_shares_hold_after_every_batch(sizes, batch_size, steps, twentieths, seed):
    shares = [Fraction(n, 20) for n in twentieths]
    sampler = MixedSampler(
        sizes=sizes,
        shares=[float(share) for share in shares],
        batch_size=batch_size,
        steps=steps,
        seed=seed,
    )
    drawn = []
    for k, batch in enumerate(batches(sampler), start=1):
        drawn += batch
        counts = Counter(kind_of(i, sizes) for i in drawn)
        owed = [int(k * batch_size * share) for share in shares]
        assert counts[1] == owed[0] and 0 <= owed[1] - counts[2] <= 1
    assert all(0 <= i < sum(sizes) for i in drawn)
    for kind, size in enumerate(sizes):
        counts = Counter(i for i in drawn if kind_of(i, sizes) == kind).values()
        assert not counts or max(counts) - (min(counts) if len(counts) == size else 0) <= 1


def test_half_and_an_eighth_of_each_batch():
    sampler = MixedSampler(sizes=[40, 9, 3], shares=[0.5, 0.125], batch_size=16, steps=5)
    kinds = [Counter(kind_of(i, (40, 9, 3)) for i in batch) for batch in batches(sampler)]
    assert kinds == [{0: 6, 1: 8, 2: 2}] * 5


def test_order_depends_on_seed_and_epoch_alone():
    options = {"sizes": [40, 40, 5], "shares": [0.5, 0.25], "batch_size": 8, "steps": 5}
    one, two, other = (MixedSampler(**options, seed=seed) for seed in (1, 1, 2))
    first = list(one)
    assert list(one) == first == list(two) != list(other)
    two.set_epoch(3)
    assert list(two) != first
    one.set_epoch(3)
    assert list(one) == list(two)


def test_a_kind_without_pairs_leaves_its_share_to_the_source():
    sampler = MixedSampler(sizes=[5, 0, 0], shares=[0.5, 0.25], batch_size=4, steps=5)
    assert Counter(sampler) == Counter({i: 4 for i in range(5)})


def test_without_source_pairs_the_shares_fill_the_batch():
    sampler = MixedSampler(sizes=[0, 8, 4], shares=[0.5, 0.5], batch_size=4, steps=5)
    assert {kind_of(i, (0, 8, 4)) for i in sampler} == {1, 2}


@pytest.mark.parametrize(("sizes", "shares"), [([5, 5, 5], [0.8, 0.4]), ([0, 5, 5], [0.5, 0.4])])
def test_shares_that_cannot_be(sizes, shares):
    with pytest.raises(InputError, match="shares of the batch"):
        MixedSampler(sizes=sizes, shares=shares, batch_size=4, steps=3)
