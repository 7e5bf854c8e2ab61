"""The story of a run: hundreds of decisions summarized in a few dozen sentences."""

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

from ..record import History
from ..record.events import Event
from .words import duration, number, percent, times

Topic = Literal["start", "batch_size", "lr", "run", "failure", "memory", "best", "resume", "stop"]

# Up to this many decisions on one quantity are listed one by one, more of them as at most this many moves.
_MOST = 10
_NAMES = {"batch_size": "Batch size", "lr": "Learning rate"}


@dataclass(frozen=True, slots=True)
class Moment:
    """One sentence of the story.

    Args:
        samples: samples consumed when it begins.
        step: the step it begins at.
        topic: what it is about.
        text: the sentence.
        reason: the rule's reason; may be empty.
        evidence: the numbers its last decision is based on.
        events: the decisions or failures it summarizes.
        last_step: the step it ends at, if it covers several.
    """

    samples: float
    step: int
    topic: Topic
    text: str
    reason: str = ""
    evidence: dict[str, float] | None = None
    events: tuple[Event, ...] = ()
    last_step: int = 0


def story(history: History) -> list[Moment]:
    """The run from start to stop, in order; where there are many decisions of one kind, they are merged."""
    moments: list[Moment] = []
    if history.start:
        moments.append(Moment(0, 0, "start", "Training started.", _setup(history.start)))
    for what in ("batch_size", "lr"):
        moments += _decisions(what, [event for event in history.decisions if event.get("what") == what])
    moments += _runs([event for event in history.decisions if event.get("what") not in _NAMES])
    moments += _failures(history.failures)
    moments += _memory(history.memory)
    best = [event for event in history.evaluations if event.get("best")][-1:]
    moments += [_best(event, history.metrics) for event in best]
    for event in history.resumes:
        step = event["step"]
        at = bisect_right(history.steps["step"], step) - 1
        samples = history.steps["samples"][at] if at >= 0 else 0.0
        text = f"Resumed from the checkpoint of step {step:,}."
        moments.append(Moment(samples, step, "resume", text, str(event.get("warning") or "")))
    moments.sort(key=lambda moment: moment.samples)
    if stop := history.stop:
        text = f"The run ended: {stop.get('reason') or 'no reason recorded'}."
        moments.append(Moment(stop.get("samples", 0), stop.get("step", 0), "stop", text))
    return moments


def _setup(start: Event) -> str:
    parameters = start.get("parameters")
    model = f"{start.get('model', 'a model')}" + (f" with {parameters:,} parameters" if parameters else "")
    train = f" on {start['train_samples']:,} samples" if start.get("train_samples") else ""
    rules = [f"{name}: {start[key]}" for key, name in _RULES if start.get(key)]
    return f"{model}{train}. " + "; ".join(rules)


_RULES = (("batch_size", "batch size"), ("lr", "learning rate"), ("optimizer", "optimizer"))


def _best(event: Event, metrics: Iterable[str]) -> Moment:
    accuracy = event.get("valid_accuracy")
    also = f", accuracy {percent(accuracy)}" if accuracy is not None else ""
    also += "".join(f", {name} {number(event[name], 4)}" for name in metrics if event.get(name) is not None)
    return Moment(
        event["samples"], event["step"], "best", f"Best validation: loss {number(event['valid_loss'], 4)}{also}."
    )


def _decisions(what: Literal["batch_size", "lr"], events: list[Event]) -> Iterator[Moment]:
    if events and events[0].get("old") is None:  # the initial value
        yield _one(what, events[:1])
        events = events[1:]
    numbers = all(_positive(event.get(key)) for event in events for key in ("old", "new"))
    if not events:
        return
    if not numbers:
        for group in _alike(events) if len(events) > _MOST else [[event] for event in events]:
            yield _one(what, group)
        return
    if len(events) <= _MOST:
        for unchanged, neighbours in groupby(events, lambda event: abs(event["new"] / event["old"] - 1) < 0.05):
            if unchanged:
                yield _move(what, list(neighbours), small=True)
            else:
                yield from (_one(what, [event]) for event in neighbours)
        return
    levels = [math.log(events[0]["old"]), *(math.log(event["new"]) for event in events)]
    threshold = math.log(1.25)
    while len(pivots := _turns(levels, threshold)) - 1 > _MOST:
        threshold *= 1.3
    # A single large change is listed separately, not as part of its move.
    changes = sorted(((abs(after - before), i) for i, (before, after) in enumerate(pairwise(levels))), reverse=True)
    jumps = [i for change, i in changes[: _MOST // 2] if change > math.log(1.5)]
    pivots = sorted({*pivots, *jumps, *(i + 1 for i in jumps)})
    for begin, end in pairwise(pivots):
        yield _move(what, events[begin:end], abs(levels[end] - levels[begin]) < math.log(1.25))


def _one(what: Literal["batch_size", "lr"], events: Sequence[Event]) -> Moment:
    last = events[-1]
    old, new = events[0].get("old"), last.get("new")
    many = f" in {len(events):,} decisions" if len(events) > 1 else ""
    text = (
        f"{_NAMES[what]} {_value(old)} → {_value(new)}{many}."
        if _value(old)
        else f"{_NAMES[what]} {_value(new)}{many}."
    )
    return _moment(what, text, events)


def _move(what: Literal["batch_size", "lr"], events: Sequence[Event], small: bool) -> Moment:
    """The moves between two turning points, or a period without much change."""
    first, last = events[0]["old"], events[-1]["new"]
    count = times(len(events), "decision")
    if len(events) == 1 and not small:
        return _one(what, events)
    if small:
        values = [first, *(event["new"] for event in events)]
        low, high = _value(min(values)), _value(max(values))
        text = f"{_NAMES[what]} stayed " + (f"at {low}" if low == high else f"between {low} and {high}")
    else:
        text = f"{_NAMES[what]} {'grew' if last > first else 'fell'} from {_value(first)} to {_value(last)}"
    return _moment(what, f"{text} {'over' if small else 'in'} {count}.", events)


def _runs(events: list[Event]) -> Iterator[Moment]:
    groups = [[event] for event in events] if len(events) <= 2 * _MOST else _alike(events)
    for group in groups:
        last = group[-1]
        new = _value(last.get("new"))
        many = f" ({times(len(group), 'time')})" if len(group) > 1 else ""
        yield _moment("run", (f"{new[:1].upper()}{new[1:]}" if new else "A setting was changed") + many + ".", group)


def _failures(events: list[Event]) -> Iterator[Moment]:
    groups = [[event] for event in events] if len(events) <= _MOST else _alike(events)
    for group in groups:
        last = group[-1]
        what = f"Step {last['step']:,}" if len(group) == 1 else f"{times(len(group), 'step')} up to {last['step']:,}"
        back = f" Restored the state of step {last['restored_step']:,}" if last.get("restored_step") is not None else ""
        rate = f"learning rate reduced to {number(last['lr'])}" if last.get("lr") is not None else ""
        after = f"{back}, {rate}." if back and rate else f"{back or ' ' + rate.capitalize()}." if back or rate else ""
        skipped = "was skipped" if len(group) == 1 else "were skipped"
        yield _moment("failure", f"{what} {skipped}.{after}", group)


def _memory(events: list[Event]) -> Iterator[Moment]:
    """Changes of the size of forward passes; consecutive changes in the same direction are merged."""
    for smaller, neighbours in groupby(events, lambda event: event["new"] < event["old"]):
        group = list(neighbours)
        first, last = group[0], group[-1]
        new = times(last["new"], "sample")
        text = f"Forward passes of up to {new} are tried again."
        if smaller:
            where = last["device"] if last.get("rank") is None else f"{last['device']} (rank {last['rank']})"
            again = f", then of {number(last['old'])}" if len(group) > 1 else ""
            text = (
                f"Out of memory on {where} in a forward pass of {times(first['old'], 'sample')}{again}. "
                f"Passes now have at most {new}."
            )
        yield Moment(first["samples"], first["step"], "memory", text, last_step=last["step"])


def _moment(topic: Topic, text: str, events: Sequence[Event]) -> Moment:
    last = events[-1]
    evidence = {k: v for k, v in (last.get("evidence") or {}).items() if isinstance(v, (int, float))}
    reason = str(last.get("reason") or "")
    first = events[0]
    return Moment(first["samples"], first["step"], topic, text, reason, evidence, tuple(events), last["step"])


def _alike(events: list[Event]) -> list[list[Event]]:
    """Groups of consecutive events whose reasons differ only in numbers."""
    return [
        list(group) for _, group in groupby(events, lambda event: re.sub(r"[-\d.,e+]+", "#", str(event.get("reason"))))
    ]


def _turns(levels: Sequence[float], threshold: float) -> list[int]:
    """Indices of the turning points of a line, both ends included; reversals smaller than `threshold` are ignored."""
    pivots = [0]
    low = high = extreme = 0
    direction = 0
    for index, level in enumerate(levels):
        if direction == 0:
            low = index if level < levels[low] else low
            high = index if level > levels[high] else high
            if levels[high] - levels[low] > threshold:
                direction, extreme = (1, high) if high > low else (-1, low)
                pivots += [min(low, high)] if min(low, high) > 0 else []
        elif direction * (level - levels[extreme]) >= 0:
            extreme = index
        elif direction * (levels[extreme] - level) > threshold:
            pivots.append(extreme)
            direction, extreme = -direction, index
    ends = [index for index in (extreme, len(levels) - 1) if index > pivots[-1]]
    return pivots + sorted(set(ends))


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def _value(value: object) -> str:
    if value is None:
        return ""
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def clock(history: History, samples: float) -> str:
    """The training time at which `samples` samples had been consumed."""
    at = bisect_right(history.steps["samples"], samples) - 1
    return duration(history.steps["seconds"][at]) if at >= 0 else duration(0.0)
