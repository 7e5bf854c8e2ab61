"""The event log as a history: columns of numbers per step, and the other events as lists."""

import math
import os
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field

from .events import EVALUATION_FIELDS, Event, iterate_counted

STEP_COLUMNS = (
    "step",
    "samples",
    "epoch",
    "seconds",
    "batch_size",
    "lr",
    "train_loss",
    "gradient_norm",
    "noise_scale",
    "noise_low",
    "noise_high",
    "noise_age_samples",
)


def falls(name: str) -> bool:
    """Whether a quantity of this name is better when it is smaller, unless something else is said of it."""
    return name.endswith(("loss", "error"))


@dataclass(frozen=True, slots=True)
class History:
    """The history of one run, without the events that a later resume discarded.

    Args:
        start: the first start event that counts; empty if there is none.
        steps: one column of doubles for each field of a step event; nan where the field is null or missing.
        evaluations, decisions, timings, failures, memory, resumes, notes: the events of that kind, in order.
        stop: the last stop event; empty while the run is active, or after a resume.
    """

    start: Event = field(default_factory=dict)
    steps: dict[str, "array[float]"] = field(default_factory=lambda: {name: array("d") for name in STEP_COLUMNS})
    evaluations: list[Event] = field(default_factory=list)
    decisions: list[Event] = field(default_factory=list)
    timings: list[Event] = field(default_factory=list)
    failures: list[Event] = field(default_factory=list)
    memory: list[Event] = field(default_factory=list)
    resumes: list[Event] = field(default_factory=list)
    notes: list[Event] = field(default_factory=list)
    stop: Event = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, bool]:
        """The user's metrics in the evaluations, and whether lower is better."""
        known = self.start.get("lower_is_better") or {}
        names = dict.fromkeys(name for event in self.evaluations for name in event)
        return {name: known.get(name, falls(name)) for name in names if name not in ("kind", *EVALUATION_FIELDS)}

    def _rewind(self, step: int) -> None:
        end = bisect_right(self.steps["step"], step)
        for column in self.steps.values():
            del column[end:]
        for events in (self.evaluations, self.decisions, self.timings, self.failures, self.memory):
            events[:] = [event for event in events if event.get("step", 0) <= step]
        self.stop.clear()


def read_history(path: str | os.PathLike[str]) -> History:
    """Read an event log into a `History`, in one pass and, for the steps, 96 bytes each.

    Raises:
        RunFolderError: see `read_events`.
    """
    history = History()
    lists = {
        "evaluation": history.evaluations,
        "decision": history.decisions,
        "timing": history.timings,
        "failure": history.failures,
        "memory": history.memory,
        "note": history.notes,
    }
    columns = [(name, history.steps[name].append) for name in STEP_COLUMNS]
    for event in iterate_counted(path):
        kind = event["kind"]
        if kind == "step":
            for name, append in columns:
                value = event.get(name)
                append(math.nan if value is None else value)
        elif kind in lists:
            lists[kind].append(event)
        elif kind == "resume":
            if "log_bytes" not in event:
                history._rewind(event["step"])
            history.resumes.append(event)
        elif kind == "start" and not history.start:
            history.start.update(event)
        elif kind == "stop":
            history.stop.clear()
            history.stop.update(event)
    return history


def counted_events(path: str | os.PathLike[str]) -> list[Event]:
    """The events of a log that count, without those between a checkpoint and the resume from it.

    Raises:
        RunFolderError: see `read_events`.
    """
    counted: list[Event] = []
    for event in iterate_counted(path):
        if event["kind"] == "resume" and "log_bytes" not in event:
            step = event["step"]
            counted = [e for e in counted if e["kind"] != "stop" and e.get("step", 0) <= step]
        counted.append(event)
    return counted
