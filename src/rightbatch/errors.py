"""The exceptions that Rightbatch raises.

    RightbatchError
    ├── InputError (ValueError)      an invalid argument: data, model, loss, setting or path
    │   └── DataError                invalid samples: shape, type, missing values, file format
    ├── UnsupportedError (TypeError) not defined, or not implemented, for this model or rule
    ├── RunFolderError (OSError)     the run folder is not writable, or already contains a run
    │   └── DamagedFileError         a file in it is truncated or corrupted
    ├── OutOfMemoryError (MemoryError)  even the smallest forward pass does not fit into memory
    ├── TraceError (RuntimeError)     running the model changed state that must not change
    ├── DivergedError (ArithmeticError)  training diverged repeatedly and was stopped
    └── MissingExtraError (ImportError)  an optional dependency is missing; the message names the extra to install

Each message states, in one or two sentences, what was given, what is allowed and what to do.
"""


class RightbatchError(Exception):
    """Base class of all Rightbatch exceptions."""


class InputError(RightbatchError, ValueError):
    """An argument is invalid."""


class DataError(InputError):
    """The samples are invalid."""


class UnsupportedError(RightbatchError, TypeError):
    """The requested quantity is not defined, or not implemented, for this model or rule."""


class RunFolderError(RightbatchError, OSError):
    """The run folder is not writable, or already contains a run."""


class DamagedFileError(RunFolderError):
    """A file in the run folder is truncated or corrupted."""


class OutOfMemoryError(RightbatchError, MemoryError):
    """Even the smallest forward pass, one sample or two, does not fit into memory."""


class TraceError(RightbatchError, RuntimeError):
    """Running the model changed state that must not change while it is probed."""


class DivergedError(RightbatchError, ArithmeticError):
    """Training diverged repeatedly and was stopped."""


class MissingExtraError(RightbatchError, ImportError):
    """An optional dependency is missing."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}': pip install 'rightbatch[{extra}]'")
