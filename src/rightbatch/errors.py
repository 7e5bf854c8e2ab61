"""Every error Rightbatch raises on purpose.

    RightbatchError
    ├── InputError (ValueError)      what was given cannot be used: data, model, loss, settings, paths
    │   └── DataError                the samples themselves: shapes, types, missing values, formats
    ├── UnsupportedError (TypeError) the quantity asked for is not defined, or not available, for this model or rule
    ├── RunFolderError (OSError)     the run folder cannot be written, or already holds a run
    │   └── DamagedFileError         a file in it is not what was written
    ├── OutOfMemoryError (MemoryError)  the smallest pass, one sample or two, does not fit into memory
    ├── TraceError (RuntimeError)     probing found something changed that it must leave as it was
    ├── DivergedError (ArithmeticError)  training diverged again and again and was stopped
    └── MissingExtraError (ImportError)  an optional dependency is needed; the message says what to install

A message says what was given, what is allowed and what to do, in one or two sentences.
"""


class RightbatchError(Exception):
    """The root of all errors raised on purpose."""


class InputError(RightbatchError, ValueError):
    """Something given by the caller cannot be used."""


class DataError(InputError):
    """The samples cannot be used as they are."""


class UnsupportedError(RightbatchError, TypeError):
    """A quantity is not defined, or not available, for this model or rule."""


class RunFolderError(RightbatchError, OSError):
    """The run folder cannot be written, or already holds a run."""


class DamagedFileError(RunFolderError):
    """A file in the run folder is cut short or altered."""


class OutOfMemoryError(RightbatchError, MemoryError):
    """Memory runs out over the smallest pass there is, of one sample or two, so that smaller ones cannot help."""


class TraceError(RightbatchError, RuntimeError):
    """Something that probing must leave as it was has been changed while it ran."""


class DivergedError(RightbatchError, ArithmeticError):
    """Training diverged again and again and was stopped."""


class MissingExtraError(RightbatchError, ImportError):
    """An optional dependency is needed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}': pip install 'rightbatch[{extra}]'")
