"""The live view: silent when told, plain lines without a terminal, a table with one."""

import builtins
import io
import re
from typing import Any

import pytest
from rich.console import Console

from rightbatch.report import Progress
from rightbatch.report.terminal import table

ROW = {
    "step": 120,
    "samples": 30_000,
    "epoch": 0.5,
    "seconds": 12.0,
    "batch_size": 256,
    "lr": 0.0123,
    "train_loss": 0.4321,
    "noise_scale": 812.0,
    "noise_low": 500.0,
    "noise_high": 1333.0,
}
VALID = {"step": 120, "epoch": 0.5, "seconds": 12.0, "valid_loss": 0.3812, "valid_accuracy": 0.872, "best": True}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("rightbatch.report.terminal.time.monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "xterm-256color")
    return now


def test_silence() -> None:
    stream = Terminal()
    progress = Progress(False, stream)
    progress.begin(100, None, "a run")
    progress.step(ROW)
    progress.evaluation(VALID)
    progress.note("why")
    progress.end("done")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("mode", [None, True])
def test_plain_lines_without_a_terminal(clock: list[float], mode: bool | None) -> None:
    stream = io.StringIO()
    progress = Progress(mode, stream)
    progress.begin(60_000, None, "digits, mlp")
    for second in range(13):
        clock[0] += 1
        progress.step({**ROW, "step": second})
        if second == 7:
            progress.note("the noise scale has grown")
        if second == 8:
            progress.evaluation(VALID)
    progress.end("done: report.html")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "digits, mlp"
    assert lines[-1] == "done: report.html"
    assert [line for line in lines if "valid loss" in line] == [
        " 50 % |     12 s | epoch 0.50 | step 120 | loss 0.4321 | batch 256 | noise scale 812 | learning rate 0.0123 | "
        "valid loss 0.3812 | accuracy 87.2 % | best so far"
    ]
    assert sum("the noise scale has grown" in line for line in lines) == 1
    assert 4 <= len(lines) <= 7
    assert "\x1b" not in stream.getvalue()


def test_a_table_on_a_terminal_and_the_cursor_given_back(clock: list[float]) -> None:
    stream = Terminal()
    progress = Progress(None, stream)
    progress.begin(60_000, 24.0, "digits, mlp")
    for _ in range(50):
        clock[0] += 0.05
        progress.step(ROW)
    written = stream.getvalue()
    progress.end("done")
    progress.end("again")
    assert "\x1b[?25l" in written and stream.getvalue().count("\x1b[?25h") == 1
    assert stream.getvalue().endswith("done\n")
    assert written.count("digits, mlp") <= 14  # five a second over two and a half seconds, and the first


def test_ctrl_c_gives_the_cursor_back(clock: list[float]) -> None:
    stream = Terminal()
    progress = Progress(None, stream)
    with pytest.raises(KeyboardInterrupt):
        try:
            progress.begin(None, None, "a run")
            progress.step(ROW)
            raise KeyboardInterrupt
        finally:
            progress.end("stopped")
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")


def test_without_rich_or_on_a_dumb_terminal_the_lines_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_rich(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "rich":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    def shown() -> str:
        stream = Terminal()
        progress = Progress(None, stream)
        progress.begin(None, None, "a run")
        progress.step(ROW)
        progress.end("done")
        return stream.getvalue()

    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in shown() and "epoch 0.50" in shown()
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" in shown()
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without_rich)
        text = shown()
    assert "\x1b" not in text and "epoch 0.50" in text


@pytest.mark.parametrize("width", [20, 36, 54, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    progress = Progress(False)
    progress.begin(60_000, None, "a rather long title of a run on some data, 535,818 parameters")
    progress.step(ROW)
    progress.evaluation(VALID)
    progress.note("the noise scale is 812 and n½ is 45, so the sweet spot is 191: the batch grows from 128 to 191")
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table(progress, width))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    text = re.sub(r"\s+", " ", " ".join(lines))
    assert "0.4321" in text and "256" in text
    assert len(lines) <= (6 if width >= 81 else 14)


def test_time_left_counts_from_where_a_resumed_run_began(clock: list[float]) -> None:
    progress = Progress(None, io.StringIO())
    progress.begin(1000, None, "a run")
    progress.step({**ROW, "samples": 500})
    assert progress.left_s != progress.left_s  # unknown
    clock[0] += 10
    progress.step({**ROW, "samples": 600})
    assert (progress.share, round(progress.left_s, 6)) == (0.6, 40.0)


def test_the_nearer_of_two_budgets_counts() -> None:
    progress = Progress(False)
    progress.begin(60_000, 48.0, "a run")
    progress.step(ROW)
    assert progress.share == 0.5


def test_hundreds_of_evaluations_a_second_are_not_hundreds_of_lines(clock: list[float]) -> None:
    stream = io.StringIO()
    progress = Progress(None, stream)
    progress.begin(None, None, "a run")
    for _ in range(400):
        clock[0] += 0.01
        progress.evaluation(VALID)
    assert 8 <= stream.getvalue().count("valid loss") <= 9


def test_a_budget_of_seconds_is_used_up_by_evaluations_too(clock: list[float]) -> None:
    """Of 48 seconds on the wall 12 were used before a resume and 24 since, of which the step tells 12 of training."""
    progress = Progress(None, io.StringIO())
    progress.begin(None, 48.0, "a run", used_s=12.0)
    progress.step({**ROW, "seconds": 0.1})
    clock[0] += 24
    progress.step({**ROW, "seconds": 12.0})
    assert (progress.share, round(progress.left_s, 6)) == (0.75, 12.0)


def test_a_closed_stream_does_not_end_the_run() -> None:
    stream = io.StringIO()
    progress = Progress(None, stream)
    progress.begin(None, None, "a run")
    stream.close()
    progress.step(ROW)
    progress.evaluation(VALID)
    progress.end("done")


def test_letters_the_stream_cannot_write_are_replaced() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    progress = Progress(None, stream)
    progress.begin(None, None, "n½ unknown")
    progress.end("done →")
    assert raw.getvalue() == b"n? unknown\ndone ?\n"


def test_a_stale_noise_scale_says_so(clock: list[float]) -> None:
    for age, said in ((5120, True), (0, False), (None, False)):
        stream = Terminal()
        progress = Progress(None, stream)
        progress.begin(60_000, 24.0, "digits, mlp")
        clock[0] += 1
        progress.step({**ROW, "noise_age_samples": age})
        progress.end("done")
        assert ("5,120 samples ago" in stream.getvalue()) is said
