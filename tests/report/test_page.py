"""The page: complete, self-contained, small, and made from whatever there is."""

import builtins
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rightbatch.errors import MissingExtraError, RunFolderError
from rightbatch.measurements import StepTime
from rightbatch.record import EventLog, RunFolder
from rightbatch.report import write_report
from rightbatch.report.figures import step_time_figure

MakeRun = Callable[..., RunFolder]


class Page(HTMLParser):
    """Collects what a browser would load, the ids, and whether every element is closed."""

    EMPTY = ("meta", "input", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.references: list[str] = []
        self.tags: Counter[str] = Counter()
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[str(value)] += 1
            if name in ("src", "href", "data", "action", "xlink:href"):
                self.references.append(str(value))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def page_of(run: RunFolder) -> Page:
    path = write_report(run.path)
    assert path == run.report
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert all(reference.startswith("#") for reference in page.references)
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert max(page.ids.values(), default=1) == 1
    assert all(reference[1:] in page.ids for reference in page.references)
    assert "nan" not in re.sub(r"\(nan\)", "", page.text)
    assert not [name.name for name in run.path.iterdir() if name.suffix == ".new"]
    return page


def test_a_full_run(tmp_path: Path, make_run: MakeRun) -> None:
    page = page_of(make_run(tmp_path / "run"))
    assert page.tags["svg"] == 3 * 2 + 1 + 1
    for words in (
        "Sequential(Linear, ReLU, Linear, ReLU, Linear) trained on 60,000 samples",
        "2 steps were skipped",
        "best validation accuracy",
        "test accuracy",
        "89.3 %",
        "seconds of training",
        "noise scale",
        "n½",
        "sweet spot",
        "Batch size 32 → 206.",
        "12 of ",
        "the time budget of 120 s is spent",
        "Sample CPU 2.4 GHz",
    ):
        assert words in page.text, words


@pytest.mark.parametrize(
    "what",
    [
        {"noise": False},
        {"timing": False},
        {"valid": False},
        {"accuracy": False},
        {"stopped": False, "resumed": True},
        {"noise": False, "timing": False, "valid": False, "failures": 0, "decide_every": 0, "stopped": False},
    ],
    ids=lambda what: "-".join(what),
)
def test_a_run_that_lacks_something(tmp_path: Path, make_run: MakeRun, what: dict[str, Any]) -> None:
    page = page_of(make_run(tmp_path / "run", steps=400, **what))
    assert ("the sweet spot, " in page.text) == (what.get("noise", True) and what.get("timing", True))


def test_an_empty_run_and_one_with_a_single_step(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"seed": 1})
    assert "No steps yet" in page_of(run).text
    with EventLog(run.events) as log:
        log.append("start", model="<mlp> & co", train_samples=10)
    page = page_of(run)
    assert "No steps yet" in page.text and "<mlp> & co trained on 10 samples" in page.text
    with EventLog(run.events) as log:
        log.append("step", step=1, samples=4, epoch=0.4, seconds=0.1, batch_size=4, lr=0.1, train_loss=2.0)
    assert page_of(run).tags["svg"] == 4


def test_values_that_are_not_finite_or_absent(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    inf, nan = float("inf"), float("nan")
    with EventLog(run.events) as log:
        for step in range(1, 20):
            log.append(
                "step", step=step, samples=step, epoch=step, seconds=step, batch_size=1, lr=0.0,
                train_loss=nan, noise_scale=inf, noise_low=0.0, noise_high=inf,
            )  # fmt: skip
        log.append(
            "evaluation", step=19, samples=19, epoch=19, seconds=19, valid_loss=inf, valid_accuracy=nan, best=False
        )
        log.append("timing", step=19, samples=19, points=[[1, 0.1, 3]], fixed_s=0.1, per_sample_s=0.0,
                   half_performance=inf, standard_error=nan)  # fmt: skip
        log.append("failure", step=19, samples=19, reason="the loss is not finite (nan)", lr=0.0)
        log.append("decision", step=19, samples=19, what="batch_size", old=1, new=0, reason="", evidence=None)
    assert "1 step was skipped" in page_of(run).text


def test_a_long_run_gives_a_small_page(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", steps=20_000, failures=30)
    page_of(run)
    assert run.report.stat().st_size < 1_000_000


def test_the_page_depends_on_the_folder_alone(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", steps=60, accuracy=False)
    first = write_report(run.path).read_text()
    assert write_report(run.path).read_text() == first


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_run: MakeRun) -> None:
    with pytest.raises(RunFolderError, match="contains no run"):
        write_report(tmp_path)
    run = make_run(tmp_path / "run", steps=50)
    real = builtins.__import__

    def without_matplotlib(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(MissingExtraError, match=r"rightbatch\[report\]"):
        write_report(run.path)
    assert not run.report.exists()


def test_step_time_figure_for_the_probe(tmp_path: Path) -> None:
    points = [(2**k, 1e-3 + 1e-5 * 2**k, 3) for k in range(12)]
    fit = StepTime(1e-3, 1e-5, 100.0, 5.0, 12, 1, 2048)
    figure = step_time_figure(points, fit, noise_scale=900.0, sweet_spot=300.0, sweet_range=(150.0, 600.0))
    assert len(figure.axes) == 2
    cost = figure.axes[1].lines[0].get_ydata()
    sizes = figure.axes[1].lines[0].get_xdata()
    assert min(cost) == 1.0
    # The grid has 200 points over 13 doublings, so its best point is within 5 % of sqrt(900 · 100).
    assert abs(sizes[cost.argmin()] / 300 - 1) < 0.05
    for name in ("probe.png", "probe.svg", "probe.pdf"):
        figure.savefig(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    assert len(step_time_figure(points).axes) == 1
    assert len(step_time_figure([], None).axes) == 1


def test_how_old_the_noise_was_in_the_end(tmp_path: Path) -> None:
    for age, said in ((640, True), (0, False)):
        run = RunFolder.create(tmp_path / str(age), {})
        with EventLog(run.events) as log:
            log.append(
                "step", step=1, samples=700, epoch=0.1, seconds=1.0, batch_size=10, lr=0.1, train_loss=1.0,
                noise_scale=30.0, noise_low=20.0, noise_high=40.0, noise_age_samples=age,
            )  # fmt: skip
        assert ("640 samples older" in page_of(run).text) is said
