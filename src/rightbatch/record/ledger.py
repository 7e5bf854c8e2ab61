"""The ledger: the samples a run consumed, as intervals of positions in each epoch's order.

Plain text. A line `step epoch start stop` records that positions start to stop - 1 of that epoch were drawn for that
step; a batch that crosses the end of an epoch, or was enlarged, has several lines. A line `rewind step`, or `rewind
step epoch position`, records that the run returned to the data position it had after that step, as a resume from a
checkpoint does: earlier lines that lie beyond it no longer count. A step that failed or was skipped has consumed its
samples: its entries stay, without a rewind, as long as the data position advanced.
"""

import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import InputError, RunFolderError
from .lines import LineFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_HEADER = "# step epoch start stop"
_LINE = re.compile(r"#.*|rewind \d{1,18}( \d{1,18} \d{1,18})?|-?\d{1,18}( -?\d{1,18}){3}", re.ASCII)


class Ledger(LineFile[tuple[int, ...]]):
    """Writes the ledger; buffered like the event log.

    Args:
        path: the ledger, created if it does not exist.
        flush_s: longest time, in seconds, between two writes while entries arrive.
    """

    def __init__(self, path: str | os.PathLike[str], flush_s: float = 1.0) -> None:
        super().__init__(path, _line, flush_s)
        if self.path.stat().st_size == 0:
            self.append_item(())

    def append(self, step: int, epoch: int, start: int, stop: int) -> None:
        """Record that positions `start` to `stop` - 1 of `epoch` (counted from 0) were consumed for `step`."""
        self.append_item((step, epoch, start, stop))

    def rewind(self, step: int, epoch: int | None = None, position: int | None = None) -> None:
        """Record that the run returned to its state after `step`.

        With `epoch` and `position`, the data position returned to, the entries at or beyond it no longer count. Without
        them the entries of later steps no longer count, which is correct as long as step numbers never repeat.
        """
        self.append_item((step,) if epoch is None or position is None else (step, epoch, position))
        self.flush()


def _line(entry: tuple[int, ...]) -> str:
    if len(entry) == 4:
        return "%d %d %d %d" % entry  # noqa: UP031  half the time of an f-string over four unpacked names
    return f"rewind {' '.join(map(str, entry))}" if entry else _HEADER


@dataclass(frozen=True, slots=True)
class Irregularity:
    """Positions `start` to `stop` - 1 of `epoch` that were not consumed exactly once."""

    kind: Literal["missing", "duplicated", "outside"]
    epoch: int
    start: int
    stop: int

    def __str__(self) -> str:
        return f"epoch {self.epoch}: positions {self.start:,} to {self.stop - 1:,} {self.kind}"


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """The result of verifying a ledger.

    Args:
        train_samples: N, samples in an epoch.
        complete_epochs: number of leading epochs whose intervals cover [0, N) exactly once.
        last_epoch: index of the epoch the run ended in.
        last_epoch_samples: samples consumed in that epoch.
        entries: intervals that count.
        rewound_entries: intervals that a rewind discarded.
        irregularities: every interval not consumed exactly once; a duplicate is listed once per extra time.
    """

    train_samples: int
    complete_epochs: int
    last_epoch: int
    last_epoch_samples: int
    entries: int
    rewound_entries: int
    irregularities: tuple[Irregularity, ...]

    @property
    def ok(self) -> bool:
        """Whether every sample was consumed exactly once per epoch, in the last epoch up to its end."""
        return not self.irregularities

    def __str__(self) -> str:
        if not self.entries:
            return "no samples were consumed" if self.ok else "\n".join(map(str, self.irregularities))
        if self.ok:
            whole = f"{self.complete_epochs:,} complete epoch{'s' * (self.complete_epochs != 1)}"
            part = self.last_epoch_samples % self.train_samples
            rest = f" and the first {part:,} samples of epoch {self.last_epoch}" if part else ""
            proof = f"every sample consumed exactly once ({self.entries:,} intervals)"
            return f"{whole} of {self.train_samples:,} samples{rest}: {proof}"
        shown = [f"{len(self.irregularities):,} irregularities", *map(str, self.irregularities[:10])]
        return "\n  ".join(shown + ["..."] * (len(self.irregularities) > 10))


def verify_ledger(path: str | os.PathLike[str], train_samples: int) -> LedgerReport:
    """Verify from a ledger that every sample was consumed exactly once in every epoch.

    Position p of epoch e maps to e·N + p, so that a correct run is one interval from 0 without gaps; a sort and a
    running maximum find every gap and overlap.

    Args:
        path: the ledger.
        train_samples: N, samples in an epoch.

    Returns:
        The result, with every irregularity.

    Raises:
        RunFolderError: the ledger cannot be read, or a line is damaged.
        InputError: N is not positive.
    """
    import numpy as np  # imported here so that --help does not load it

    if train_samples < 1:
        raise InputError(f"train_samples is {train_samples}; it must be at least 1")
    entries, counts = _read(Path(path))
    void = int(len(entries) - counts.sum())
    _, epochs, starts, stops = entries[counts].T
    n = train_samples
    # An epoch has at least one entry, so an epoch number far beyond their count is damage, not a gap.
    legal = (starts >= 0) & (stops <= n) & (starts < stops) & (epochs >= 0) & (epochs <= 2 * len(epochs))
    faults = [
        Irregularity("outside", int(e), int(a), int(b))
        for e, a, b in zip(epochs[~legal], starts[~legal], stops[~legal], strict=True)
    ]
    begin, end = epochs[legal] * n + starts[legal], epochs[legal] * n + stops[legal]
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], end[order]
    # The end of the covered range before each entry, and after the last.
    reached = np.concatenate(([0], np.maximum.accumulate(end)))
    gap, overlap = begin > reached[:-1], begin < reached[:-1]
    faults += _split("missing", zip(reached[:-1][gap], begin[gap], strict=True), n)
    faults += _split("duplicated", zip(begin[overlap], np.minimum(end, reached[:-1])[overlap], strict=True), n)
    faults.sort(key=lambda fault: (fault.epoch, fault.start))
    final = int(reached[-1])
    complete = min([final // n, *(max(0, fault.epoch) for fault in faults)])
    last = max(0, final - 1) // n
    return LedgerReport(n, complete, last, final - last * n, len(begin), void, tuple(faults))


def _split(
    kind: Literal["missing", "duplicated"], parts: Iterable[tuple["np.int64", "np.int64"]], n: int
) -> list[Irregularity]:
    """Split intervals at the ends of epochs."""
    found = []
    for first, last in parts:
        a, b = int(first), int(last)
        cuts = [a, *range((a // n + 1) * n, b, n), b]
        found += [Irregularity(kind, x // n, x % n, y - x // n * n) for x, y in pairwise(cuts)]
    return found


def _read(path: Path) -> tuple["NDArray[np.int64]", "NDArray[np.bool_]"]:
    """The entries, shape (entries, 4), and which of them count after all rewinds."""
    import numpy as np

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot read the ledger {path}: {error}") from error
    lines = text.split("\n")[:-1]  # what follows the last newline is empty, or an incomplete line after a crash
    plain = [line for line in lines if line[:1] not in ("r", "#")]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # so that 1.5 is an error, not truncated to 1
            entries = np.loadtxt(plain, dtype=np.int64, ndmin=2) if plain else np.empty((0, 4), np.int64)
        if entries.shape != (len(plain), 4):
            raise ValueError("expected four numbers per line")
    except (ValueError, Warning) as error:
        raise _damage(path, lines) from error
    counts = np.ones(len(entries), bool)
    others = 0
    for index, line in enumerate(lines):
        if line[:1] in ("r", "#"):
            before = index - others
            others += 1
        if line[:1] == "r":
            if not _LINE.fullmatch(line):
                raise _damage(path, lines)
            step, *position = map(int, line.split()[1:])
            steps, epochs, _, stops = entries[:before].T
            if position:
                counts[:before] &= (epochs < position[0]) | ((epochs == position[0]) & (stops <= position[1]))
            else:
                counts[:before] &= steps <= step
    return entries, counts


def _damage(path: Path, lines: list[str]) -> RunFolderError:
    number, line = next((number, line) for number, line in enumerate(lines, 1) if not _LINE.fullmatch(line))
    return RunFolderError(f"{path}: line {number} is damaged: {line[:80]!r}. Restore the file from a backup")
