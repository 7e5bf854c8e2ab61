"""The page of a study: one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from html import escape
from pathlib import Path

from ..errors import RunFolderError
from ..report.drawing import inline_svg
from ..report.stylesheet import STYLESHEET
from .experiment import Experiment, Finding, Result, Section
from .subject import Subject

TABLE = "table{border-collapse:collapse}td,th{padding:.2em .9em .2em 0;text-align:left;vertical-align:top}"


def write_page(
    folder: Path,
    experiment: Experiment,
    subject: Subject,
    results: Mapping[str, Result],
    planned: int,
    stopped: str,
    made: str,
) -> Path:
    """Write `study.html` into the folder; with too few results it says so.

    Raises:
        RunFolderError: it cannot be written.
    """
    section = experiment.section(subject, results) if results else Section(["No trial has been run."])
    count = f"It rests on {len(results):,} of the {planned:,} trials of the whole design ({escape(stopped)})."
    design = "".join(
        f"<dt>{escape(item.name)}</dt><dd>{escape(repr(getattr(experiment, item.name)))}</dd>"
        for item in fields(experiment)  # type: ignore[arg-type]  # every experiment is a dataclass
    )
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(experiment.title)} · Rightbatch</title><style>{STYLESHEET}{TABLE}</style></head><body><main>"
        f'<header><h1>{escape(experiment.title)}</h1><div class="muted">{escape(str(subject))}</div></header>'
        f"<section><h2>The question</h2><p>{escape(experiment.question)}</p>"
        f'<p class="muted">After {escape(experiment.source)}. {count}</p></section>'
        f"<section><h2>What was seen</h2>{_seen(section)}</section>"
        + (_findings(section.findings) if section.findings else "")
        + f"<section><h2>The design</h2><dl>{design}</dl></section>"
        f"<footer>{escape(made)}</footer></main></body></html>\n"
    )
    page = folder / "study.html"
    try:
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot write {page}: {error.strerror or error}") from error
    return page


def _seen(section: Section) -> str:
    parts = [f"<p>{escape(text)}</p>" for text in section.paragraphs]
    for drawing in section.drawings:
        parts.append(f"<figure>{inline_svg(drawing.figure, drawing.description)}</figure>")
        parts.append(f'<p class="muted">{escape(drawing.description)}</p>')
    return "".join(parts) + (_table(section.head, section.rows) if section.rows else "")


def _findings(findings: Sequence[Finding]) -> str:
    rows = [(f.claim, f.source, f.published, f.ours, f.verdict) for f in findings]
    return (
        "<section><h2>Held against the sources</h2>"
        + _table(("claim", "source", "published", "ours", ""), rows)
        + "</section>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"
