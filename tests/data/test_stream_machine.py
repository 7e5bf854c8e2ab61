"""Every sample exactly once an epoch, whatever befalls a run: random schedules of all that can, in any sequence.

A schedule draws batches of any size as training does (`BatchCutter`, micro-batches, shares of processes, batches
enlarged while they are gathered), abandons them, goes back to a checkpoint, is killed with half a line of the ledger
written, and goes on with another number of processes. What the processes fetched is counted, and the ledger must prove
the same without knowing of it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from rightbatch.data import BatchStream, as_source
from rightbatch.data.block_order import BlockOrder
from rightbatch.data.order import Order
from rightbatch.data.source import Source
from rightbatch.loop.accumulator import BatchAccumulator
from rightbatch.loop.cutting import BatchCutter, even_sizes
from rightbatch.loop.distributed.process_group import ProcessGroup
from rightbatch.record import Ledger, verify_ledger

CPU = torch.device("cpu")
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=3)  # every rule first trains a little
MORE = st.integers(0, 20)
WORLDS = st.integers(1, 4)
FORWARD = st.sampled_from([1, 3, 8, 100])


class Numbered(Source):
    """n samples, each its own number, stored in blocks if any are named."""

    def __init__(self, n: int, ends: list[int] | None, window: int) -> None:
        numbers = torch.arange(n)
        self._numbers = as_source((numbers, numbers))
        for name in ("x_shape", "y_shape", "x_dtype", "y_dtype", "y_range", "notes"):
            setattr(self, name, getattr(self._numbers, name))
        if ends is not None:
            self.block_ends, self.window = np.array(ends), window

    def __len__(self) -> int:
        return len(self._numbers)

    def fetch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._numbers.fetch(indices)


class Schedule(RuleBasedStateMachine):
    """A run: processes with a stream each, the ledger of the first, and what was fetched for the steps that count."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.path = self.folder / "ledger"
        self.path.unlink(missing_ok=True)
        self.ledger = Ledger(self.path)
        self.consumed: list[int] = []
        self.steps = 0

    @initialize(
        n=st.integers(1, 40),
        blocks=st.none() | st.lists(st.integers(1, 12), min_size=1, max_size=8),
        window=st.integers(1, 4),
        seed=st.integers(0, 2**64 - 1),
        shuffle=st.booleans(),
        exact=st.booleans(),
        epochs=st.none() | st.integers(1, 5),
        world=WORLDS,
        sizes=SIZES,
    )
    def begin(
        self,
        n: int,
        blocks: list[int] | None,
        window: int,
        seed: int,
        shuffle: bool,
        exact: bool,
        epochs: int | None,
        world: int,
        sizes: list[int],
    ) -> None:
        ends = None if blocks is None else np.cumsum(blocks).tolist()
        self.n = n if ends is None else ends[-1]
        self.source = Numbered(self.n, ends, window)
        self.order = Order(self.n, seed, shuffle) if ends is None else BlockOrder(np.array(ends), seed, shuffle, window)
        self.seed, self.shuffle, self.exact, self.epochs = seed, shuffle, exact, epochs
        self.start(world, None)
        self.save()
        self.train(sizes, 0, 100)

    def start(self, world: int, state: dict[str, Any] | None) -> None:
        """Fresh processes, as after a restart."""
        self.streams = [BatchStream(self.source, self.seed, self.shuffle) for _ in range(world)]
        for stream in self.streams:
            if state is not None:
                stream.load_state_dict(state)

    def place(self) -> tuple[int, int]:
        places = {(stream.epoch, stream.position) for stream in self.streams}
        assert len(places) == 1
        return places.pop()

    def unfinished(self) -> bool:
        return self.epochs is None or self.streams[0].epoch < self.epochs

    def gather(self, wanted: int, grown: int, most_forward: int) -> tuple[list[BatchAccumulator], list[int]]:
        """One batch in all processes, enlarged once if `grown` is more than `wanted`."""
        world = len(self.streams)
        supplies = [BatchCutter(stream, self.epochs, self.exact) for stream in self.streams]
        batches = [
            BatchAccumulator(ProcessGroup(world, rank), self.place(), wanted, most_forward) for rank in range(world)
        ]
        fetched: list[int] = []
        for size in (wanted, grown):
            for batch, supply in zip(batches, supplies, strict=True):
                if size <= batch.samples:
                    continue
                for interval in supply.draw(size, batch.samples):
                    count = -(-interval.samples // (most_forward * world))
                    batch.enqueue(interval, even_sizes(interval.samples, count))
            while batches[0].queue:
                for batch, stream in zip(batches, self.streams, strict=True):
                    share = batch.hand_out(CPU)
                    x, y = stream.fetch(share.interval)
                    assert len(x) and torch.equal(x, y)
                    fetched += [] if share.idle else x.tolist()
        assert all(batch.intervals == batches[0].intervals and not batch.queue for batch in batches)
        assert len(fetched) == batches[0].samples
        return batches, fetched

    @rule(sizes=SIZES, more=MORE, most_forward=FORWARD)
    def train(self, sizes: list[int], more: int, most_forward: int) -> None:
        for size in sizes:
            if not self.unfinished():
                return
            wanted = min(size, self.n)
            batches, fetched = self.gather(wanted, min(wanted + more, self.n), most_forward)
            self.steps += 1
            for interval in batches[0].intervals:
                self.ledger.append(self.steps, *interval)
            self.consumed += fetched

    @rule(sizes=SIZES, most_forward=FORWARD)
    def train_to_the_end_of_the_epoch(self, sizes: list[int], most_forward: int) -> None:
        self.train([*sizes, self.n], 0, most_forward)
        self.train([self.streams[0].remaining], 0, most_forward)

    @rule(sizes=SIZES, more=MORE, most_forward=FORWARD)
    def abandon(self, sizes: list[int], more: int, most_forward: int) -> None:
        self.train(sizes, more, most_forward)
        if self.unfinished():
            wanted = min(sizes[0], self.n)
            batches, _ = self.gather(wanted, min(wanted + more, self.n), most_forward)
            for batch, stream in zip(batches, self.streams, strict=True):
                stream.seek(*batch.origin)

    @rule(sizes=SIZES)
    def checkpoint(self, sizes: list[int]) -> None:
        self.train(sizes, 0, 100)
        self.save()

    def save(self) -> None:
        self.ledger.flush()
        self.saved = json.dumps(self.streams[0].state_dict()), self.steps

    @rule(sizes=SIZES, world=WORLDS, torn=st.sampled_from(["", "3", "3 0 5", "rewind 1"]))
    def kill_and_resume(self, sizes: list[int], world: int, torn: str) -> None:
        self.train(sizes, 0, 100)
        self.ledger.close()
        with self.path.open("a") as file:
            file.write(torn)
        self.ledger = Ledger(self.path)
        self.go_back(world)

    @rule(sizes=SIZES)
    def roll_back(self, sizes: list[int]) -> None:
        self.train(sizes, 0, 100)
        self.go_back(len(self.streams))

    @rule(sizes=SIZES, world=WORLDS)
    def change_processes(self, sizes: list[int], world: int) -> None:
        self.train(sizes, 0, 100)
        self.start(world, self.streams[0].state_dict())

    def go_back(self, world: int) -> None:
        """To the last checkpoint, with fresh streams."""
        text, self.steps = self.saved
        self.start(world, json.loads(text))
        epoch, position = self.place()
        self.ledger.rewind(self.steps, epoch, position)
        del self.consumed[epoch * self.n + position :]

    @invariant()
    def the_place_is_what_was_consumed(self) -> None:
        if self.steps:
            assert self.place() == divmod(len(self.consumed), self.n)

    def teardown(self) -> None:
        self.ledger.close()
        if hasattr(self, "n"):
            self.prove()

    def prove(self) -> None:
        whole, part = divmod(len(self.consumed), self.n)
        for epoch in range(whole + (part > 0)):
            # Within a micro-batch the processes' shares follow each other, so the line is the order itself.
            seen = self.consumed[epoch * self.n : (epoch + 1) * self.n]
            assert len(set(seen)) == len(seen)
            assert seen == self.order.indices(epoch, 0, len(seen)).tolist()
            assert epoch == whole or sorted(seen) == list(range(self.n))
        report = verify_ledger(self.path, self.n)
        assert report.ok, str(report)
        assert report.complete_epochs == whole
        if self.consumed:
            assert report.last_epoch * self.n + report.last_epoch_samples == len(self.consumed)


def run(schedules: int, steps: int, folder: Path) -> None:
    Schedule.folder = folder
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Schedule,
        settings=settings(
            max_examples=schedules, stateful_step_count=steps, deadline=None, suppress_health_check=checks
        ),
    )


def test_500_schedules(tmp_path: Path) -> None:
    run(500, 6, tmp_path)


@pytest.mark.nightly
def test_10_000_schedules(tmp_path: Path) -> None:
    run(10_000, 12, tmp_path)
