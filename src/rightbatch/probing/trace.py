"""Save, restore and compare everything that a training step can change.

State that running a model normally changes (parameters, gradients, buffers, modes, attributes, random states) is
restored silently. State that it must not change (hooks, submodules, requires_grad, process-wide settings) is restored
too, but raises an error: the measurements then do not belong to one model.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import TraceError
from ..fitting.stopping import Interruption
from ..noise.isolation import devices_of, random_state, set_random_state

REGISTRIES = tuple(name for name, value in vars(nn.Module()).items() if isinstance(value, dict))
CHANGED_BY_RUNNING = ("_buffers",)  # a module may replace its buffers
TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


@dataclass(frozen=True, slots=True)
class TrackedState:
    """One piece of state to save and restore.

    Args:
        name: its name in messages.
        read: returns a copy of its current value.
        write: restores a value that `read` returned.
        quiet: running a model may change it.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    quiet: bool = True


@contextmanager
def leaving_no_trace(model: nn.Module, data: object) -> Iterator[None]:
    """A context in which the model may be trained; afterwards model, random states and data set are restored.

    Covered: parameters, gradients, buffers, hooks, submodules, modes and attributes of every module; attributes of
    `data`; random generators among these and the global ones of torch, NumPy and Python; torch's default dtype, number
    of threads and gradient mode. Not covered: the contents of lists and objects that a hook or a module holds. Ctrl-C
    takes effect after everything is restored.

    Raises:
        TraceError: something changed that must not change, or could not be restored.
    """
    parts = list(_parts(model, data))
    before = [part.read() for part in parts]
    try:
        yield
    except BaseException as error:
        problem = _put_back(parts, before)
        if problem:
            error.add_note(problem)
        raise
    problem = _put_back(parts, before)
    if problem:
        raise TraceError(problem)


def _put_back(parts: list[TrackedState], before: list[Any]) -> str:
    """Restore everything, compare again, and return a message about what should not have changed."""
    interruption = Interruption()
    with interruption.watched():
        changed, stuck = [], []
        for part, value in zip(parts, before, strict=True):
            if not _same(part.read(), value):
                if not part.quiet:
                    changed.append(part.name)
                with suppress(RuntimeError):  # the tensor has another shape now: detected by the comparison below
                    part.write(value)
        stuck = [part.name for part, value in zip(parts, before, strict=True) if not _same(part.read(), value)]
    if interruption.asked:
        raise KeyboardInterrupt
    if stuck:
        return f"Could not restore {_listed(stuck)} after probing: recreate the model before training it."
    if changed:
        return (
            f"Running the model changed {_listed(changed)}. It has been restored, but the measurements are not valid: "
            "remove the hook or the line in forward that causes the change, then probe again."
        )
    return ""


def _parts(model: nn.Module, data: object) -> Iterator[TrackedState]:
    for path, module in model.named_modules():
        name = f"'{path}'" if path else "the model"
        for registry in REGISTRIES:
            contents = vars(module).get(registry)
            if contents is not None:
                quiet = registry in CHANGED_BY_RUNNING
                label = f"{registry.strip('_').replace('_', ' ')} of {name}"
                yield TrackedState(label, partial(dict, contents), partial(_refill, contents), quiet)
        yield from _attributes(module, name)
    if hasattr(data, "__dict__") and not isinstance(data, Tensor | np.ndarray):
        yield from _attributes(data, "the data")
    for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield TrackedState(f"the values of '{path}'", partial(_copy, tensor), partial(_assign, tensor))
    for path, parameter in model.named_parameters():
        yield TrackedState(
            f"the gradient of '{path}'", partial(_gradient, parameter), partial(_set_gradient, parameter)
        )
        trained = f"requires_grad of '{path}'"
        yield TrackedState(trained, partial(getattr, parameter, "requires_grad"), parameter.requires_grad_, quiet=False)
        for kind in TENSOR_HOOKS:
            label = f"hooks on '{path}'"
            yield TrackedState(
                label, partial(_hooks, parameter, kind), partial(_set_hooks, parameter, kind), quiet=False
            )
    devices = devices_of(model)
    yield TrackedState(
        "torch's random state", partial(random_state, *devices), lambda states: set_random_state(states, *devices)
    )
    yield TrackedState("NumPy's random state", np.random.get_state, np.random.set_state)
    yield TrackedState("Python's random state", random.getstate, random.setstate)
    yield TrackedState("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype, quiet=False)
    yield TrackedState("torch's number of threads", torch.get_num_threads, torch.set_num_threads, quiet=False)
    yield TrackedState("torch's gradient mode", torch.is_grad_enabled, _set_grad_mode, quiet=False)


def _attributes(owner: object, name: str) -> Iterator[TrackedState]:
    """The attributes of an object, without its registries, and the states of generators among them."""
    present = vars(owner)

    def read() -> dict[str, Any]:
        return {key: value for key, value in present.items() if key not in REGISTRIES}

    def write(saved: dict[str, Any]) -> None:
        for key in read().keys() - saved.keys():
            del present[key]
        present.update(saved)

    yield TrackedState(f"attributes of {name}", read, write)
    for key, value in present.items():
        if isinstance(value, torch.Generator):
            yield TrackedState(f"generator {key} of {name}", value.get_state, value.set_state)
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator
            yield TrackedState(
                f"generator {key} of {name}", partial(getattr, bits, "state"), partial(setattr, bits, "state")
            )


def _refill(contents: dict[str, Any], saved: dict[str, Any]) -> None:
    contents.clear()  # keep the same dict: hook handles refer to it
    contents.update(saved)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)  # accelerator memory is what is being measured


@torch.no_grad()
def _assign(tensor: Tensor, saved: Tensor) -> None:
    tensor.copy_(saved)


def _gradient(parameter: nn.Parameter) -> dict[str, Any]:
    gradient = parameter.grad
    return {"tensor": gradient, "version": None if gradient is None else gradient._version}


def _set_gradient(parameter: nn.Parameter, saved: dict[str, Any]) -> None:
    parameter.grad = saved["tensor"]


def _hooks(parameter: nn.Parameter, kind: str) -> dict[int, Any]:
    return dict(getattr(parameter, kind, None) or {})


def _set_hooks(parameter: nn.Parameter, kind: str, saved: dict[str, Any]) -> None:
    hooks = getattr(parameter, kind)
    _refill(hooks if hooks is not None else {}, saved)


def _set_grad_mode(enabled: bool) -> None:
    torch.set_grad_enabled(enabled)


def _same(a: Any, b: Any) -> bool:
    """Whether two readings are equal: tensors and arrays bit for bit, dict values by identity or plain value."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bits(a), _bits(b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, list | tuple) and type(a) is type(b):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(a[key] is b[key] or _same_plain(a[key], b[key]) for key in a)
    return a is b or _same_plain(a, b)


def _same_plain(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):  # the state of a NumPy generator
        return _same(a, b)
    return isinstance(a, int | float | str | bytes) and (a == b or (a != a and b != b))


def _bits(tensor: Tensor) -> Tensor:
    """The bytes, so that NaN equals NaN and 0 differs from -0."""
    return tensor.reshape(-1).contiguous().view(torch.uint8)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
