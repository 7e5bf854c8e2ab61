"""Studies: trials are run once, kept, resumed, cut short by a budget, and end in a page."""

import io
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from rightbatch import InputError
from rightbatch.cli import main
from rightbatch.errors import RunFolderError
from rightbatch.fitting.stopping import Interruption
from rightbatch.studies import (
    EXPERIMENTS,
    Experiment,
    Finding,
    Section,
    StudyResult,
    StudyTrial,
    Subject,
    Wiggle,
    study,
)
from rightbatch.studies.experiment import Result

RAN: list[str] = []


@dataclass(frozen=True)
class Squares(Experiment):
    """Squares numbers, and keeps count of it."""

    count: int = 4
    twice: bool = False

    name: ClassVar[str] = "squares"
    title: ClassVar[str] = "Squares <of> numbers"
    question: ClassVar[str] = "What is n·n?"
    source: ClassVar[str] = "arithmetic"

    @property
    def classic(self) -> Subject:
        return Subject("blobs", "linear")

    def trials(self, subject: Subject) -> list[StudyTrial]:
        return [StudyTrial(f"n {0 if self.twice else n}", {"n": n}) for n in range(self.count)]

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        RAN.append(trial.key)
        return {"square": float(trial.settings["n"]) ** 2, "missing": float("nan")}

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        total = sum(result["square"] for result in results.values())
        finding = Finding("they add up", "Gauß", "14", f"{total:g}", "agrees" if total == 14 else "cannot tell")
        return Section(
            ["Text & more."], (), ("n", "n²"), [(k, f"{r['square']:g}") for k, r in results.items()], [finding]
        )


def run(
    folder: Path, experiment: Experiment | None = None, budget_s: float | None = None, processes: int = 0
) -> StudyResult:
    RAN.clear()
    return study(experiment or Squares(), folder=folder, budget_s=budget_s, processes=processes, progress=io.StringIO())


def test_a_study_runs_keeps_and_reports(tmp_path: Path) -> None:
    done = run(tmp_path / "s")
    assert RAN == ["n 0", "n 1", "n 2", "n 3"] and done.stopped == "all trials finished"
    assert [r["square"] for r in done.results.values()] == [0, 1, 4, 9]
    page = done.page.read_text()
    for text in (
        "Squares &lt;of&gt; numbers",
        "What is n·n?",
        "Text &amp; more.",
        "agrees",
        "4 of the 4 trials",
        "Gauß",
    ):
        assert text in page


def test_the_same_call_goes_on(tmp_path: Path) -> None:
    run(tmp_path / "s", Squares())
    log = tmp_path / "s" / "results.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:3]) + lines[3][:10])  # two trials, and one torn as by a crash
    done = run(tmp_path / "s")
    assert RAN == ["n 2", "n 3"] and len(done.results) == 4
    again = run(tmp_path / "s")
    assert RAN == [] and list(again.results) == list(done.results)
    assert [r["square"] for r in again.results.values()] == [0, 1, 4, 9]


def test_a_budget_leaves_the_last_trials_out(tmp_path: Path) -> None:
    done = run(tmp_path / "s", budget_s=0.0)
    assert RAN == [] and done.results == {} and done.stopped == "no trials requested"
    assert "No trial has been run." in done.page.read_text()
    assert len(run(tmp_path / "s").results) == 4


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "s")
    with pytest.raises(RunFolderError, match="another study: squares of linear on blobs"):
        run(tmp_path / "s", Squares(count=5))
    with pytest.raises(InputError, match="two trials with the same key"):
        run(tmp_path / "t", Squares(twice=True))
    with pytest.raises(InputError, match="budget_s"):
        run(tmp_path / "u", budget_s=-1.0)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write"):
        run(tmp_path / "file")


def test_a_trial_interrupted_while_it_trains_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_short(self: Squares, subject: Subject, trial: StudyTrial) -> Result:
        with Interruption().watched():  # as `fit` does
            if trial.key == "n 2":
                os.kill(os.getpid(), signal.SIGINT)
        return {"square": 0.0}

    monkeypatch.setattr(Squares, "run", cut_short)
    done = run(tmp_path / "s")
    assert list(done.results) == ["n 0", "n 1"] and done.stopped == "stopped by Ctrl-C"


def test_processes_answer_as_this_one_does(tmp_path: Path) -> None:
    small = Wiggle(sizes=(4, 0), seeds=1, steps=6, looks=3)
    here, apart = (run(tmp_path / f"p{count}", small, processes=count) for count in (0, 2))
    assert here.results == apart.results and len(here.results) == 2


def test_the_wiggle_is_the_variance_of_a_mean(tmp_path: Path) -> None:
    """Two seeds of 60 looks: the ratio of scatter to theory is known to 6.5 %; within three such errors."""
    done = run(tmp_path / "w", Wiggle(sizes=(8, 0), seeds=2, steps=120, looks=60))
    section = Wiggle().section(done.subject, done.results)
    assert [f.verdict for f in section.findings] == ["agrees"]
    full = [r for r in done.results.values() if r["samples"] > 8]
    assert max(abs(v) for r in full for v in r["apart"]) < 1e-5 and len(section.drawings) == 1
    with pytest.raises(InputError, match="give at most"):
        Wiggle(sizes=(10_000,)).trials(Wiggle().classic)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in EXPERIMENTS)
    assert main(["study", "nonsense"]) == 2
    assert "There is no experiment 'nonsense'" in capsys.readouterr().err
    assert main(["study", "wiggle", "--budget", "soon"]) == 2
    assert "is not a valid duration" in capsys.readouterr().err
    folder = str(tmp_path / "c")
    assert (
        main(["study", "wiggle", "--data", "blobs", "--model", "linear", "--budget", "0.001s", "--folder", folder]) == 0
    )
    assert (tmp_path / "c" / "study.html").exists()
