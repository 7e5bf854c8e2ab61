"""Hold the sizes that files, classes and functions of the package keep to; `make check` runs this.

A class's attributes are the fields of a dataclass, the names assigned in the class body, and whatever its methods
assign to `self`; its properties and methods are not counted, nor what it inherits.

Usage: python tools/check_limits.py [folder ...]
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAX_FILE_LINES = 500
MIN_FILE_LINES = 25
MAX_CLASS_LINES = 300
MAX_ATTRIBUTES = 20
MAX_FUNCTION_LINES = 80
MAY_BE_SHORT = ("__init__.py", "__main__.py", "_version.py")


class Violation(NamedTuple):
    """A place that exceeds a limit."""

    path: Path
    line: int
    what: str

    def __str__(self) -> str:
        """`path:line: what, limit`."""
        return f"{self.path}:{self.line}: {self.what}"


def violations(folders: list[Path]) -> list[Violation]:
    """All that exceeds a limit in the sources below these folders."""
    found: list[Violation] = []
    homes: dict[str, str] = {}
    for path in sorted(file for folder in folders for file in folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        found += [*_file(path, len(text.splitlines())), *_definitions(path, tree)]
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                home = homes.setdefault(node.name, f"{path}:{node.lineno}")
                if home != f"{path}:{node.lineno}":
                    found.append(Violation(path, node.lineno, f"class {node.name} is also in {home}, limit one"))
    return found


def _file(path: Path, lines: int) -> Iterator[Violation]:
    if lines > MAX_FILE_LINES:
        yield Violation(path, 1, f"the file has {lines} lines, limit {MAX_FILE_LINES}")
    if lines < MIN_FILE_LINES and path.name not in MAY_BE_SHORT:
        yield Violation(path, 1, f"the file has {lines} lines, at least {MIN_FILE_LINES}: fold it into its user")


def _definitions(path: Path, tree: ast.Module) -> Iterator[Violation]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            lines, names = _lines(node), attributes(node)
            if lines > MAX_CLASS_LINES:
                yield Violation(path, node.lineno, f"class {node.name} has {lines} lines, limit {MAX_CLASS_LINES}")
            if len(names) > MAX_ATTRIBUTES:
                yield Violation(
                    path, node.lineno, f"class {node.name} has {len(names)} attributes, limit {MAX_ATTRIBUTES}"
                )
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _lines(node) > MAX_FUNCTION_LINES:
            yield Violation(
                path, node.lineno, f"function {node.name} has {_lines(node)} lines, limit {MAX_FUNCTION_LINES}"
            )


def attributes(node: ast.ClassDef) -> set[str]:
    """The names of a class's attributes, as the module's docstring counts them."""
    names = set()
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            names |= _of_self(statement)
        elif isinstance(statement, ast.AnnAssign | ast.Assign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names - {"__slots__", "__match_args__"}


def _of_self(method: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    if not method.args.args:
        return set()
    first = method.args.args[0].arg
    return {
        node.attr
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == first
    }


def _lines(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From its first line, decorators apart, to its last."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def main(arguments: list[str]) -> int:
    """Print every violation; 1 if there are any."""
    found = violations([Path(argument) for argument in arguments or ["src"]])
    for violation in found:
        print(violation)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
