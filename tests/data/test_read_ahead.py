"""Blocks read ahead by a thread: they come earlier, and nothing else changes."""

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event, current_thread, main_thread

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rightbatch.data import BatchStream, Source, as_groups, blocks, hold_out
from rightbatch.data.blocks import BlockSource
from rightbatch.data.stream import Interval
from rightbatch.errors import DataError

BLOCK, BLOCKS = 5, 12
N = BLOCK * BLOCKS
PATIENCE_S = 30  # of tests that wait for what must happen; none waits so long


class Numbered(BlockSource):
    """Each sample is its own number. Reads in other threads than the main one can be held up, and any can fail."""

    def __init__(self, sizes: tuple[int, ...] = (BLOCK,) * BLOCKS) -> None:
        super().__init__(sizes, (1,), torch.float32, (), torch.int64)
        self.y_range, self.notes = None, ()
        self.reads: list[tuple[int, bool]] = []  # block, whether read ahead
        self.held_up: set[int] = set()
        self.failing: set[int] = set()
        self.begun, self.gate = Event(), Event()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in super().__getstate__().items() if name not in ("begun", "gate")}

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        self.begun, self.gate = Event(), Event()

    def _read(self, block: int) -> tuple[Tensor, Tensor]:
        ahead = current_thread() is not main_thread()
        self.reads.append((block, ahead))
        if ahead and block in self.held_up:
            self.begun.set()
            assert self.gate.wait(PATIENCE_S)
        if block in self.failing:
            raise DataError(f"block {block} is damaged")
        rows = torch.arange(self._start(block), int(self.block_ends[block]))
        return rows[:, None].float(), rows


class Plain(Numbered):
    """The slow twin: no block is read before it is needed."""

    prefetch = Source.prefetch


@pytest.fixture(autouse=True)
def four_blocks_fit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(blocks, "WINDOW_BYTES", 4 * BLOCK * 12)
    yield
    for thread in threads():
        thread.join(PATIENCE_S)
    assert not threads()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rightbatch read-ahead"]


def blocks_of(stream: BatchStream, window: int, epoch: int = 0) -> set[int]:
    start = window * 2 * BLOCK
    return set((stream.order.indices(epoch, start, start + 2 * BLOCK) // BLOCK).tolist())


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, BLOCK), min_size=1, max_size=12),
    seed=st.integers(0, 9),
    shuffle=st.booleans(),
    failing=st.booleans(),
    does=st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.integers(1, 25)),
            st.tuples(st.just("fetch"), st.lists(st.integers(0, 9), min_size=1, max_size=8)),
            st.tuples(st.just("seek"), st.integers(0, 40)),
        ),
        min_size=1,
        max_size=25,
    ),
)
def test_batches_are_those_of_the_slow_twin(
    sizes: list[int], seed: int, shuffle: bool, failing: bool, does: list[tuple[str, object]]
) -> None:
    """Batches of any size, fetches by index in between, seeks, and a block that fails each time."""
    pair = [BatchStream(kind(tuple(sizes)), seed, shuffle) for kind in (Numbered, Plain)]
    n = sum(sizes)
    for stream in pair:
        stream.source.failing = {len(sizes) // 2} if failing else set()
    for what, how in does:
        found: list[object] = []
        for stream in pair:
            try:
                match what:
                    case "take":
                        found.append([part.tolist() for part in stream.fetch(stream.take(how))])
                    case "fetch":
                        found.append(stream.source.fetch(torch.tensor(how) % n)[1].tolist())
                    case "seek":
                        stream.seek(how // n, how % n)
            except DataError as error:
                found.append(str(error))
        assert found[:1] == found[1:]
    assert pair[0].source._memory is None or len(pair[0].source._memory[0]) <= 4 * BLOCK


def test_the_next_window_is_read_while_this_one_is_served() -> None:
    source = Numbered()
    assert (source.window, source.cached_blocks) == (2, 4)
    stream, twin = BatchStream(source, 3), BatchStream(Plain(), 3)
    later = blocks_of(stream, 1)
    source.held_up = set(range(BLOCKS)) - blocks_of(stream, 0)
    for size in (1, 4, 5):
        assert torch.equal(stream.fetch(stream.take(size))[1], twin.fetch(twin.take(size))[1])
        assert source.begun.wait(PATIENCE_S)  # a thread is in the middle of a block that only comes later
    begun = [block for block, ahead in source.reads if ahead and block in source.held_up]
    assert len(begun) == 1 and begun[0] in later
    source.gate.set()
    for thread in threads():
        thread.join(PATIENCE_S)
    assert {block for block, _ in source.reads} == blocks_of(stream, 0) | later
    source.reads.clear()
    source.held_up = set()
    assert torch.equal(stream.fetch(stream.take(10))[1], twin.fetch(twin.take(10))[1])
    assert not any(block in later for block, _ in source.reads)


def test_the_next_epoch_is_read_ahead_too_and_each_block_once() -> None:
    source = Numbered()
    stream = BatchStream(source, 8)
    for epoch in range(3):
        source.reads.clear()
        for _ in range(2):
            stream.fetch(stream.take(BLOCK))
        first = {block for block, _ in source.reads} & blocks_of(stream, 0, epoch)
        assert (len(first) == 2) == (epoch == 0)
        for _ in range(BLOCKS - 2):
            stream.fetch(stream.take(BLOCK))
        for thread in threads():
            thread.join(PATIENCE_S)
        assert len(source.reads) <= BLOCKS + 2  # the two that the next epoch begins with


def test_fetches_by_index_neither_wait_nor_disturb() -> None:
    """While the thread is stuck: blocks it has not begun, blocks of no window, and all of the data."""
    source = Numbered()
    stream = BatchStream(source, 1)
    present, later = blocks_of(stream, 0), blocks_of(stream, 1)
    source.held_up = set(range(BLOCKS)) - present
    stream.fetch(stream.take(3))
    assert source.begun.wait(PATIENCE_S)
    (stuck,) = {block for block, ahead in source.reads if ahead and block in source.held_up}
    (other,) = later - {stuck}
    assert source.fetch(torch.tensor([other * BLOCK]))[1].tolist() == [other * BLOCK]
    rest = [n for n in range(N) if n // BLOCK != stuck]
    for start in range(0, len(rest), BLOCK):  # as an evaluation does
        part = rest[start : start + BLOCK]
        assert source.fetch(torch.tensor(part))[1].tolist() == part
    source.gate.set()
    source.reads.clear()
    twin = BatchStream(Plain(), 1)
    twin.fetch(twin.take(3))
    for _ in range(3):
        assert torch.equal(stream.fetch(stream.take(7))[1], twin.fetch(twin.take(7))[1])
    again = {block for block, _ in source.reads} & (present | later)
    assert len(again) <= 1  # the evaluation needed one place in memory


def test_more_blocks_than_fit_beside_those_read_ahead_take_their_place() -> None:
    source = Numbered()
    stream = BatchStream(source, 1)
    stream.fetch(stream.take(1))
    wide = torch.arange(0, N, BLOCK)
    assert torch.equal(source.fetch(wide)[1], wide)
    assert sorted(
        [*source._free, *source._coming.values(), *source._others.values(), *(source._ahead.slots.values())]
    ) == [0, 1, 2, 3]


def test_what_fails_is_told_when_it_is_needed() -> None:
    source = Numbered()
    stream = BatchStream(source, 3)
    bad = min(blocks_of(stream, 1))
    source.failing = {bad}
    stream.fetch(stream.take(5))
    for thread in threads():
        thread.join(PATIENCE_S)
    assert (bad, True) in source.reads
    stream.fetch(stream.take(5))
    with pytest.raises(DataError, match=f"block {bad} is damaged"):
        stream.fetch(Interval(0, 10, 20))
    source.failing = set()
    assert torch.equal(stream.fetch(Interval(0, 10, 20))[1], torch.from_numpy(stream.order.indices(0, 10, 20)))


def test_a_fetch_that_is_interrupted_leaves_a_source_that_works() -> None:
    """Ctrl-C while the thread reads a block that is waited for."""
    source = Numbered()
    stream, twin = BatchStream(source, 3), BatchStream(Plain(), 3)
    source.held_up = set(range(BLOCKS)) - blocks_of(stream, 0)
    stream.fetch(stream.take(10))
    assert source.begun.wait(PATIENCE_S)

    class Interrupted(SimpleQueue):  # type: ignore[type-arg]
        def get(self, block: bool = True, timeout: float | None = None) -> object:
            raise KeyboardInterrupt

    source._ahead._over = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        stream.fetch(Interval(0, 10, 20))
    assert source._ahead is None and len(source._free) == 4
    source.gate.set()
    for start in range(0, N, 10):
        interval = Interval(0, start, start + 10)
        assert torch.equal(stream.fetch(interval)[1], twin.fetch(interval)[1])


INTERRUPTED = """
import sys, threading
import torch
from threading import Event, Timer
from rightbatch.data import BatchStream, blocks
from rightbatch.data.workers import read_ahead
from rightbatch.data.blocks import BlockSource
from rightbatch.data.stream import Interval

blocks.WINDOW_BYTES = 4 * 5 * 12

class Held(BlockSource):
    present = range(60)
    def __init__(self):
        super().__init__([5] * 12, (1,), torch.float32, (), torch.int64)
        self.begun, self.gate = Event(), Event()
    def _read(self, block):
        if threading.current_thread() is not threading.main_thread() and 5 * block not in self.present:
            self.begun.set()
            self.gate.wait()
        rows = torch.arange(5 * block, 5 * block + 5)
        return rows[:, None].float(), rows

interrupted, left = 0, -1
while left < 0:
    source = Held()
    stream = BatchStream(source, 3)
    source.present = stream.order.indices(0, 0, 10).tolist()
    stream.fetch(stream.take(10))
    assert source.begun.wait(30)
    left = interrupted

    def trace(frame, event, _):
        global left
        if frame.f_code.co_filename not in (read_ahead.__file__, threading.__file__):
            return None
        # Signals do not come where a lock of C is given back, between the lines of a `with`.
        left -= event != "line" or frame.f_code.co_filename == read_ahead.__file__
        if left < 0:
            raise KeyboardInterrupt
        return trace

    Timer(0.01, source.gate.set).start()
    sys.settrace(trace)
    try:
        stream.fetch(stream.take(10))  # waits for the block under way, and has the next ones read
    except KeyboardInterrupt:
        interrupted += 1
    sys.settrace(None)
    assert stream.fetch(Interval(0, 0, 60))[1].sort().values.equal(torch.arange(60))
print(interrupted)
"""


def test_no_interrupt_keeps_the_process_from_ending() -> None:
    """Ctrl-C at each call and return in turn of a wait for the thread and of the start of the next one."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stderr == ""
    assert int(done.stdout) > 20


def test_the_thread_ends_with_its_source() -> None:
    source = Numbered()
    stream = BatchStream(source, 3)
    source.held_up = set(range(BLOCKS)) - blocks_of(stream, 0)
    stream.fetch(stream.take(1))
    begun, gate, reads = source.begun, source.gate, source.reads
    assert begun.wait(PATIENCE_S)
    (thread,) = threads()
    gone = weakref.ref(source)
    del source, stream
    gate.set()
    thread.join(PATIENCE_S)
    gc.collect()
    assert gone() is None and len(reads) <= 3  # of the four expected


def test_sources_travel_while_they_read_ahead() -> None:
    source = Numbered()
    stream, twin = BatchStream(source, 3), BatchStream(Plain(), 3)
    source.held_up = set(range(BLOCKS)) - blocks_of(stream, 0)
    stream.fetch(stream.take(1))
    assert source.begun.wait(PATIENCE_S)
    for travelled in (pickle.loads(pickle.dumps(source)), copy.deepcopy(source)):
        travelled.held_up = set()
        again = BatchStream(travelled, 3)
        for start in range(0, N, 12):
            interval = Interval(0, start, start + 12)
            assert torch.equal(again.fetch(interval)[1], twin.fetch(interval)[1])
    source.gate.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12: that is what is tried here
def test_a_forked_process_reads_for_itself() -> None:
    source = Numbered()
    stream = BatchStream(source, 3)
    source.held_up = set(range(BLOCKS)) - blocks_of(stream, 0)
    stream.fetch(stream.take(1))
    assert source.begun.wait(PATIENCE_S)
    child = os.fork()
    if child == 0:
        source.held_up = set()
        whole = torch.cat([stream.fetch(Interval(0, start, start + 10))[1] for start in range(0, N, 10)])
        os._exit(0 if np.array_equal(whole.numpy(), stream.order.indices(0, 0, N)) else 1)
    source.gate.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


SCRIPT = """
import sys, time
import torch
from rightbatch.data import BatchStream, blocks
from rightbatch.data.blocks import BlockSource

blocks.WINDOW_BYTES = 4 * 5 * 12

class Slow(BlockSource):
    y_range, notes = None, ()
    def __init__(self):
        super().__init__([5] * 1000, (1,), torch.float32, (), torch.int64)
        self.window = 400
        self._forget()
    def _read(self, block):
        print("read", flush=True)
        time.sleep(0.02)
        return torch.zeros(5, 1), torch.zeros(5, dtype=torch.int64)

stream = BatchStream(Slow())
stream.fetch(stream.take(1))
if len(sys.argv) > 1:
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize("ending", [[], ["interrupted"]])
def test_the_interpreter_ends_without_reading_on(ending: list[str]) -> None:
    """800 blocks of 0.02 s are expected; those read are far fewer, whatever the machine does meanwhile."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *ending], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode == 0) == (not ending)
    assert done.stdout.count("read") < 300
    assert "Exception in thread" not in done.stderr and ("Traceback" in done.stderr) == bool(ending)


def test_parts_and_groups_pass_on_what_comes() -> None:
    source = Numbered()
    train, _ = hold_out(source, 0.2, seed=2)
    stream = BatchStream(train, 5)
    stream.fetch(stream.take(1))
    order = stream.order
    first = order.blocks_from(0, 0)
    assert len(first) == 4
    expected = set((train.whole(first) // BLOCK).tolist())
    assert expected == {
        int(sample) // BLOCK for sample in train.whole(order.indices(0, 0, int(order._in(0).starts[2])))
    }
    for thread in threads():
        thread.join(PATIENCE_S)
    assert {block for block, _ in source.reads} == expected

    shared = Numbered()
    members = (torch.randn(2 * N, 3), torch.zeros(2 * N, dtype=torch.int64), torch.arange(2 * N) % N)
    grouped = BatchStream(as_groups((shared, *members), 2), 5)
    shared.reads.clear()
    grouped.fetch(grouped.take(1))
    for thread in threads():
        thread.join(PATIENCE_S)
    assert {block for block, _ in shared.reads} >= blocks_of(grouped, 0) | blocks_of(grouped, 1)
