"""Options as fields of a dataclass, and the parser built from them."""

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, Field, field
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and exit with code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def option(default: Any, help: str, **argument: Any) -> Any:
    """A field that is an option: its default, its help and further arguments of `add_argument`."""
    return field(default=default, metadata={"help": help, **argument})


def add_argument(parser: argparse.ArgumentParser, item: Field[Any]) -> None:
    """Add the option that a field describes; its help ends with the default unless it says so itself."""
    argument: dict[str, Any] = dict(item.metadata)
    positional = argument.pop("positional", False)
    default = item.default
    if default is False:
        argument["action"] = "store_true"
    elif default not in (None, MISSING) and "(default:" not in argument["help"]:
        plain = " ".join(map(str, default)) if isinstance(default, Sequence) and not isinstance(default, str) else None
        argument["help"] += " (default: %(default)s)" if plain is None else f" (default: {plain})"
    if default is not MISSING:
        argument["default"] = default
    parser.add_argument(item.name if positional else "--" + item.name.replace("_", "-"), **argument)


def summary(described: Any) -> str:
    """The first line of the documentation of a class or function, without its full stop."""
    return (described.__doc__ or "").strip().partition("\n")[0].rstrip(".")


def print_section(title: str, entries: dict[str, str]) -> None:
    """Print a title and its entries, each with its name in full and one line of text."""
    print(title)
    width = max(map(len, entries)) + 2
    for name, line in entries.items():
        print(f"  {name:<{width}}{line}")
