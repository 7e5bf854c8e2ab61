"""Rightbatch: mini-batch size and step size worked out from what is measured.

The names below are imported at first use, so that `import rightbatch` and the command line's help load no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import (
    DataError,
    DivergedError,
    InputError,
    MissingExtraError,
    OutOfMemoryError,
    RightbatchError,
    RunFolderError,
    TraceError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from . import data, noise, rules
    from .fitting import fit
    from .loop import AutoBatch
    from .noise import measure
    from .probing import find_lr, probe


__all__ = [
    "AutoBatch",
    "DataError",
    "DivergedError",
    "InputError",
    "MissingExtraError",
    "OutOfMemoryError",
    "RightbatchError",
    "RunFolderError",
    "TraceError",
    "UnsupportedError",
    "__version__",
    "data",
    "find_lr",
    "fit",
    "measure",
    "noise",
    "probe",
    "rules",
]

_HOME = {
    "AutoBatch": "loop",
    "find_lr": "probing",
    "fit": "fitting",
    "measure": "noise",
    "probe": "probing",
}
_PACKAGES = ("data", "noise", "rules")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif name in _PACKAGES:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
