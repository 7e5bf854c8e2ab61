"""The facts of a run as rows of text for the report."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from ..measurements import StepTime
from ..record import History
from ..record.events import Event
from .words import NOTHING, duration, number, percent, times


class Fact(NamedTuple):
    """A name, its value, and an optional remark."""

    name: str
    value: str
    remark: str = ""


def headline(history: History) -> list[Fact]:
    """The most important numbers."""
    steps, stop = history.steps, history.stop
    facts = []
    best = best_evaluation(history)
    if best.get("valid_accuracy") is not None:
        facts.append(Fact("best validation accuracy", percent(best["valid_accuracy"]), _at(best)))
    if best.get("valid_loss") is not None:
        facts.append(Fact("best validation loss", number(best["valid_loss"], 4), _at(best)))
    for name in history.metrics:
        if best.get(name) is not None:
            facts.append(Fact(f"best validation {name}", number(best[name], 4), _at(best)))
    facts += [Fact(f"test {name}", value, "of the returned model") for name, value in _scores(stop.get("test") or {})]
    if steps["step"]:
        whole = steps["seconds"][-1]
        share = f"{number(steps['samples'][-1] / whole)} samples per second" if whole > 0 else ""
        facts.append(Fact("training time", duration(whole), share))
        epochs = f"{number(steps['epoch'][-1])} epochs, {times(int(steps['step'][-1]), 'step')}"
        facts.append(Fact("samples", number(steps["samples"][-1]), epochs))
        facts.append(Fact("final batch size", number(steps["batch_size"][-1]), _range(steps["batch_size"])))
    return facts


def details(history: History) -> list[Fact]:
    """The remaining facts: how the run ended, its settings and its machine."""
    start, stop, steps = history.start, history.stop, history.steps
    facts = [Fact("Ended", str(stop["reason"]) if stop.get("reason") else "still running, or killed")]
    if steps["step"]:
        facts.append(Fact("Final learning rate", number(steps["lr"][-1]), _range(steps["lr"])))
        known = [loss for loss in steps["train_loss"][-200:] if math.isfinite(loss)]
        facts.append(Fact("Training loss of the last batch", number(known[-1] if known else None, 4)))
    parameters = start.get("parameters")
    facts.append(
        Fact("Model", str(start.get("model") or NOTHING), times(parameters, "parameter") if parameters else "")
    )
    valid = start.get("valid_samples")
    facts.append(
        Fact(
            "Samples",
            f"{number(start.get('train_samples'))} for training",
            f"{valid:,} for validation" if valid else "",
        )
    )
    for key, name in (
        ("data", "Data"),
        ("batch_size", "Batch-size rule"),
        ("lr", "Learning-rate rule"),
        ("optimizer", "Optimizer"),
        ("budget", "Budget"),
    ):
        if start.get(key):
            facts.append(Fact(name, words(start[key])))
    facts.append(Fact("Seed", str(start.get("seed", NOTHING))))
    facts += [Fact("Note", str(event.get("text"))) for event in history.notes]
    if history.failures:
        facts.append(Fact("Failures", times(len(history.failures), "skipped step")))
    ran_out = sum(event["new"] < event["old"] for event in history.memory)
    if ran_out:
        at_most = f"at the end, at most {times(history.memory[-1]['new'], 'sample')} per forward pass"
        facts.append(Fact("Out of memory", times(ran_out, "time"), at_most))
    machine = start.get("machine") or {}
    parts = [str(machine[key]) for key in ("device", "cpu", "platform") if machine.get(key)]
    if machine.get("cores"):
        parts.append(times(int(machine["cores"]), "core"))
    versions = [
        f"{name} {machine[key]}" for key, name in (("torch", "torch"), ("python", "Python")) if machine.get(key)
    ]
    facts.append(Fact("Machine", ", ".join(parts) or NOTHING, ", ".join(versions)))
    return facts


def measurements(history: History) -> list[Fact]:
    """What was measured, how often, and the result."""
    return [
        Fact("Gradient noise", _noise_measured(history)),
        Fact("Seconds per step", _time_measured(history)),
        Fact("Validation", _validated(history)),
    ]


def _noise_measured(history: History) -> str:
    steps = history.steps
    measured = sum(not math.isnan(noise) for noise in steps["noise_scale"])
    if not measured:
        return "Not measured in this run."
    # The value at the end, because the method may have changed during the run.
    how = history.stop.get("noise") or history.start.get("noise") or {}
    method = f" by {how['method']}" if how.get("method") else ""
    scale, low, high = last_noise(history)
    result = f"Last noise scale: {number(scale)} samples (90 % interval {number(low)} to {number(high)})."
    ages = steps["noise_age_samples"]
    if ages and ages[-1] > 0:
        result += f" The last measurement is {ages[-1]:,.0f} samples older than the end of the run."
    known = f"Available at {measured:,} of {times(len(steps['step']), 'step')}{method}."
    return f"{known} {result} {how.get('reason') or ''}"


def _time_measured(history: History) -> str:
    if not history.timings:
        return "Not fitted in this run."
    event = history.timings[-1]
    points = event.get("points") or []
    timed = int(sum(point[2] for point in points if len(point) > 2))
    source = f"{times(timed, 'timing')} at {times(len(points), 'batch size')}, on batches of the run."
    fit = step_time(event)
    if fit is None:
        return f"{source} Not enough to fit a line."
    return (
        f"{source} A step takes {duration(fit.fixed_s)} plus {duration(fit.per_sample_s)} per sample; the "
        f"half-performance batch n½ is {number(fit.half_performance)} ± {number(fit.standard_error)} samples."
    )


def _validated(history: History) -> str:
    if not history.evaluations:
        return "This run has no validation data."
    valid = history.start.get("valid_samples")
    count = times(len(history.evaluations), "time") + (f" on {valid:,} samples" if valid else "")
    return f"{count}; evaluation time does not count as training time."


def best_evaluation(history: History) -> Event:
    """The evaluation marked as best; empty if there is none."""
    marked = [event for event in history.evaluations if event.get("best")]
    known = [event for event in history.evaluations if math.isfinite(event.get("valid_loss") or math.nan)]
    return marked[-1] if marked else min(known, key=lambda event: float(event["valid_loss"]), default={})


def last_noise(history: History) -> tuple[float, float, float]:
    """The last known noise scale with its 90 % interval; nan if there is none."""
    columns = (history.steps["noise_scale"], history.steps["noise_low"], history.steps["noise_high"])
    rows = zip(*(reversed(column) for column in columns), strict=True)
    return next((row for row in rows if not math.isnan(row[0])), (math.nan, math.nan, math.nan))


def step_time(event: Event) -> StepTime | None:
    """The line fitted in a timing event, if there is one."""
    sizes = [int(point[0]) for point in event.get("points") or []]
    fixed, each, half, error = (
        math.nan if event.get(key) is None else float(event[key])
        for key in ("fixed_s", "per_sample_s", "half_performance", "standard_error")
    )
    if not sizes or not math.isfinite(fixed + each + half):
        return None
    return StepTime(fixed, each, half, error, len(sizes), min(sizes), max(sizes))


def words(value: object) -> str:
    """A setting as text: mappings as name-value pairs, without unset ones."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(item)}" for key, item in value.items() if item is not None) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(words, value))
    return number(value, 6) if isinstance(value, float) else str(value)


def _scores(scores: Event) -> list[tuple[str, str]]:
    named = [(str(key).removeprefix("test_"), value) for key, value in scores.items() if isinstance(value, float)]
    return [(name, percent(value) if "accuracy" in name else number(value, 4)) for name, value in named]


def _at(event: Event) -> str:
    return f"at epoch {number(event.get('epoch'))}, {duration(event.get('seconds'))}"


def _range(values: Iterable[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    if not known or min(known) == max(known):
        return "throughout"
    return f"{number(min(known))} to {number(max(known))} over the run"
