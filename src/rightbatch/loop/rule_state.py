"""A rule's state, back from the plain types that a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any


def restored(sample: Any, fields: Mapping[str, Any]) -> Any:
    """A state dataclass like `sample` from the plain fields that `asdict` made of one; nested ones included."""
    values = {}
    for name, value in fields.items():
        old = getattr(sample, name)
        values[name] = (
            restored(old, value) if isinstance(value, dict) and hasattr(old, "__dataclass_fields__") else value
        )
    return replace(sample, **values)
