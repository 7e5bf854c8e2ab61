"""Settings of a wrong type or range, of `fit`, `AutoBatch` and the command line: taken, or refused in words.

Values are tried in every argument in turn. What makes sense nowhere must be refused everywhere, by an error of
Rightbatch and before anything is trained or written; what makes sense somewhere may train.
"""

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rightbatch import AutoBatch, fit
from rightbatch.cli import main
from rightbatch.errors import RightbatchError

SENSELESS: list[Any] = [math.nan, -math.inf, -1, -0.5, "no such thing", b"4", object(), {1: 2}, [], 3 + 4j, np.ones(3)]
DOUBTFUL: list[Any] = [0, 0.0, 1.5, True, "", "0", "5", "auto(", "(", "None", 10**30, math.inf, 1e-320, np.float64(2)]
DOUBTFUL += [torch.tensor(4), torch.ones(2), {"valid_loss": math.nan}, {"valid_loss": "x"}, {}, int, (1, 2, 3), 2**64]
FREE = {"progress", "resume"}  # true or false, which everything is


def problem() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    x = torch.randn(24, 3)
    return nn.Linear(3, 2), (x, (x[:, 0] > 0).long())


def refusal(call: Callable[..., Any], model: nn.Module, *arguments: Any, **settings: Any) -> str:
    """What is said against a call; nothing if it goes through. One refused leaves the model and random numbers."""
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    try:
        call(model, *arguments, **settings)
    except RightbatchError as error:
        assert torch.equal(random, torch.get_rng_state())
        assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
        assert " " in str(error)
        return str(error)
    return ""


def arguments_of(call: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(call).parameters if name not in FREE]


@pytest.mark.parametrize("name", arguments_of(fit))
def test_fit(name: str, tmp_path: Path) -> None:
    for number, value in enumerate([*SENSELESS, *DOUBTFUL]):
        if name == "run_dir" and isinstance(value, str):
            continue
        model, train = problem()
        settings = {"train": train, "batch_size": 8, "lr": 0.1, "valid": 0.25, "seconds": 0.2, "progress": False}
        settings |= {"epochs": 1, "model": model}
        folder = tmp_path / f"{number}"
        if number < len(SENSELESS):
            settings["run_dir"] = folder
        if (callable(value) and name in ("loss", "optimizer")) or (name == "callbacks" and isinstance(value, list)):
            continue
        settings[name] = value
        said = refusal(lambda _, given: fit(**given), model, settings)
        assert not folder.exists()
        assert said or number >= len(SENSELESS), f"{name}={value!r} was taken"


@pytest.mark.parametrize("name", arguments_of(AutoBatch))
def test_auto_batch(name: str) -> None:
    for number, value in enumerate([*SENSELESS, *DOUBTFUL]):
        model, train = problem()
        settings = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.1), "train": train}
        settings |= {"batch_size": 8, name: value}
        said = refusal(lambda _, given: next(iter(AutoBatch(**given))), model, settings)
        assert said or number >= len(SENSELESS), f"{name}={value!r} was taken"


COMMANDS = """\
train --batch-size no-such-rule
train --batch-size 0
train --batch-size -3
train --batch-size 1.5
train --batch-size big-batch(theta=
train --batch-size big-batch(theta=nan)
train --batch-size big-batch(alpha=1)
train --batch-size __import__('os')
train --lr -1
train --lr nan
train --lr armijo(0)
train --epochs 0
train --epochs -2
train --epochs many
train --seconds -1
train --seconds nan
train --seed -1
train --seed 18446744073709551616
train --seed x
train --stop-at valid_loss
train --stop-at valid_loss=low
train --stop-at loss=1
train --stop-at valid_loss=nan
train --patience 0
train --valid 2
train --valid nan
train --valid -0.1
train --eval-every 0
train --eval-every nan
train --micro-batch 0
train --micro-batch -1
train --device nowhere
train --device cuda:99
train --device meta:x
train --model no-such-model
train --model no_such_module:factory
train --model os:getcwd
train --optimizer none
train --noise nonsense
train --noise auto(budget=-1)
train --noise auto(budget=
train --learning-rate 1
train --optimizer sgd --lr -1
train --optimizer sgd --lr nan
train --data no-such-data
train --data .
train --text perhaps
train --resume
train --checkpoint-every 0
report no-such-folder
verify no-such-folder
bench no-such-bench
no-such-command
--no-such-option"""


@pytest.mark.parametrize("line", COMMANDS.split("\n"))
def test_command_line(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIGHTBATCH_TRACEBACK", "1")  # errors that are not Rightbatch's own come through
    try:
        code: Any = main(line.split(" "))
    except SystemExit as end:  # argparse
        code = end.code
    said = capsys.readouterr().err
    assert code == 2 and "rightbatch" in said and " " in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())
