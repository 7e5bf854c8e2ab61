"""The ledger: it proves faultless runs and finds every fault."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rightbatch.errors import InputError, RunFolderError
from rightbatch.record import Irregularity, Ledger, verify_ledger


def consume(
    ledger: Ledger, n: int, sizes: list[int], step: int = 0, epoch: int = 0, position: int = 0
) -> tuple[int, ...]:
    """Draw batches as a stream does: a batch that crosses the end of an epoch has two entries."""
    for size in sizes:
        step += 1
        while size:
            part = min(size, n - position)
            ledger.append(step, epoch, position, position + part)
            size, position = size - part, position + part
            if position == n:
                epoch, position = epoch + 1, 0
    return step, epoch, position


def write(path: Path, *entries: tuple[int, ...]) -> Path:
    path.write_text("".join(" ".join(map(str, entry)) + "\n" for entry in entries))
    return path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(1, 60), sizes=st.lists(st.integers(1, 90), max_size=30))
def test_a_faultless_run_is_proved(tmp_path: Path, n: int, sizes: list[int]) -> None:
    path = tmp_path / "ledger.txt"
    path.unlink(missing_ok=True)
    with Ledger(path) as ledger:
        consume(ledger, n, sizes)
    report = verify_ledger(path, n)
    total = sum(sizes)
    assert report.ok
    assert report.complete_epochs == total // n
    assert report.last_epoch * n + report.last_epoch_samples == total


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(2, 12),
    entries=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(1, 6)), min_size=1, max_size=8),
)
def test_faults_agree_with_counting_every_sample(tmp_path: Path, n: int, entries: list[tuple[int, int, int]]) -> None:
    """The slow twin: count how often each position of each epoch was consumed."""
    intervals = [(epoch, start % n, min(n, start % n + length)) for epoch, start, length in entries]
    path = write(tmp_path / "ledger.txt", *((i, *interval) for i, interval in enumerate(intervals)))
    counted = Counter(epoch * n + p for epoch, start, stop in intervals for p in range(start, stop))
    report = verify_ledger(path, n)
    found: Counter[int] = Counter()
    for fault in report.irregularities:
        for p in range(fault.start, fault.stop):
            found[fault.epoch * n + p] += -1 if fault.kind == "missing" else 1
    expected = {place: counted[place] - 1 for place in range(max(counted) + 1) if counted[place] != 1}
    assert {place: times for place, times in found.items() if times} == expected
    assert report.ok == (not expected)


def test_missing_duplicated_and_outside_are_named_with_their_positions(tmp_path: Path) -> None:
    path = write(
        tmp_path / "ledger.txt",
        *[(1, 0, 0, 40), (2, 0, 40, 70), (3, 0, 60, 100)],  # 60 to 69 twice
        *[(4, 1, 0, 30), (5, 1, 50, 100)],  # 30 to 49 never
        *[(6, 2, 0, 10), (7, 2, 10, 120), (8, 2, 30, 30)],  # beyond the end, and empty
    )
    report = verify_ledger(path, 100)
    assert report.irregularities == (
        Irregularity("duplicated", 0, 60, 70),
        Irregularity("missing", 1, 30, 50),
        Irregularity("outside", 2, 10, 120),
        Irregularity("outside", 2, 30, 30),
    )
    assert report.complete_epochs == 0
    assert "epoch 1: positions 30 to 49 missing" in str(report)


def test_a_gap_over_epochs_is_cut_at_their_ends(tmp_path: Path) -> None:
    report = verify_ledger(write(tmp_path / "ledger.txt", (1, 0, 0, 10), (2, 0, 10, 15), (3, 2, 5, 20)), 20)
    assert [(f.epoch, f.start, f.stop) for f in report.irregularities] == [(0, 15, 20), (1, 0, 20), (2, 0, 5)]


def test_a_resume_makes_later_entries_void(tmp_path: Path) -> None:
    path = tmp_path / "ledger.txt"
    with Ledger(path) as ledger:
        step, epoch, position = consume(ledger, 50, [16] * 7)  # the checkpoint
        consume(ledger, 50, [16] * 5, step, epoch, position)  # lost in the crash
    with Ledger(path) as ledger:
        ledger.rewind(step)
        consume(ledger, 50, [10] * 9, step, epoch, position)
    report = verify_ledger(path, 50)
    assert report.ok
    assert report.rewound_entries > 0
    assert (report.complete_epochs, report.last_epoch_samples) == (4, 2)
    assert path.read_text().startswith("# step epoch start stop\n")


def test_steps_that_failed_have_consumed_their_samples(tmp_path: Path) -> None:
    """With the data position in the rewind, step numbers that repeat after a restore do no harm."""
    path = tmp_path / "ledger.txt"
    with Ledger(path) as ledger:
        _, epoch, position = consume(ledger, 1000, [100, 100, 100])  # the third fails: its number is used again
        _, epoch, position = consume(ledger, 1000, [100, 100], 2, epoch, position)  # checkpoint at step 4
        consume(ledger, 1000, [100], 4, epoch, position)
        ledger.rewind(4, epoch, position)
        consume(ledger, 1000, [50], 4, epoch, position)
    report = verify_ledger(path, 1000)
    assert (report.ok, report.last_epoch_samples, report.rewound_entries) == (True, 550, 1)


def test_an_empty_ledger(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.txt").close()
    report = verify_ledger(tmp_path / "ledger.txt", 10)
    assert (report.ok, report.complete_epochs, report.last_epoch_samples) == (True, 0, 0)
    assert report.ok and "no samples" in str(report)


def test_what_it_says_of_a_faultless_run(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.txt") as ledger:
        consume(ledger, 1500, [1000, 1000, 1000, 700])
    report = verify_ledger(tmp_path / "ledger.txt", 1500)
    assert (report.complete_epochs, report.last_epoch, report.last_epoch_samples, report.entries) == (2, 2, 700, 5)
    assert all(part in str(report) for part in ("2 complete epochs of 1,500", "700 samples of epoch 2", "5 intervals"))


def test_a_torn_last_line_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "ledger.txt"
    path.write_text("1 0 0 10\n2 0 10 2")
    assert verify_ledger(path, 100).last_epoch_samples == 10


@pytest.mark.parametrize(
    "line", ["1 0 0", "1 0 0 1.5", "1 0 x 3", "", "rewind", "rewind a", "1 2 3 4 5", "9" * 30 + " 0 0 1"]
)
def test_damage_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "ledger.txt"
    path.write_text(f"1 0 0 10\n{line}\n2 0 10 20\n")
    with pytest.raises(RunFolderError, match="line 2 is damaged"):
        verify_ledger(path, 100)


def test_an_absurd_epoch_is_reported_not_expanded(tmp_path: Path) -> None:
    report = verify_ledger(write(tmp_path / "ledger.txt", (1, 0, 0, 10), (2, 10**12, 0, 10)), 10)
    assert [fault.kind for fault in report.irregularities] == ["outside"]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot read the ledger"):
        verify_ledger(tmp_path / "ledger.txt", 10)
    with pytest.raises(InputError, match="train_samples is 0"):
        verify_ledger(write(tmp_path / "ledger.txt"), 0)


def test_a_long_ledger_with_one_fault(tmp_path: Path) -> None:
    n, size = 10_000, 16
    lines = [f"{step} {step // 625} {step % 625 * size} {step % 625 * size + size}" for step in range(200_000)]
    lost = random.Random(0).randrange(200_000)
    del lines[lost]
    (tmp_path / "ledger.txt").write_text("\n".join(lines) + "\n")
    (fault,) = verify_ledger(tmp_path / "ledger.txt", n).irregularities
    assert fault == Irregularity("missing", lost // 625, lost % 625 * size, lost % 625 * size + size)
