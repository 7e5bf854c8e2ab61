"""The event log of a run: append-only, one JSON object per line.

Every event has a `kind`; each kind has these fields (`samples` counts samples consumed, `seconds` is training time
without evaluation, `step` counts the steps taken, this one included):

| kind | fields |
|---|---|
| start | version, time (ISO 8601), machine {cpu, cores, device, torch, python, platform}, model (text), parameters, train_samples, valid_samples or null, batch_size (the rule as text), lr (the rule as text), optimizer, seed, budget; optional: noise {setting, method}, as text; lower_is_better {metric: bool} |
| step | step, samples, epoch, seconds, batch_size, decided_step (the step at which this size was decided), lr, train_loss, gradient_norm, noise_scale or null, noise_low or null, noise_high or null, noise_age_samples (samples consumed since the last noise measurement) or null |
| evaluation | step, samples, epoch, seconds, valid_loss, valid_accuracy or null, best (bool), and the user's metrics by name |
| decision | step, samples, what ("batch_size", "lr" or "run"), old, new, reason, evidence {name: number} |
| timing | step, samples, points [[batch_size, seconds_per_step, count], ...], fixed_s, per_sample_s, half_performance, standard_error |
| failure | step, samples, reason, lr (after the cut), restored_step |
| measuring | step, samples, method (as text): how the noise is measured from here on |
| memory | step, samples, old, new, rank (of several processes) or null, device: a forward pass of `old` samples ran out of memory there, and later passes have at most `new` samples; if `new` is larger, passes of up to `new` samples are tried again |
| audit | step, samples, method, audited_samples, estimate, exact, standard_error, discrepancy: an approximate estimate of the noise compared with the exact one |
| note | text: something found before the first step |
| resume | step, log_bytes (length of this log when that step's checkpoint was saved), time; optional: warning (why the latest checkpoint was not used) |
| stop | reason, step, samples, epoch, seconds, best {...}, test {...} or null; optional: noise, as in start, if it may have changed |

A `resume` discards the earlier events that begin at or after its `log_bytes` (`iterate_counted` omits them); 0 restarts
the run. Without `log_bytes` it discards the events of later steps. JSON cannot represent numbers that are not finite:
they are written as the strings "NaN", "Infinity" and "-Infinity", and `read_events` converts exactly these three strings
back to numbers.
"""  # noqa: E501

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import RunFolderError
from .lines import LineFile

Event = dict[str, Any]
EVALUATION_FIELDS = ("step", "samples", "epoch", "seconds", "valid_loss", "valid_accuracy", "best")  # but for metrics

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class EventLog(LineFile[Event]):
    """Writes events; appending takes about a microsecond, since events are encoded when they are flushed.

    Args:
        path: the log, created if it does not exist; an incomplete last line is removed.
        flush_s: longest time, in seconds, between two writes while events arrive.
    """

    def __init__(self, path: str | os.PathLike[str], flush_s: float = 1.0) -> None:
        super().__init__(path, encode_json, flush_s)

    def append(self, kind: str, **fields: Any) -> None:
        """Record one event. Values are plain types or scalars of an array library, and must not change afterwards."""
        self.append_item({"kind": kind, **fields})


def read_events(path: str | os.PathLike[str]) -> list[Event]:
    """All events of a log, in the order they were written, without an incomplete last line.

    Raises:
        RunFolderError: the log cannot be read, or a line other than an incomplete last one is damaged.
    """
    return list(iterate_events(path))


def iterate_events(path: str | os.PathLike[str]) -> Iterator[Event]:
    """The events of a log one at a time, for logs that do not fit into memory; see `read_events`."""
    return (event for _, event in _events(path))


def iterate_counted(path: str | os.PathLike[str]) -> Iterator[Event]:
    """The events that count, one at a time, and every resume; see `read_events`."""
    void: list[tuple[float, float]] = []
    for resumed, event in _events(path, only=b'{"kind":"resume"'):
        saved = event.get("log_bytes", resumed)
        while void and void[-1][1] > saved:  # overlaps what an earlier resume has discarded
            saved = min(saved, void.pop()[0])
        void.append((saved, resumed))
    spans = iter([*void, (math.inf, math.inf)])
    first, last = next(spans)
    for begin, event in _events(path):
        while begin >= last:
            first, last = next(spans)
        if begin < first or event["kind"] == "resume":
            yield event


def _events(path: str | os.PathLike[str], only: bytes = b"") -> Iterator[tuple[int, Event]]:
    """Each event whose line begins with `only`, with its offset in bytes."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise RunFolderError(f"cannot read the event log {Path(path)}: {error.strerror or error}") from error
    begin = end = 0
    with file:
        for number, line in enumerate(file, 1):
            begin, end = end, end + len(line)
            if not line.startswith(only):
                continue
            try:
                event = decode_json(line.decode())
                if not isinstance(event, dict) or "kind" not in event:
                    raise ValueError("not an event")
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise RunFolderError(
                    f"{Path(path)}: line {number} is damaged, it is not an event ({error}). Restore the file from a "
                    "backup, or delete that line"
                ) from error
            yield begin, event


def encode_json(value: Any) -> str:
    """One line of valid JSON; numbers that are not finite become strings, see the top of this file."""
    try:
        return _ENCODER.encode(value)
    except ValueError:  # the fast path raises on non-finite numbers, which are rare
        return _ENCODER.encode(_spell(value))


def decode_json(text: str) -> Any:
    """The inverse of `encode_json`."""
    value = json.loads(text)
    return _restore(value) if 'NaN"' in text or 'Infinity"' in text else value


def _plain(value: Any) -> Any:
    """Convert scalars of array libraries and paths, which JSON cannot represent."""
    if hasattr(value, "item"):
        number = value.item()
        return _spell(number)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"an event may contain plain values only, got {type(value).__name__}: {value!r}")


_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain)


def _spell(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _spell(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spell(item) for item in value]
    return value


def _restore(value: Any) -> Any:
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _restore(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore(item) for item in value]
    return value
