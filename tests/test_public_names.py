"""What the documentation names can be had as it is written, after `import rightbatch` and nothing else."""

import ast
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import rightbatch

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAM = ("__main__", "cli")  # what the command starts
PACKAGES = [name for name in rightbatch.__all__ if (ROOT / "src" / "rightbatch" / name).is_dir()]

CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
DOTTED = re.compile(r"(?<![\w./-])rightbatch(?:\.[A-Za-z_]\w*)+")
IMPORTED = re.compile(r"^from (rightbatch[\w.]*) import ([\w, ]+)$", re.MULTILINE)

# Names of one part share an interpreter's imports; those of another must do without them.
RESOLVE = """
import json, sys
from importlib import import_module
from itertools import groupby

missing = []
for _, names in groupby(json.load(sys.stdin), lambda name: name.split(".")[1]):
    for module in [module for module in sys.modules if module.partition(".")[0] == "rightbatch"]:
        del sys.modules[module]
    root = import_module("rightbatch")
    for name in names:
        value = root
        try:
            for part in name.split(".")[1:]:
                value = getattr(value, part)
        except AttributeError as error:
            missing.append(f"{name}: {error}")
print(json.dumps(missing))
"""


def names_in(text: str) -> set[str]:
    """The dotted names below rightbatch in a page's code, those that it imports among them."""
    found = set()
    for code in CODE.findall(text):
        found |= set(DOTTED.findall(code))
        for module, names in IMPORTED.findall(code):
            found |= {f"{module}.{name.strip()}" for name in names.split(",")}
    return found


def run(program: str, given: str = "") -> str:
    return subprocess.run(
        [sys.executable, "-c", program], input=given, capture_output=True, text=True, check=True
    ).stdout


def test_names_are_found_in_code_and_only_there() -> None:
    page = (
        "rightbatch.nothing, `rightbatch.data.Source`\n\n```python\nfrom rightbatch.noise import Noise, measure\n"
        "rightbatch.fit(x)\n```\n`pip install rightbatch`, `docs/rightbatch.md`\n"
    )
    assert names_in(page) == {
        "rightbatch.data.Source",
        "rightbatch.fit",
        "rightbatch.noise",
        "rightbatch.noise.Noise",
        "rightbatch.noise.measure",
    }


def test_every_name_in_the_documentation_resolves() -> None:
    names = sorted(set().union(*(names_in(page.read_text(encoding="utf-8")) for page in PAGES)))
    assert "rightbatch.fit" in names and len(names) > 10
    assert json.loads(run(RESOLVE, json.dumps(names))) == []


@pytest.mark.parametrize("name", rightbatch.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(rightbatch, name) is not None


@pytest.mark.parametrize("name", PACKAGES)
def test_what_a_package_exports_exists(name: str) -> None:
    package = import_module(f"rightbatch.{name}")
    assert [inner for inner in getattr(package, "__all__", ()) if not hasattr(package, inner)] == []


def test_fit_is_the_function_whatever_was_imported_before() -> None:
    program = (
        "import rightbatch.fitting.training, rightbatch; print(callable(rightbatch.fit), rightbatch.fitting.__name__)"
    )
    assert run(program).split() == ["True", "rightbatch.fitting"]


def test_the_package_alone_loads_no_torch_and_no_numpy() -> None:
    assert run("import sys, rightbatch; print({'torch', 'numpy'} & {*sys.modules})").strip() == "set()"


def test_what_is_not_public_says_so() -> None:
    quiet = []
    for module in pkgutil.iter_modules(rightbatch.__path__):
        if module.name in (*rightbatch.__all__, *PROGRAM) or module.name.startswith("_"):
            continue
        path = ROOT / "src" / "rightbatch" / module.name
        source = path / "__init__.py" if module.ispkg else path.with_suffix(".py")
        stated = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        if not stated.startswith("Internal:"):
            quiet.append(module.name)
    assert quiet == []


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert rightbatch.__version__ == project["version"]
