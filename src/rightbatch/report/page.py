"""The report of a run: one self-contained HTML file, made from the run folder alone."""

import json
import math
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RunFolderError
from ..record import History, RunFolder, read_history
from ..record.atomic import write_atomic
from . import captions
from .story import Moment, clock, story
from .stylesheet import STYLESHEET
from .summary import Fact, details, headline, last_noise, measurements, step_time, words
from .words import number, times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# At most this many of the decisions merged into one sentence are listed.
_PARTS = 12

_TOPICS = {
    "start": "Start",
    "batch_size": "Batch size",
    "lr": "Learning rate",
    "run": "Run",
    "failure": "Failure",
    "memory": "Memory",
    "best": "Best",
    "resume": "Resumed",
    "stop": "End",
}


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write `report.html` into a run folder, from its config.json and events.jsonl only.

    The run may be empty, active or interrupted.

    Args:
        folder: the run folder.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: the folder contains no run, is not writable, or its event log is damaged.
        MissingExtraError: matplotlib is not installed.
    """
    run = RunFolder.open(folder)
    history = read_history(run.events) if run.events.exists() else History()
    page = _page(history, run)
    try:
        write_atomic(run.report, lambda file: file.write(page.encode("utf-8", errors="replace")))
    except OSError as error:
        raise RunFolderError(f"cannot write {run.report}: {error.strerror or error}") from error
    return run.report


def _page(history: History, run: RunFolder) -> str:
    start = history.start
    title = str(start.get("model") or "A run")
    trained = f" trained on {start['train_samples']:,} samples" if start.get("train_samples") else ""
    about = [f"Rightbatch {start.get('version') or ''}".strip(), _date(start.get("time")), run.path.resolve().name]
    sections = [
        _failures(history),
        _tiles(history),
        _learning(history),
        _choices(history),
        _step_time(history),
        _story(history),
        _section("What was measured", _facts(measurements(history))),
        _section("Details", _facts(details(history)) + _settings(run)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · Rightbatch</title><style>{STYLESHEET}</style></head><body><main>"
        f"<header><h1>{escape(title + trained)}</h1>"
        f'<div class="muted">{escape(" · ".join(part for part in about if part))}</div></header>'
        + "\n".join(sections)
        + "<footer>Generated from config.json and events.jsonl in the run folder.</footer></main></body></html>\n"
    )


def _failures(history: History) -> str:
    if not history.failures:
        return ""
    last = history.failures[-1]
    reason = escape(str(last.get("reason") or "no reason recorded"))
    title = times(len(history.failures), "step") + (" was" if len(history.failures) == 1 else " were") + " skipped"
    return _section(title, f"<p>{captions.FAILURES.format(number(last['step']), reason)}</p>", kind="alert")


def _tiles(history: History) -> str:
    facts = headline(history)
    if not facts:
        return _section("No steps yet", "<p>The run has not recorded a step.</p>")
    return '<section class="tiles">' + "".join(map(_tile, facts)) + "</section>"


def _learning(history: History) -> str:
    """Loss, accuracy and metrics, in three tabs that work without a script."""
    from .curves import PROGRESS, MovableFigure
    from .drawing import inline_svg

    if not history.steps["step"] and not history.evaluations:
        return ""
    tabs, panels = "", ""
    figures = {what: MovableFigure(figure) for what, figure in _curves(history).items()}
    wide = len(figures) % 2 == 1  # the loss is as wide as two figures where that fills the rows
    for progress, label in PROGRESS.items():
        name = f'id="by-{progress}"' + (" checked" if not tabs else "")
        tabs += f'<input type="radio" name="progress" {name}><label for="by-{progress}">{label}</label>'
        shown = ""
        for what, figure in figures.items():
            if progress != "samples":
                figure.show_over(history, progress)
            svg = inline_svg(figure.figure, f"{what} over {label}")
            shown += _figure(svg, "wide" if wide and not shown else "")
        panels += f'<div class="panel{" pair" if len(figures) > 1 else ""}"><h3>Over {label}</h3>{shown}</div>'
    *names, last = figures
    title = f"{', '.join(names)} and {last}" if names else last
    metrics = captions.METRICS if history.metrics else ""
    return _section(
        escape(title),
        _explained(captions.LOSS, captions.VALIDATION if history.evaluations else "", metrics),
        f'<div class="tabs">{tabs}{panels}</div>',
    )


def _curves(history: History) -> "dict[str, Figure]":
    """Figures over samples, by what they show."""
    from .curves import accuracy_figure, evaluated, loss_figure, metric_figure

    others = {}
    if len(evaluated(history, "samples", "valid_accuracy")[1]):
        others["accuracy"] = accuracy_figure(history, "samples")
    for name, falls in history.metrics.items():
        others[name] = metric_figure(history, "samples", name, falls)
    return {"Loss": loss_figure(history, "samples", wide=len(others) % 2 == 0), **others}


def _choices(history: History) -> str:
    from .curves import course_figure
    from .drawing import inline_svg

    if not history.steps["step"]:
        return ""
    noise, timed = not math.isnan(last_noise(history)[0]), bool(history.timings)
    figure = inline_svg(course_figure(history), "Batch size, noise scale and learning rate over the run")
    return _section(
        "Batch size and learning rate",
        _explained(
            captions.CHOICES,
            captions.NOISE if noise else "",
            captions.HALF if timed else "",
            captions.BETWEEN if noise and timed else "",
        ),
        _figure(figure, "wide"),
    )


def _step_time(history: History) -> str:
    from .drawing import inline_svg
    from .figures import step_time_figure

    event = history.timings[-1] if history.timings else {}
    if not event.get("points"):
        return ""
    fit, noise = step_time(event), last_noise(history)[0]
    spot = (
        math.sqrt(noise * fit.half_performance) if fit and 0 < noise < math.inf and fit.half_performance > 0 else None
    )
    figure = step_time_figure(event["points"], fit, noise_scale=noise if spot else None, sweet_spot=spot)
    return _section(
        "Step time",
        _explained(captions.STEP_TIME, captions.SWEET_SPOT.format(number(round(spot))) if spot else ""),
        _figure(inline_svg(figure, "Step time over batch size"), "wide" if spot else "narrow"),
    )


def _story(history: History) -> str:
    moments = story(history)
    if not moments:
        return ""
    count = len(history.decisions)
    merged = any(len(moment.events) > 1 for moment in moments)
    return _section(
        "Decisions",
        _explained(f"{times(count, 'decision')} in total; runs of small ones are grouped." if merged else ""),
        '<ol class="story">' + "".join(_moment(moment, history) for moment in moments) + "</ol>",
    )


def _moment(moment: Moment, history: History) -> str:
    last = f"–{moment.last_step:,}" if moment.last_step > moment.step else ""
    where = (f"step {moment.step:,}{last}", f"{number(moment.samples)} samples", clock(history, moment.samples))
    when = "".join(f"<span>{text}</span>" for text in where)
    evidence = ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in (moment.evidence or {}).items())
    grey = "".join(f'<p class="reason">{escape(line)}</p>' for line in (moment.reason, evidence) if line)
    return (
        f'<li class="{moment.topic}"><div class="when">{"" if moment.topic == "start" else when}</div>'
        f'<div class="what"><span class="topic">{_TOPICS[moment.topic]}</span>'
        f"<strong>{escape(moment.text)}</strong>{grey}{_parts(moment)}</div></li>"
    )


def _parts(moment: Moment) -> str:
    """The decisions merged into one sentence, or an even selection of them."""
    events = moment.events
    if len(events) < 2:
        return ""
    last, count = len(events) - 1, min(_PARTS, len(events))
    shown = [events[round(i * last / (count - 1))] for i in range(count)]
    title = f"{count} of {len(events):,} decisions" if count < len(events) else f"{count} decisions"
    rows = []
    for event in shown:
        rate = event.get("lr")
        change = f"learning rate {number(rate)}" if rate is not None else ""
        if "new" in event:
            change = " → ".join(words(event[key]) for key in ("old", "new") if event.get(key) is not None)
        rows.append(
            f"<tr><td>{event['step']:,}</td><td>{escape(change)}</td><td>{escape(str(event.get('reason')))}</td></tr>"
        )
    table = "<table><tr><th>step</th><th>change</th><th>reason</th></tr>" + "".join(rows) + "</table>"
    return f'<details><summary>{title}</summary><div class="scroll">{table}</div></details>'


def _settings(run: RunFolder) -> str:
    config = run.read_config()
    if not config:
        return ""
    text = json.dumps(config, indent=2, ensure_ascii=False)
    return f"<details><summary>all settings</summary><pre>{escape(text)}</pre></details>"


def _date(time: object) -> str:
    """An ISO time as a date for people; anything else unchanged."""
    try:
        moment = datetime.fromisoformat(str(time))
        return f"{moment.day} {moment:%B %Y, %H:%M %Z}".strip()
    except ValueError:
        return str(time or "")


def _section(title: str, *parts: str, kind: str = "") -> str:
    return f'<section class="{kind}"><h2>{title}</h2>{"".join(parts)}</section>'


def _explained(*sentences: str) -> str:
    text = " ".join(sentence for sentence in sentences if sentence)
    return f'<p class="muted">{text}</p>' if text else ""


def _figure(svg: str, kind: str = "") -> str:
    return f'<figure class="{kind}">{svg}</figure>'


def _tile(fact: Fact) -> str:
    name, value, remark = map(escape, fact)
    return f'<div class="tile"><b>{value}</b><span>{name}</span><small>{remark}</small></div>'


def _facts(facts: Iterable[Fact]) -> str:
    def rows() -> Iterator[str]:
        for name, value, remark in facts:
            small = f"<small>{escape(remark)}</small>" if remark else ""
            yield f"<dt>{escape(name)}</dt><dd>{escape(value)}{small}</dd>"

    return f"<dl>{''.join(rows())}</dl>"
