"""No module of the package imports itself by way of others, wherever the imports stand."""

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "src"


def modules(root: Path, package: str) -> dict[str, Path]:
    """The modules of a package below `root`: dotted name -> file."""
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The package's modules that one module imports: at its top, in functions, under TYPE_CHECKING."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                # What is no module of its own is a name of the package's __init__.
                inner = f"{base}.{alias.name}"
                yield from (target for target in [inner if inner in known else base] if target in known)


def import_graph(root: Path, package: str) -> dict[str, set[str]]:
    """Each module of the package below `root` and the modules of the package that it imports."""
    known = modules(root, package)
    return {name: {*imports(name, path, known)} - {name} for name, path in known.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The sets of more than one module of which each imports every other, directly or by way of others."""
    reached = {name: _reach(name, graph) for name in graph}
    groups = {tuple(sorted(other for other in reached[name] if name in reached[other])) for name in graph}
    return sorted(list(group) for group in groups if len(group) > 1)


def _reach(start: str, graph: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        new = graph[ahead.pop()] - seen
        seen |= new
        ahead += new
    return seen


def write(root: Path, **sources: str) -> None:
    for name, text in sources.items():
        path = root / "house" / f"{name.replace('__in__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_the_package_has_no_import_circle() -> None:
    assert circles(import_graph(SOURCES, "rightbatch")) == []


def test_a_circle_is_found_wherever_its_imports_stand(tmp_path: Path) -> None:
    write(
        tmp_path,
        __init__="",
        cellar="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .floor.hall import Hall\n",
        floor__in____init__="",
        floor__in__hall="def stairs():\n    from ..roof import tiles\n",
        roof="import house.cellar\nfrom . import garden\n",
        garden="",
    )
    assert circles(import_graph(tmp_path, "house")) == [["house.cellar", "house.floor.hall", "house.roof"]]


def test_a_package_that_imports_its_modules_is_no_circle(tmp_path: Path) -> None:
    write(tmp_path, __init__="from .hall import Hall\n", hall="from .roof import tiles\n", roof="import house.hall2\n")
    assert circles(import_graph(tmp_path, "house")) == []


def test_a_module_that_imports_from_its_own_package_is_one(tmp_path: Path) -> None:
    write(tmp_path, __init__="from .hall import Hall\n", hall="from . import name\n")
    assert circles(import_graph(tmp_path, "house")) == [["house", "house.hall"]]
