"""The page on the organization of the code names what there is."""

import re
from pathlib import Path

import pytest

from rightbatch.loop import phases

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "rightbatch"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PATHS = sorted(set(re.findall(r"`([\w/]+/|[\w/]+\.(?:py|toml))`", PAGE)))
FIRST_CELL = re.compile(r"^\| (\S+) \|", re.MULTILINE)


@pytest.mark.parametrize("path", PATHS)
def test_every_path_exists(path: str) -> None:
    assert any((folder / path).exists() for folder in (PACKAGE, PACKAGE / "loop", ROOT))


def test_every_folder_and_module_is_named() -> None:
    folders = [path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    named = [f"{folder.relative_to(PACKAGE)}/" for folder in folders if folder.parent.name != "studies"]
    modules = [path.name for path in PACKAGE.glob("*.py") if path.name != "_version.py"]
    assert {*named, *modules} <= {*PATHS}


def test_every_file_of_a_step_is_named() -> None:
    names = {path.name for path in (PACKAGE / "loop").glob("*.py")}
    apart = {"__init__.py", "per_sample.py", "habits.py", "optimizer_settings.py", "distance.py", "snapshot.py"}
    assert {name for name in names - apart if f"`{name}`" not in PAGE and f"`loop/{name}`" not in PAGE} == set()


def test_the_phases_are_those_of_the_code() -> None:
    table = PAGE.partition("| phase |")[2].partition("\n\n")[0]
    code = (phases.__doc__ or "").partition("| phase |")[2].partition("\n\n")[0]
    assert FIRST_CELL.findall(table) == FIRST_CELL.findall(code) != []
