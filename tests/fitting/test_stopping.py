"""What a run may spend, what it aims at, and Ctrl-C."""

import math
import os
import signal
import threading
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import InputError, fit
from rightbatch.fitting import Run
from rightbatch.fitting.stopping import (
    DEFAULT_PATIENCE,
    EPOCHS_WITHOUT_VALIDATION,
    MOST_EPOCHS_BY_DEFAULT,
    Budget,
    Interruption,
)


def of(validates: bool = True, **given: Any) -> Budget:
    return Budget.of(
        given.get("epochs"), given.get("seconds"), given.get("stop_at"), given.get("patience"), validates
    )  # fmt: skip


def test_defaults_hold_only_where_nothing_is_said() -> None:
    assert of(True) == Budget(epochs=MOST_EPOCHS_BY_DEFAULT, patience=DEFAULT_PATIENCE)
    assert of(False) == Budget(epochs=EPOCHS_WITHOUT_VALIDATION)
    assert of(True, epochs=3) == Budget(epochs=3)
    assert of(False, seconds=3.0) == Budget(seconds=3.0)
    assert of(True, patience=2) == Budget(patience=2)
    assert of(True, stop_at={"valid_loss": 0.1}) == Budget(stop_at={"valid_loss": 0.1})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "epochs must be a positive number, got 0"),
        ({"epochs": -2}, "epochs must be a positive number"),
        ({"epochs": True}, "epochs must be a positive number, got True"),
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"seconds": 0.0}, "seconds must be a positive number"),
        ({"seconds": math.nan}, "seconds must be a positive number, got nan"),
        ({"patience": 0}, "patience must be a positive number"),
        ({"stop_at": {"accuracy": 0.9}}, "stop_at knows valid_loss and valid_accuracy .*got 'accuracy': 0.9"),
        ({"stop_at": {"valid_loss": math.nan}}, "with a finite value"),
    ],
)
def test_refusals(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        of(True, **given)


def test_targets_and_patience_need_validation() -> None:
    with pytest.raises(InputError, match="checked on validation data: give valid="):
        of(False, stop_at={"valid_loss": 0.1})
    with pytest.raises(InputError, match="counts evaluations on validation data: give valid="):
        of(False, patience=3)


@pytest.mark.parametrize(
    ("target", "metrics", "reached"),
    [
        ({"valid_loss": 0.5}, {"valid_loss": 0.5}, "target reached: valid_loss 0.5"),
        ({"valid_loss": 0.5}, {"valid_loss": 0.51}, ""),
        ({"valid_accuracy": 0.9}, {"valid_loss": 0.0, "valid_accuracy": 0.89}, ""),
        ({"valid_accuracy": 0.9}, {"valid_accuracy": 0.9}, "target reached: valid_accuracy 0.9"),
        ({"valid_loss": 0.1, "valid_accuracy": 0.9}, {"valid_loss": 0.3, "valid_accuracy": 0.95}, "valid_accuracy"),
        ({"valid_loss": 0.5}, {"valid_loss": math.nan}, ""),
        ({"valid_accuracy": 0.5}, {"valid_loss": 0.1}, ""),
        (None, {"valid_loss": 0.0}, ""),
    ],
)
def test_reached(target: Mapping[str, float] | None, metrics: Mapping[str, float], reached: str) -> None:
    found = Budget(stop_at=target).reached(metrics)
    assert reached in found and bool(found) == bool(reached)


def test_in_words() -> None:
    budget = Budget(3, 60.0, {"valid_loss": 0.25}, 4)
    expected = "3 epochs or 60 seconds or valid_loss 0.25 or 4 evaluations without a better validation loss"
    assert budget.describe() == expected
    assert Budget().describe() == "until interrupted"


def test_the_first_interruption_is_remembered_and_a_later_one_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows within a second is the first one's echo, told by a scheduler and by a parent."""
    clock_s = 0.0
    monkeypatch.setattr("rightbatch.fitting.stopping.monotonic", lambda: clock_s)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    for first, second in product(numbers, numbers):
        interruption = Interruption()
        with pytest.raises(KeyboardInterrupt), interruption.watched():
            assert not interruption.asked
            os.kill(os.getpid(), first)
            assert interruption.asked
            clock_s += 0.9
            os.kill(os.getpid(), second)
            clock_s += 0.2
            os.kill(os.getpid(), second)
            pytest.fail("the second should have raised")
        assert [signal.getsignal(number) for number in numbers] == before


def test_two_signals_at_once_are_one_and_the_run_goes_on_from_there(
    no_report: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As schedulers send them, to the process and to its parent, which passes it on."""
    calls = iter(range(10**6))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if next(calls) == 11:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return F.cross_entropy(output, target)

    def trained(**settings: Any) -> Run:
        x = torch.randn(120, 2, generator=torch.Generator().manual_seed(0))
        settings = {"batch_size": 16, "lr": 0.1, "run_dir": tmp_path, "resume": True, **settings}
        return fit(nn.Linear(2, 3), (x, (x[:, 0] > 0).long()), **settings)

    run = trained(loss=loss, epochs=50, resume=False, progress=False)
    assert run.stopped == "interrupted" and 5 < run.history[-1]["step"] < 9
    trained(epochs=1, progress=True)
    assert f"resumed after step {run.history[-1]['step']}" in capsys.readouterr().err
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (tmp_path / name).unlink(missing_ok=True)
    trained(epochs=1, progress=True)
    assert "restarted: no checkpoint found" in capsys.readouterr().err


def test_whoever_watches_around_is_told_too() -> None:
    outer, inner = Interruption(), Interruption()
    with outer.watched():
        with inner.watched():
            os.kill(os.getpid(), signal.SIGINT)
        assert inner.asked and outer.asked
    with inner.watched():
        pass
    later = Interruption()
    with later.watched():
        assert not later.asked


def test_in_another_thread_nothing_is_touched() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with Interruption().watched():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
