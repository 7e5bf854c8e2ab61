"""The live view of a run: a small table on a terminal, plain lines elsewhere, or nothing."""

import atexit
import math
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from ..record.events import EVALUATION_FIELDS
from .words import NOTHING, duration, number, percent

if TYPE_CHECKING:
    from rich.console import RenderableType

_LIVE_S = 0.2
_PLAIN_S = 5.0
_EVALUATION_S = 0.5


class _View(Protocol):
    interval_s: float

    def show(self, progress: "Progress", evaluated: bool) -> None: ...

    def close(self) -> None: ...


class Progress:
    """Shows the progress of a run. Call `end` in a `finally` clause, so that an interrupted run restores the terminal.

    Args:
        mode: False shows nothing. True and None show a live table if the stream is a terminal and rich is installed;
            otherwise plain lines, one every few seconds and one per evaluation, at most two per second.
        stream: the output stream (default: standard error).
    """

    def __init__(self, mode: bool | None = None, stream: TextIO | None = None) -> None:
        self.title = ""
        self.total_samples: int | None = None
        self.total_s: float | None = None
        self.row: Mapping[str, Any] = {}
        self.evaluated: Mapping[str, Any] = {}
        self.best: Mapping[str, Any] = {}
        self.reason = ""
        self._stream = sys.stderr if stream is None else stream
        self._wanted = mode is not False
        self._view: _View | None = None
        self._due = math.inf
        self._began = (0.0, 0.0)
        self._used_s = self._evaluation_due = 0.0

    def begin(self, total_samples: int | None, total_s: float | None, title: str, used_s: float = 0.0) -> None:
        """Start showing.

        Args:
            total_samples: samples after which the run ends, if known.
            total_s: wall-clock seconds after which the run ends, if known.
            title: the title line.
            used_s: how many of these seconds the run used before it was resumed.
        """
        self.total_samples, self.total_s, self.title = total_samples, total_s, title
        self._used_s, self._began = used_s, (time.monotonic(), math.nan)
        if self._wanted:
            self._view = _choose(self._stream)
            self._due = 0.0

    def step(self, row: Mapping[str, Any]) -> None:
        """Receive the fields of a step event; the view updates at most five times per second."""
        self.row = row
        if time.monotonic() >= self._due:
            self._show(False)

    def note(self, text: str) -> None:
        """Receive the reason of the last decision."""
        self.reason = text

    def evaluation(self, row: Mapping[str, Any]) -> None:
        """Receive the fields of an evaluation event; shown immediately, at most twice per second."""
        self.evaluated = row
        if row.get("best"):
            self.best = row
        if self._view is not None and time.monotonic() >= self._evaluation_due:
            self._evaluation_due = time.monotonic() + _EVALUATION_S
            self._show(True)

    def end(self, text: str) -> None:
        """Stop showing, leave the last state on the screen and print how the run ended; may be called twice."""
        view, self._view, self._due = self._view, None, math.inf
        if view is not None:
            with suppress(OSError, ValueError):
                view.show(self, False)
                view.close()
                if text:
                    _say(self._stream, text)

    @property
    def share(self) -> float:
        """The fraction of the budget that is used, 0 to 1; nan if unknown."""
        shares = []
        if self.total_samples:
            shares.append(self.row.get("samples", 0) / self.total_samples)
        if self.total_s:
            shares.append((self._used_s + time.monotonic() - self._began[0]) / self.total_s)
        return min(1.0, max(shares)) if shares else math.nan

    @property
    def left_s(self) -> float:
        """Estimated seconds until the end, at the pace since `begin`, evaluations included; nan if unknown."""
        began_s, began_share = self._began
        share = self.share
        if math.isnan(began_share):
            return math.nan
        gained = share - began_share
        return (time.monotonic() - began_s) * (1 - share) / gained if gained > 0 else math.nan

    def _show(self, evaluated: bool) -> None:
        now = time.monotonic()
        if math.isnan(self._began[1]) and self.row:
            # A resumed run starts with part of its budget used; the pace counts from there.
            self._began = (self._began[0], self.share if self.row.get("step", 0) > 1 else 0.0)
        if self._view is not None:
            try:
                self._view.show(self, evaluated)
                self._due = now + self._view.interval_s
            except (OSError, ValueError):  # a closed pipe or window must not end the run
                self._view, self._due = None, math.inf


def _choose(stream: TextIO) -> _View:
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        try:
            return _Table(stream)
        except ImportError:
            pass
    return _Lines(stream)


def _loss(row: Mapping[str, Any], name: str) -> str:
    return number(row.get(name), 4)


def _metrics(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, number(row[name], 4)) for name in row if name not in ("kind", *EVALUATION_FIELDS)]


def _say(stream: TextIO, text: str) -> None:
    """Print a line; characters the stream cannot encode are replaced."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)


class _Lines:
    """One plain line every few seconds."""

    interval_s = _PLAIN_S

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._titled = False
        self._shown_reason = ""

    def show(self, progress: Progress, evaluated: bool) -> None:
        if not self._titled:
            self._titled = True
            _say(self._stream, progress.title)
        row = progress.row
        if not row and not evaluated:
            return
        parts = [] if math.isnan(progress.share) else [f"{100 * progress.share:3.0f} %"]
        source = progress.evaluated if evaluated else row
        parts += [
            f"{duration(source.get('seconds')):>8}",
            f"epoch {source.get('epoch', 0.0):.2f}",
            f"step {source.get('step', 0):,}",
        ]
        if row:
            parts += [f"loss {_loss(row, 'train_loss')}", f"batch {number(row.get('batch_size'))}"]
            parts += [f"noise scale {number(row['noise_scale'])}"] if row.get("noise_scale") is not None else []
            parts += [f"learning rate {number(row.get('lr'))}"]
        if evaluated:
            parts += [f"valid loss {_loss(source, 'valid_loss')}"]
            parts += (
                [f"accuracy {percent(source['valid_accuracy'])}"] if source.get("valid_accuracy") is not None else []
            )
            parts += [f"{name} {value}" for name, value in _metrics(source)]
            parts += ["best so far"] if source.get("best") else []
        elif progress.reason and progress.reason != self._shown_reason:
            self._shown_reason = progress.reason
            parts += [progress.reason]
        _say(self._stream, " | ".join(parts))

    def close(self) -> None:
        """Nothing to release."""


class _Table:
    """A small table, redrawn in place."""

    interval_s = _LIVE_S

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream)
        # Other output appears above the table, but only if both go to the same terminal.
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._live.start()
        atexit.register(self._live.stop)  # restores the cursor even if `end` is not called

    def show(self, progress: Progress, evaluated: bool) -> None:
        self._live.update(table(progress, self._console.width), refresh=True)

    def close(self) -> None:
        self._live.stop()
        atexit.unregister(self._live.stop)


def table(progress: Progress, width: int) -> "RenderableType":
    """The live view as a rich renderable for a terminal of `width` columns."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    share = progress.share
    title = Text(progress.title, style="bold", overflow="ellipsis", no_wrap=True)
    parts: list[RenderableType] = []
    if math.isnan(share):
        head: list[RenderableType] = [title, Text(duration(progress.row.get("seconds", 0.0)), no_wrap=True)]
    else:
        left = progress.left_s
        known = "" if math.isnan(left) else f"  {duration(round(left) if left >= 10 else left)} left"
        bar = ProgressBar(total=1.0, completed=share, width=max(6, min(30, width // 3)))
        head = [title, bar, Text(f"{100 * share:.0f} %{known}", no_wrap=True)]
        if width < 70:
            parts.append(head.pop(0))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(*head)
    parts.append(grid)

    cells = _cells(progress)
    columns = max(1, min(3, width // 27))
    body = Table.grid(padding=(0, 1, 0, 0))
    for _ in range(columns):
        body.add_column(style="dim", no_wrap=True)
        body.add_column(no_wrap=True, min_width=min(13, max(4, width // columns - 15)))
    for begin in range(0, len(cells), columns):
        chunk = cells[begin : begin + columns]
        body.add_row(*(part for cell in chunk for part in cell))
    parts.append(body)
    if progress.reason:
        parts.append(Text(progress.reason, style="italic dim", overflow="ellipsis", no_wrap=True))
    return Group(*parts)


def _cells(progress: Progress) -> list[tuple[str, str]]:
    row, valid, best = progress.row, progress.evaluated, progress.best
    seconds = row.get("seconds") or 0.0
    low, high, age = row.get("noise_low"), row.get("noise_high"), row.get("noise_age_samples")
    band = f" ({number(low, 2)} to {number(high, 2)})" if low is not None and high is not None else ""
    judged = [("valid loss", _loss(valid, "valid_loss"))] if valid else []
    if valid and valid.get("valid_accuracy") is not None:
        judged.append(("accuracy", percent(valid["valid_accuracy"])))
    elif best:
        judged.append(("best loss", _loss(best, "valid_loss")))
    judged += _metrics(valid)
    return [
        ("loss", _loss(row, "train_loss")),
        *judged,
        ("batch size", number(row.get("batch_size"))),
        ("learning rate", number(row.get("lr"))),
        ("noise scale", number(row.get("noise_scale")) + band),
        *([("measured", f"{number(age)} samples ago")] if age else []),
        ("samples", number(row.get("samples"))),
        ("epoch", f"{row.get('epoch', 0.0):.2f}"),
        ("pace", f"{number(row['samples'] / seconds)}/s" if seconds > 0 else NOTHING),
    ]
