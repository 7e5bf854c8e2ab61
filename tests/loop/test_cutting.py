"""Batches at the ends of epochs, and the growth of Big Batch carried from step to step."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rightbatch import AutoBatch
from rightbatch.data import BatchStream, as_source
from rightbatch.loop.cutting import BatchCutter
from rightbatch.rules.batch_size import BigBatch


def stream(n: int, position: int = 0) -> BatchStream:
    made = BatchStream(as_source((torch.zeros(n, 1), torch.zeros(n))))
    made.seek(0, position)
    return made


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 60), st.data())
def test_a_batch_holds_between_half_and_all_of_what_is_wanted(n: int, data: st.DataObject) -> None:
    position, wanted = data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, n))
    line = stream(n, position)
    intervals = BatchCutter(line, None, exact=False).draw(wanted)
    samples = sum(i.samples for i in intervals)
    assert samples >= 0.5 * wanted
    assert samples <= max(2, wanted) + (wanted == 2) or wanted > n / 2  # a single sample is not left alone
    assert all(a.epoch + 1 == b.epoch and b.start == 0 and a.stop == n for a, b in pairwise(intervals))
    if wanted > n / 2 and len(intervals) > 1:
        assert line.position == 0


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 60), st.data())
def test_a_batch_of_most_of_the_data_is_not_enlarged_beyond_its_epoch(n: int, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, n - 1))
    wanted = data.draw(st.integers(n // 2 + 1, n))
    line = stream(n, position)
    supply = BatchCutter(line, None, exact=False)
    first = supply.draw(max(1, wanted // 2))
    held = sum(i.samples for i in first)
    while held < wanted:
        intervals = supply.draw(wanted, held)
        if not intervals:
            break
        held += sum(i.samples for i in intervals)
    if held < wanted:
        assert line.position == 0  # the next batch begins with an epoch


def test_wanting_all_of_the_data_ends_in_batches_that_are_the_epochs() -> None:
    for position in range(10):
        line = stream(10, position)
        supply = BatchCutter(line, None, exact=False)
        supply.draw(10)
        assert [supply.draw(10) for _ in range(2)] == [
            [(line.epoch - 2, 0, 10)],
            [(line.epoch - 1, 0, 10)],
        ]


def test_the_end_of_the_last_epoch_is_the_end() -> None:
    line = stream(10, 8)
    supply = BatchCutter(line, 1, exact=False)
    assert supply.draw(10) == [(0, 8, 10)]
    assert supply.exhausted and supply.draw(4) == [] and supply.draw(4, 2) == []


def noisy_data(n: int = 240) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n, 4, dtype=torch.float64, generator=generator)
    noise = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    return x, x.sum(1, keepdim=True) + noise


def test_big_batch_grows_to_all_the_data_and_stops_where_their_gradient_vanishes(
    watch: Callable[[AutoBatch], Any],
) -> None:
    x, y = noisy_data()
    n = len(x)
    torch.manual_seed(0)
    model = nn.Linear(4, 1).double()
    auto = AutoBatch(model, None, (x, y), BigBatch(initial=4, tolerance=1e-8), 0.2)
    witness = watch(auto)
    loss = nn.MSELoss()
    sizes = []
    for a, b in repeated(auto):
        auto.backward(loss(model(a), b))
        if auto.step():
            sizes.append(auto.last["batch_size"])
        assert auto.steps < 1000
    # The size is carried on: what is told only grows, and no batch falls below half of it, as at the end of an epoch.
    told = [(step, old, new, d) for step, what, old, new, d in witness.decisions if what == "batch_size"][1:]
    assert told and all(new > old for _, old, new, _ in told)
    assert all("enlarge" in decision.reason for *_, decision in told)
    assert [old for _, old, _, _ in told[1:]] == [new for _, _, new, _ in told[:-1]]
    assert auto.batch_size > n / 2 and sizes[-5:] == [n] * 5
    assert "converged" in auto.stopped
    # Batches of all the data are the epochs themselves, so that the true gradient falls to rounding.
    assert all(intervals == [(intervals[0].epoch, 0, n)] for _, intervals in witness.steps[-5:])
    model.zero_grad()
    loss(model(x), y).backward()
    true = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
    assert true < 1e-6
    assert witness.consumed_up_to(n) == auto.samples


def repeated(auto: AutoBatch) -> Any:
    """Epoch after epoch until the run stops itself."""
    while not auto.stopped:
        yield from auto


def test_a_batch_half_grown_is_begun_again_as_it_began(identical: Callable[[Any, Any], bool]) -> None:
    x, y = noisy_data()

    def run(interrupt: bool) -> tuple[list[int], dict[str, Any]]:
        torch.manual_seed(0)
        model = nn.Linear(4, 1).double()
        auto = AutoBatch(model, None, (x, y), BigBatch(theta=0.2, initial=4), 0.05, epochs=1)
        sizes: list[int] = []
        interrupted = not interrupt
        while True:
            for a, b in auto:
                auto.backward(nn.functional.mse_loss(model(a), b))
                if auto.step():
                    sizes.append(auto.last["batch_size"])
                elif not interrupted:
                    interrupted = True
                    break
            else:
                state = auto.state_dict()
                del state["meter"]["interval"]  # which holds times
                return sizes, {k: v for k, v in state.items() if k not in ("run", "timer")}

    sizes, state = run(False)
    assert len(set(sizes)) > 1
    again, state_again = run(True)
    assert again == sizes and identical(state, state_again)


@pytest.mark.parametrize("theta", [1.0, 0.3])
def test_big_batch_carries_its_size_through_saving(theta: float) -> None:
    x, y = noisy_data()

    def loop(model: nn.Module) -> AutoBatch:
        return AutoBatch(model, None, (x, y), BigBatch(theta=theta, initial=4), 0.05, epochs=4)

    def sizes(auto: AutoBatch, model: nn.Module, steps: int) -> list[int]:
        found: list[int] = []
        for a, b in auto:
            auto.backward(nn.functional.mse_loss(model(a), b))
            if auto.step():
                found.append(auto.last["batch_size"])
                if len(found) == steps:
                    break
        return found

    torch.manual_seed(0)
    model = nn.Linear(4, 1).double()
    auto = loop(model)
    sizes(auto, model, 6)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    saved = auto.state_dict()
    straight = sizes(auto, model, 5)
    model.load_state_dict(weights)
    resumed = loop(model)
    resumed.load_state_dict(saved)
    assert sizes(resumed, model, 5) == straight
