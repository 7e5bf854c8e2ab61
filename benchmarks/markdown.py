"""Pages of results: what was measured, on what machine, when."""

import os
import platform
import subprocess
from datetime import date
from pathlib import Path

import torch

import rightbatch
from rightbatch.fitting.recorder import machine as describe


def machine() -> str:
    """The machine, the versions and the date, in one line."""
    facts = describe(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return (
        f"Measured {date.today().isoformat()} on {facts['cpu']} ({facts['cores']} cores, shared), "
        f"device {facts['device']}, {platform.system()}, Python {facts['python']}, torch {facts['torch']}, "
        f"{torch.get_num_threads()} thread(s), "
        f"rightbatch {rightbatch.__version__} at {_revision()}."
    )


def write_page(path: Path, about: str, lines: list[str], marker: str) -> None:
    """Replace what a page holds between `<!-- marker -->` and `<!-- /marker -->` by a table and leave the rest."""
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    table = "\n".join([begin, *lines, "", machine(), end])
    text = (
        path.read_text(encoding="utf-8") if path.exists() else f"# {path.stem}\n\n{about.strip()}\n\n{begin}\n{end}\n"
    )
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    head, rest = text.split(begin, 1)
    path.write_text(head + table + rest.split(end, 1)[1], encoding="utf-8")


def _revision() -> str:
    root = Path(__file__).resolve().parents[1]
    git = ["git", "-C", os.fspath(root), "rev-parse", "--short", "HEAD"]
    answer = subprocess.run(git, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "an unknown revision"
