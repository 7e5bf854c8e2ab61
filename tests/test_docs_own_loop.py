"""The page on one's own loop: each of its blocks runs, and each error that it lists is raised."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rightbatch
from rightbatch import AutoBatch

PAGE = (Path(__file__).parents[1] / "docs" / "own-loop.md").read_text(encoding="utf-8")
SECTIONS = [
    (title, block)
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
]
COUPLED = next(block for title, block in SECTIONS if title.startswith("Losses that couple"))
PRINTED = {"Learning rates": "[0.05, 0.5]", "Habits": "4 micro-batches of 256", "Checkpoints": "4 128 64 0.05"}


def given() -> dict[str, Any]:
    """What the page takes for granted."""
    torch.manual_seed(0)
    x = torch.randn(256, 10)
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3))
    return {
        "torch": torch,
        "nn": nn,
        "F": F,
        "rightbatch": rightbatch,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5),
        "train": (x, x[:, :3].argmax(1)),
    }


@pytest.mark.parametrize("place", range(len(SECTIONS)), ids=[title for title, _ in SECTIONS])
def test_block(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = given()
    with pytest.warns(UserWarning, match="micro_batch=") if SECTIONS[place][1] == COUPLED else nullcontext():
        exec(compile(SECTIONS[place][1], "docs/own-loop.md", "exec"), names)
    loops = [value for value in names.values() if isinstance(value, AutoBatch)]
    assert loops and all(auto.steps for auto in loops if "backward" in SECTIONS[place][1])


def test_what_the_page_says_is_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for start, text in PRINTED.items():
        for title, block in SECTIONS:
            if title.startswith(start) and "print(" in block:
                exec(compile(block, "docs/own-loop.md", "exec"), given())
        assert text in capsys.readouterr().out


SETTINGS: dict[str, Callable[[nn.Module, torch.optim.Optimizer], dict[str, Any]]] = {
    "`clip_norm=` and `clip_value=`": lambda model, optimizer: {"clip_norm": 1.0, "clip_value": 1.0},
    "`lr=` a torch scheduler": lambda model, optimizer: {"lr": torch.optim.lr_scheduler.StepLR(optimizer, 3)},
    "a learning rate of 0 in every group": lambda model, optimizer: {
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.0)
    },
    "an optimizer that needs a closure, such as `torch.optim.LBFGS`": lambda model, optimizer: {
        "optimizer": torch.optim.LBFGS(model.parameters())
    },
    "complex parameters": lambda model, optimizer: {
        "model": (wave := nn.Linear(10, 3, dtype=torch.complex64)),
        "optimizer": torch.optim.SGD(wave.parameters()),
    },
    "lazy parameters without a shape": lambda model, optimizer: {"model": nn.LazyLinear(3)},
    "`len(auto)` of a batch size that changes": lambda model, optimizer: {"batch_size": "big-batch"},
}
LINES = {
    "`loss.backward()` before `auto.backward(loss)`": "loss.backward(); auto.backward(loss)",
    "`loss.backward()` in place of `auto.backward(loss)`": "loss.backward(); auto.step()",
    "`optimizer.step()` before `auto.step()`": "auto.backward(loss); optimizer.step()",
    "`clip_grad_norm_` of torch before `auto.step()`": (
        "auto.backward(loss); nn.utils.clip_grad_norm_(model.parameters(), 1e-3); auto.step()"
    ),
    "`optimizer.zero_grad()` before `auto.step()`": "auto.backward(loss); optimizer.zero_grad(); auto.step()",
    "no `auto.step()`": "auto.backward(loss)",
    "`continue` without `auto.skip()`": "if auto.steps == 0: auto.backward(loss); auto.step()",
    "`continue` without `auto.skip()` at the last micro-batch": (
        "if auto.samples < 192: auto.backward(loss); auto.step()"
    ),
    "`auto.backward(scaler.scale(loss))`": "auto.backward(torch.amp.GradScaler('cpu').scale(loss))",
    "a second optimizer over the same parameters": (
        "auto.backward(loss); torch.optim.SGD(model[0].parameters(), lr=0.1).step()"
    ),
    "`auto.backward(loss)` twice": "auto.backward(loss); auto.backward(loss)",
    "a loss for each sample": "auto.backward(F.cross_entropy(model(x), y, reduction='none'))",
    "a loss under `torch.no_grad()`": "auto.backward(loss.detach())",
    "`weight=-1`": "auto.backward(loss, weight=-1)",
}
LOOP = "for x, y in auto: auto.backward(F.cross_entropy(model(x), y)); auto.step()"
PROGRAMS = {
    'weights set by the program under `lr="schedule-free"`': f"""
auto = rightbatch.AutoBatch(model, None, train, 64, "schedule-free")
{LOOP}
torch.no_grad()(model[0].weight.zero_)()
{LOOP}
""",
    "a data set that changes its length": f"""
samples = list(zip(*train))
auto = rightbatch.AutoBatch(model, optimizer, torch.utils.data.Subset(samples, indices := list(range(256))), 64)
{LOOP}
indices.pop()
{LOOP}
""",
    "`clip_value=` with sparse gradients": f"""
train = torch.arange(256)[:, None] % 9, train[1]
model = nn.Sequential(nn.Embedding(9, 3, sparse=True), nn.Flatten())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
auto = rightbatch.AutoBatch(model, optimizer, train, 64, clip_value=0.5)
{LOOP}
""",
}
ERRORS = dict(re.findall(r"^\| ([^|]+?) \| `(\w*Error)` \|", PAGE, re.MULTILINE))


def test_the_errors_listed_are_those_tried() -> None:
    assert list(ERRORS) == [*LINES, *PROGRAMS, *SETTINGS]


@pytest.mark.filterwarnings("ignore:The parameters had gradients before")  # as they have before one of the errors
@pytest.mark.parametrize("line", LINES)
def test_line(line: str) -> None:
    names = given()
    names["auto"] = AutoBatch(names["model"], names["optimizer"], names["train"], 64)
    body = f"for x, y in auto:\n    loss = F.cross_entropy(model(x), y)\n    {LINES[line]}\n"
    with pytest.raises(rightbatch.RightbatchError) as caught:
        exec(body, names)
    assert type(caught.value).__name__ == ERRORS[line]


@pytest.mark.parametrize("line", PROGRAMS)
def test_program(line: str) -> None:
    with pytest.raises(rightbatch.RightbatchError) as caught:
        exec(PROGRAMS[line], given())
    assert type(caught.value).__name__ == ERRORS[line]


WARNED = {
    "gradients beside": "F.cross_entropy(model(x), y).backward(); auto.backward(F.cross_entropy(model(x), y))",
    "hooks": "model[0].weight.register_hook(lambda g: g.clamp(-1, 1)); auto.backward(F.cross_entropy(model(x), y))",
}


@pytest.mark.parametrize("line", WARNED)
def test_warned_of_once(line: str) -> None:
    names = given()
    names["auto"] = AutoBatch(names["model"], names["optimizer"], names["train"], 64, micro_batch=32)
    with pytest.warns(UserWarning) as caught:
        exec(f"for x, y in auto: {WARNED[line]}; auto.step()", names)
    assert len(caught) == 1


@pytest.mark.parametrize("line", SETTINGS)
def test_setting(line: str) -> None:
    names = given()
    settings = {"model": names["model"], "optimizer": names["optimizer"], "train": names["train"], "batch_size": 64}
    with pytest.raises((rightbatch.RightbatchError, TypeError)) as caught:
        auto = AutoBatch(**settings | SETTINGS[line](names["model"], names["optimizer"]))
        len(auto)
    assert type(caught.value).__name__ == ERRORS[line]
