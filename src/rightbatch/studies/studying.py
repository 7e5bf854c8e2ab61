"""Run the trials of an experiment in parallel processes, store their results, and write the page."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TextIO

from .._version import __version__
from ..errors import InputError, RunFolderError
from ..fitting.recorder import machine, now
from ..fitting.stopping import Interruption
from ..ranges import require_number, require_whole
from ..record.events import EventLog, read_events
from ..report.words import duration
from .experiment import Experiment, Result, StudyTrial
from .page import write_page
from .subject import Subject

RESULTS = "results.jsonl"


@dataclass(slots=True)
class StudyResult:
    """The result of `study`.

    Args:
        experiment: the experiment.
        subject: its data and model.
        results: by key of the trial.
        planned: number of trials of the whole design.
        stopped: why it ended, as text.
        made: version, date and machine of the first call, as text.
        page: the HTML page.
    """

    experiment: Experiment
    subject: Subject
    results: dict[str, Result]
    planned: int
    stopped: str
    made: str
    page: Path


def study(
    experiment: Experiment,
    subject: Subject | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    budget_s: float | None = None,
    processes: int | None = None,
    progress: TextIO | None = None,
) -> StudyResult:
    """Run an experiment and write its page; the same call resumes it.

    Trials run in separate processes with one thread each. Ctrl-C stops the running ones and writes the page from the
    results so far. A budget reduces the number of trials: the most important come first, and the page states how many
    of the design it is based on.

    Args:
        experiment: such as `Wiggle()`.
        subject: data and model (default: the classic problem of the experiment).
        folder: folder for results and page (default: studies/<experiment>-<data>-<model>).
        budget_s: wall-clock seconds after which no further trial starts (default: no limit); 0 only writes the page
            from existing results.
        processes: number of processes (default: one per core); 0 runs the trials sequentially in this process.
        progress: stream for progress (default: stderr).

    Returns:
        The results and the page.

    Raises:
        InputError: the experiment does not support the subject, or a setting is out of range.
        RunFolderError: the folder contains another study, or is not writable.
    """
    if budget_s is not None:
        require_number("budget_s", budget_s, least=0)
    if processes is not None:
        require_whole("processes", processes, least=0)
    subject = subject or experiment.classic
    trials = experiment.trials(subject)
    if len({trial.key for trial in trials}) != len(trials):
        raise InputError(f"{type(experiment).__name__} has two trials with the same key: keys must be unique.")
    path = Path(folder) if folder is not None else _folder(experiment, subject)
    results, made = _opened(path, experiment, subject)
    wanted = {trial.key for trial in trials}
    waiting = [trial for trial in trials if trial.key not in results]
    say = _TrialProgress(progress or sys.stderr, len(trials), len(trials) - len(waiting))
    log = EventLog(path / RESULTS, flush_s=0.0)
    try:
        stopped = _run(experiment, subject, waiting, results, log, budget_s, processes, say)
    finally:
        log.close()
    shown = {key: result for key, result in results.items() if key in wanted}
    page = write_page(path, experiment, subject, shown, len(trials), stopped, made)
    say.end(f"{stopped}; page: {page}")
    return StudyResult(experiment, subject, shown, len(trials), stopped, made, page)


def _run(
    experiment: Experiment,
    subject: Subject,
    waiting: list[StudyTrial],
    results: dict[str, Result],
    log: EventLog,
    budget_s: float | None,
    processes: int | None,
    say: "_TrialProgress",
) -> str:
    started, interruption = time.monotonic(), Interruption()

    def over() -> str:
        if interruption.asked:
            return "stopped by Ctrl-C"
        spent = budget_s is not None and time.monotonic() - started >= budget_s
        if not spent:
            return ""
        return f"time limit reached ({duration(budget_s)})" if budget_s else "no trials requested"

    def take(trial: StudyTrial, answer: tuple[Result, float]) -> None:
        result, seconds = answer
        results[trial.key] = result
        log.append("trial", key=trial.key, settings=dict(trial.settings), seconds=seconds, result=result)
        log.flush()
        say.done(trial.key)

    with interruption.watched():
        if processes == 0:
            for trial in waiting:
                if why := over():
                    return why
                answer = _answer(experiment, subject, trial)
                if interruption.asked:
                    return over()  # its training ended early
                take(trial, answer)
            return "all trials finished"
        return _in_processes(experiment, subject, waiting, processes or os.cpu_count() or 1, over, take)


def _in_processes(
    experiment: Experiment,
    subject: Subject,
    waiting: list[StudyTrial],
    processes: int,
    over: Callable[[], str],
    take: Callable[[StudyTrial, tuple[Result, float]], None],
) -> str:
    why, queue = "", list(waiting)
    pool = ProcessPoolExecutor(min(processes, max(1, len(queue))), get_context("spawn"), _prepare)
    running: dict[Future[tuple[Result, float]], StudyTrial] = {}
    try:
        while queue or running:
            why = why or over()
            while queue and not why and len(running) < processes:
                trial = queue.pop(0)
                with _deaf():
                    running[pool.submit(_answer, experiment, subject, trial)] = trial
            if not running or why.startswith("stopped"):
                break
            finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                take(running.pop(future), future.result())
    except BrokenProcessPool as error:
        raise RunFolderError("the process of a trial died, perhaps out of memory: use fewer processes") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((pool._processes or {}).values()):
            process.kill()  # on a gentler signal a fit would end early and the trial would continue
    return why or "all trials finished"


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started within ignore Ctrl-C, which the terminal sends to all of them, even while they import."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare() -> None:
    """One thread per trial; Ctrl-C is handled by the study."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _answer(experiment: Experiment, subject: Subject, trial: StudyTrial) -> tuple[Result, float]:
    start = time.perf_counter()
    result = experiment.run(subject, trial)
    return result, time.perf_counter() - start


def _folder(experiment: Experiment, subject: Subject) -> Path:
    plain = f"{experiment.name}-{Path(subject.data).name}-{subject.model}".replace(":", "-")
    return Path("studies") / plain


def _opened(path: Path, experiment: Experiment, subject: Subject) -> tuple[dict[str, Result], str]:
    """Create the folder, or read the results of an earlier call; with the text of `StudyResult.made`."""
    design = json.loads(json.dumps(asdict(experiment)))  # type: ignore[call-overload]  # every experiment is a dataclass
    about = {"experiment": experiment.name, "design": design, **asdict(subject)}
    log = path / RESULTS
    events = read_events(log) if log.exists() else []
    if events:
        first: Mapping[str, Any] = events[0]
        if {name: first.get(name) for name in about} != about:
            raise RunFolderError(
                f"{path} contains another study: {first.get('experiment')} of {first.get('model')} on "
                f"{first.get('data')} with the design {first.get('design')}. Give another folder, or remove it."
            )
        return {event["key"]: event["result"] for event in events if event["kind"] == "trial"}, str(first.get("made"))
    import torch

    here = machine(torch.device("cpu"))
    made = f"Rightbatch {__version__}, {now()[:10]}, {here['cpu']}, torch {here['torch']}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with_start = EventLog(log)
    except OSError as error:
        raise RunFolderError(f"cannot write to {path}: {error.strerror or error}") from error
    with_start.append("study", **about, made=made)
    with_start.close()
    return {}, made


class _TrialProgress:
    """Prints the number of finished trials and the remaining time."""

    def __init__(self, stream: TextIO, planned: int, done: int) -> None:
        self._stream = stream
        self._planned = planned
        self._done = self._before = done
        self._start = time.monotonic()
        self._wide = 0
        if done:
            self._say(f"{done} of {planned} trials already finished", "\n")

    def done(self, key: str) -> None:
        """Count one more finished trial."""
        self._done += 1
        each = (time.monotonic() - self._start) / (self._done - self._before)
        left = f", at most {duration(each * (self._planned - self._done))} left" if self._done < self._planned else ""
        text = f"{self._done} of {self._planned} trials{left}; {key}"
        terminal = self._stream.isatty()
        if terminal or self._done == self._planned or self._done % max(1, self._planned // 10) == 0:
            self._say(text, "\r" if terminal else "\n")

    def end(self, text: str) -> None:
        """Print the last line."""
        self._say(text, "\n")

    def _say(self, text: str, ending: str) -> None:
        self._stream.write(text.ljust(self._wide) + ending)
        self._stream.flush()
        self._wide = len(text) if ending == "\r" else 0
