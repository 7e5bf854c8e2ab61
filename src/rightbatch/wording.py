"""Internal: settings in messages, as the user of the present interface writes them.

A message that advises `text='codes'` in Python advises `--text codes` on the command line.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from shlex import quote

FLAGS = {"target": "target-column", "data": "data"}  # parameters whose flag has another name

_flags: ContextVar[bool] = ContextVar("flags", default=False)


@contextmanager
def command_line() -> Iterator[None]:
    """Within, messages name flags instead of keyword arguments."""
    token = _flags.set(True)
    try:
        yield
    finally:
        _flags.reset(token)


def counted(number: int, what: str) -> str:
    """A number of things, such as "1 row" or "1,200 rows"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def setting(name: str, value: object = ..., column: str | None = None) -> str:
    """Return a setting as it is written in the present interface.

    Args:
        name: of the parameter in Python.
        value: its value; without one, a placeholder.
        column: the column of a table that the value is for, where the setting differs by column.

    Example:
        >>> setting("text", "codes"), setting("text", "drop", "id"), setting("target")
        ("text='codes'", "text={'id': 'drop'}", 'target=...')
        >>> with command_line():
        ...     setting("text", "codes"), setting("text", "drop", "id"), setting("target")
        ('--text codes', '--text id=drop', '--target-column NAME')
    """
    if not _flags.get():
        return f"{name}={'...' if value is ... else repr(value if column is None else {column: value})}"
    flag = f"--{FLAGS.get(name, name.replace('_', '-'))}"
    if value is ...:
        return f"{flag} NAME"
    if value is False:
        return f"--no-{name.replace('_', '-')}"
    plain = str(value) if column is None else f"{column}={value}"
    return f"{flag} {'TAB' if plain == chr(9) else quote(plain)}"
