"""The stream: intervals that never lose or repeat a sample, whatever is taken and whenever it is saved."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rightbatch.data import BatchStream, Interval, as_source
from rightbatch.errors import InputError


def counted(n: int, **options: Any) -> BatchStream:
    """A stream whose x and y are the index of the sample."""
    return BatchStream(as_source((torch.arange(n), torch.arange(n))), **options)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300),
    seed=st.integers(0, 2**64 - 1),
    sizes=st.lists(st.integers(1, 120), min_size=1, max_size=40),
    saved_at=st.integers(0, 39),
)
def test_every_sample_once_an_epoch_for_any_sizes_with_a_resume_in_between(
    n: int, seed: int, sizes: list[int], saved_at: int
) -> None:
    stream = counted(n, seed=seed)
    seen: dict[int, list[int]] = {}
    for number, size in enumerate(sizes):
        if number == saved_at:
            state = json.loads(json.dumps(stream.state_dict()))
            stream = counted(n, seed=seed)
            stream.load_state_dict(state)
        left = stream.remaining
        interval = stream.take(size)
        assert interval.samples == min(size, left)
        x, y = stream.fetch(interval)
        assert torch.equal(x, y)
        seen.setdefault(interval.epoch, []).extend(x.tolist())
    *whole, last = sorted(seen)
    for epoch in whole:
        assert sorted(seen[epoch]) == list(range(n))
    assert len(set(seen[last])) == len(seen[last])
    assert whole == list(range(len(whole)))
    # The line of samples is the same however it is cut.
    line = counted(n, seed=seed)
    for epoch, indices in seen.items():
        assert line.fetch(Interval(epoch, 0, len(indices)))[0].tolist() == indices


def test_the_position_rolls_over_after_the_last_sample() -> None:
    stream = counted(10)
    assert stream.take(7) == Interval(0, 0, 7)
    assert (stream.epoch, stream.position, stream.remaining) == (0, 7, 3)
    assert stream.take(100) == Interval(0, 7, 10)
    assert (stream.epoch, stream.position, stream.remaining) == (1, 0, 10)
    assert stream.take(np.int64(10)).samples == 10
    assert stream.epoch == 2


def test_fetching_is_pure() -> None:
    stream = counted(100, seed=3)
    interval = stream.take(40)
    before = stream.state_dict()
    first, _ = stream.fetch(interval)
    stream.fetch(Interval(9, 0, 100))
    again, _ = stream.fetch(interval)
    assert torch.equal(first, again) and stream.state_dict() == before


def test_unshuffled_batches_come_as_stored() -> None:
    stream = counted(10, shuffle=False)
    assert stream.fetch(stream.take(4))[0].tolist() == [0, 1, 2, 3]


def test_seeking() -> None:
    stream = counted(10, seed=1)
    stream.seek(4, 6)
    assert stream.take(10) == Interval(4, 6, 10)
    for epoch, position in ((-1, 0), (0, -1), (0, 10)):
        with pytest.raises(InputError, match="cannot seek"):
            stream.seek(epoch, position)


@pytest.mark.parametrize("n", [0, -3, 2.5, "four", None])
def test_impossible_sizes_are_refused(n: Any) -> None:
    with pytest.raises(InputError, match="a batch"):
        counted(10).take(n)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"n": 11}, "n=10.*n=11"),
        ({"n": 10, "seed": 1}, "seed=0.*seed=1"),
        ({"n": 10, "shuffle": False}, "shuffle=True"),
    ],
)
def test_a_position_in_other_data_is_refused(other: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        counted(**other).load_state_dict(counted(10).state_dict())


def test_an_incomplete_state_is_refused() -> None:
    with pytest.raises(InputError, match="lacks blocks, n, seed"):
        counted(10).load_state_dict({"epoch": 0, "position": 0, "shuffle": True})


def test_batches_go_to_the_device_asked_for() -> None:
    x, y = counted(10, device="meta").fetch(Interval(0, 0, 4))
    assert x.device.type == y.device.type == "meta" and x.shape == (4,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_data_on_an_accelerator_stay_there() -> None:
    data = torch.randn(1000, 5), torch.arange(1000)
    here, there = (BatchStream(as_source(pair)) for pair in (data, (data[0].cuda(), data[1].cuda())))
    sent = BatchStream(as_source(data), device="cuda")
    interval = here.take(64)
    for expected, stayed, arrived in zip(
        here.fetch(interval), there.fetch(interval), sent.fetch(interval), strict=True
    ):
        assert stayed.is_cuda and arrived.is_cuda
        assert torch.equal(expected, stayed.cpu()) and torch.equal(expected, arrived.cpu())
