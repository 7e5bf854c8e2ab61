"""The two-level order: a permutation of every epoch in which few blocks are in use at a time."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rightbatch import InputError
from rightbatch.data import BatchStream
from rightbatch.data.arrays import array_source
from rightbatch.data.block_order import MIXED_WHOLE_SAMPLES, BlockOrder


def epoch_of(order: BlockOrder, epoch: int) -> list[int]:
    return order.indices(epoch, 0, order.n).tolist()


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    window=st.integers(1, 15),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 3),
    cuts=st.lists(st.integers(1, 20), min_size=1, max_size=6),
)
def test_each_example_once_and_any_cut_is_part_of_the_whole(
    sizes: list[int], window: int, seed: int, epoch: int, cuts: list[int]
) -> None:
    order = BlockOrder(np.cumsum(sizes), seed, window=window)
    whole = epoch_of(order, epoch)
    assert sorted(whole) == list(range(sum(sizes)))
    position, parts, lengths = 0, [], itertools.cycle(cuts)
    while position < order.n:
        stop = min(order.n, position + next(lengths))
        parts += order.indices(epoch, position, stop).tolist()
        order.indices(epoch + 1, 0, 1)  # what is kept cannot be seen
        position = stop
    assert parts == whole


@pytest.mark.parametrize("window", [1, 3])
def test_a_reader_that_keeps_a_window_reads_each_block_once(window: int) -> None:
    order = BlockOrder.even(103, 10, seed=5, window=window)
    assert order.ends.tolist() == [*range(10, 101, 10), 103]
    kept: list[int] = []
    reads = 0
    for example in epoch_of(order, 2):
        block = example // 10
        if block not in kept:
            kept, reads = [*kept, block][-window:], reads + 1
    assert reads == 11


def test_blocks_of_all_sizes_are_anywhere_and_examples_of_a_window_too() -> None:
    """90,000 draws; the chi-square of 8 degrees of freedom exceeds 26.1 once in a thousand."""
    ends, runs = np.array([1, 3, 9]), 10_000
    first = Counter(epoch_of(BlockOrder(ends, seed, window=1), 0)[0] for seed in range(runs))
    blocks = [first[0], first[1] + first[2], sum(first[i] for i in range(3, 9))]
    assert sum((seen - runs / 3) ** 2 / (runs / 3) for seen in blocks) < 13.8  # 2 degrees of freedom, 0.1 %
    places = np.zeros((9, 9))
    for seed in range(runs):
        places[np.arange(9), epoch_of(BlockOrder(ends, seed, window=3), 0)] += 1
    chi_square = ((places - runs / 9) ** 2 / (runs / 9)).sum(1)
    assert chi_square.max() < 26.1 + 5  # the largest of nine


def test_windows_and_epochs_are_mixed_differently() -> None:
    order = BlockOrder.even(4000, 100, seed=1, window=10)
    epochs = [epoch_of(order, epoch) for epoch in range(2)]
    assert epochs[0] != epochs[1]
    within = [np.argsort(np.argsort(epochs[0][start : start + 1000])) for start in range(0, 4000, 1000)]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(within, 2))
    assert epoch_of(BlockOrder.even(4000, 100, seed=1, shuffle=False), 7) == list(range(4000))


def test_a_large_window_is_mixed_without_being_held() -> None:
    order = BlockOrder.even(10**10, 2**16, seed=3)
    assert MIXED_WHOLE_SAMPLES < 16 * 2**16
    start = 9 * 10**9
    found = order.indices(1, start, start + 5000)
    assert len(set(found.tolist())) == 5000 and len(set((found // 2**16).tolist())) <= 16
    assert np.array_equal(order.indices(1, start + 100, start + 200), found[100:200])


def test_a_stream_follows_the_blocks_of_its_source() -> None:
    source = array_source(torch.arange(40.0).reshape(40, 1), torch.zeros(40))
    source.block_ends, source.window = np.arange(4, 41, 4), 2
    stream = BatchStream(source, seed=2)
    seen = torch.cat([stream.fetch(stream.take(8))[0] for _ in range(5)]).flatten()
    assert sorted(seen.tolist()) == list(range(40))
    assert [len(set((part // 4).tolist())) for part in seen.split(8)] == [2] * 5
    state = stream.state_dict()
    stream.load_state_dict(state)
    source.window = 3
    with pytest.raises(InputError, match="blocks"):
        BatchStream(source, seed=2).load_state_dict(state)


@pytest.mark.parametrize("ends", [[], [0, 3], [3, 3], [4, 2]])
def test_impossible_blocks_are_refused(ends: list[int]) -> None:
    with pytest.raises(InputError, match="ascend"):
        BlockOrder(np.array(ends, np.int64))
    with pytest.raises(InputError, match="window"):
        BlockOrder(np.array([3]), window=0)
    with pytest.raises(InputError, match="at least 1"):
        BlockOrder.even(0, 1)
    with pytest.raises(InputError, match="do not exist"):
        BlockOrder.even(9, 2).indices(0, 3, 10)
