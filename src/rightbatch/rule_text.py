"""Internal: rules as text: "sweet-spot", "fixed(64)", "big-batch(kappa=3, growth=0.2)", and back."""

import ast
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from .errors import InputError

Rule = TypeVar("Rule")
FORM = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)


def read_rule(text: str, rules: Mapping[str, type[Rule]], kind: str, named: str | None = None) -> Rule:
    """Build the rule that a text names.

    Args:
        text: a name, or a name with settings in parentheses, written as in a call; the values are literals.
        rules: the classes by name.
        kind: what the rules decide, for messages, such as "batch_size".
        named: the setting that is the name itself, where one class goes by several names.

    Returns:
        The rule, its settings checked by its own class.

    Raises:
        InputError: unknown name (near ones are suggested), unknown setting, unreadable or missing value.
    """
    form, name = FORM.fullmatch(text), rule_name(text)
    if form is None or name is None:
        raise InputError(f"{kind}={text!r} cannot be read: give {_names(rules)}, with settings as in name(key=value).")
    settings = form[2] or ""
    rule = rules.get(name)
    if rule is None:
        what, number = ("rule", ", or a number") if named is None else (named, "")
        raise InputError(f"{kind}={text!r} names no {what}{_nearest(name, rules)}: give {_names(rules)}{number}.")
    known = {field.name: field for field in _fields(rule) if field.name != named}
    values, keywords = _literals(text, settings, kind)
    if len(values) > len(known):
        raise InputError(f"{kind}={text!r} gives {len(values)} values: {name!r} has only {_names(known)}.")
    given = dict(zip(known, values, strict=False))
    for key, value in keywords:
        if key not in known:
            allowed = _names(known) if known else "none"
            raise InputError(f"{kind}={text!r} sets {key!r}{_nearest(key, known)}: {name!r} knows {allowed}.")
        if key in given:
            raise InputError(f"{kind}={text!r} sets {key!r} twice: give it once.")
        given[key] = value
    missing = [field.name for field in known.values() if field.name not in given and _required(field)]
    if missing:
        raise InputError(f"{kind}={text!r} lacks {_names(missing)}: write {name}({missing[0]}=...).")
    try:
        return rule(**given) if named is None else rule(**{named: name, **given})
    except TypeError as error:
        raise InputError(f"{kind}={text!r} has a setting of the wrong type: {error}.") from error


def rule_name(text: str) -> str | None:
    """The name that a text gives, as it is registered; None if the text cannot be read."""
    form = FORM.fullmatch(text)
    return form and form[1].lower().replace("_", "-")


def number_in(text: str) -> float | None:
    """The number a text consists of, whole where it is written so; None if it is no number."""
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return None


def write_rule(rule: Any, named: str = "name") -> str:
    """The text that builds `rule` again: its name and the settings that differ from the defaults; see `read_rule`."""
    settings = [
        f"{field.name}={_written(value)!r}"
        for field in _fields(type(rule))
        if field.name != named and (value := getattr(rule, field.name)) != _default(field)
    ]
    name = str(getattr(rule, named))
    return f"{name}({', '.join(settings)})" if settings else name


def _written(value: Any) -> Any:
    """A setting as a literal: of a rule within a rule its text."""
    return write_rule(value) if is_dataclass(value) and hasattr(value, "name") else value


def _literals(text: str, settings: str, kind: str) -> tuple[list[Any], list[tuple[str | None, Any]]]:
    try:
        call = ast.parse(f"rule({settings})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError
        values = [ast.literal_eval(node) for node in call.args]
        return values, [(node.arg, ast.literal_eval(node.value)) for node in call.keywords]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise InputError(
            f"{kind}={text!r} has settings that cannot be read: write key=value with plain numbers or quoted words."
        ) from None


def _fields(rule: type[Any]) -> list[Field[Any]]:
    return [field for field in fields(rule) if field.init]


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _names(names: Mapping[str, Any] | list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _nearest(name: str | None, names: Mapping[str, Any]) -> str:
    near = get_close_matches(str(name), list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
