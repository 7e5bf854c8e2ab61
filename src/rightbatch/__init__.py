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
    from . import (
        averages,
        data,
        decision,
        errors,
        fitting,
        loop,
        measurements,
        noise,
        probing,
        record,
        report,
        rules,
        studies,
        testing,
    )
    from .fitting import fit
    from .loop import AutoBatch, Callback, per_sample
    from .noise import measure
    from .probing import find_lr, probe

__all__ = [
    "AutoBatch",
    "Callback",
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
    "averages",
    "data",
    "decision",
    "errors",
    "find_lr",
    "fit",
    "fitting",
    "loop",
    "measure",
    "measurements",
    "noise",
    "per_sample",
    "probe",
    "probing",
    "record",
    "report",
    "rules",
    "studies",
    "testing",
]

_HOME = {
    "AutoBatch": "loop",
    "Callback": "loop",
    "find_lr": "probing",
    "fit": "fitting",
    "measure": "noise",
    "per_sample": "loop",
    "probe": "probing",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif name in __all__:  # what is no function or class above is a module
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
