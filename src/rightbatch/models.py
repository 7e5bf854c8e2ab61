"""Internal: the built-in models, and models imported by path.

torch is imported inside the functions so that `rightbatch list`, which imports this module, starts fast.
"""

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from .errors import InputError

if TYPE_CHECKING:
    from torch import nn

HIDDEN_UNITS = 128
SMALLEST_SIDE_PIXELS = 8
SECOND_BLOCK_FROM_PIXELS = 16


def linear(x_shape: tuple[int, ...], outputs: int) -> "nn.Module":
    """One linear layer on the flattened sample."""
    from torch import nn

    return nn.Sequential(_flatten(x_shape), nn.Linear(prod(x_shape), outputs))


def mlp(x_shape: tuple[int, ...], outputs: int) -> "nn.Module":
    """Two hidden layers of 128 ReLU units on the flattened sample."""
    from torch import nn

    return nn.Sequential(
        _flatten(x_shape),
        nn.Linear(prod(x_shape), HIDDEN_UNITS),
        nn.ReLU(),
        nn.Linear(HIDDEN_UNITS, HIDDEN_UNITS),
        nn.ReLU(),
        nn.Linear(HIDDEN_UNITS, outputs),
    )


def cnn(x_shape: tuple[int, ...], outputs: int) -> "nn.Module":
    """3x3 convolutions with ReLU and max-pooling, one or two blocks by image size, then 128 ReLU units."""
    from torch import nn

    channels, height, width = _image_shape(x_shape)
    layers: list[nn.Module] = [nn.Unflatten(1, (1, height))] if len(x_shape) == 2 else []
    # 16 channels, not 32: on 28 x 28 pixels a step takes half the time, and Fashion-MNIST is learned as fast.
    layers += [nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU()]
    if min(height, width) >= SECOND_BLOCK_FROM_PIXELS:
        layers.append(nn.MaxPool2d(2))
        height, width = height // 2, width // 2
    layers += [nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    features = 64 * (height // 2) * (width // 2)
    return nn.Sequential(*layers, nn.Linear(features, HIDDEN_UNITS), nn.ReLU(), nn.Linear(HIDDEN_UNITS, outputs))


MODELS: dict[str, Callable[[tuple[int, ...], int], "nn.Module"]] = {"linear": linear, "mlp": mlp, "cnn": cnn}


# How the models were built that `build_model` returned, for a run to record.
_recipes: "WeakKeyDictionary[nn.Module, dict[str, Any]]" = WeakKeyDictionary()


def recipe_of(model: "nn.Module") -> dict[str, Any] | None:
    """The arguments with which `build_model` builds this model again; None if it was built otherwise."""
    return _recipes.get(model)


def build_model(name: str, x_shape: tuple[int, ...], outputs: int, seed: int = 0) -> "nn.Module":
    """Build a model by name, on the CPU, without changing the global random state.

    Args:
        name: a key of `MODELS`, or `module:factory`, imported with the current folder on the import path. The factory
            receives `x_shape` and `outputs` if it has parameters of these names.
        x_shape: shape of one sample, without the batch axis.
        outputs: number of outputs per sample: classes, or regression targets.
        seed: seed of the initial parameters.

    Returns:
        The model.

    Raises:
        InputError: the name, module or factory does not exist, the factory fails or does not return a
            `torch.nn.Module`, or `cnn` is used on samples that are not images.
    """
    import torch

    factory = _imported_factory(name, x_shape, outputs) if ":" in name else None
    if factory is None and name not in MODELS:
        raise InputError(f"Unknown --model {name!r}: use one of {', '.join(MODELS)}, or module:factory.")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            model = MODELS[name](x_shape, outputs) if factory is None else factory()
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"{name} returned {type(model).__name__}; a factory must return a torch.nn.Module.")
    _recipes[model] = {"name": name, "x_shape": list(x_shape), "outputs": outputs, "seed": seed}
    return model


def _flatten(x_shape: tuple[int, ...]) -> "nn.Module":
    from torch import nn

    # A batch of scalars has no axis to flatten, so add one.
    return nn.Flatten() if x_shape else nn.Unflatten(0, (-1, 1))


def _image_shape(x_shape: tuple[int, ...]) -> tuple[int, int, int]:
    shape = (1, *x_shape) if len(x_shape) == 2 else x_shape
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape[1:]) < SMALLEST_SIDE_PIXELS:
        raise InputError(
            f"cnn expects images of shape (height, width), (1, height, width) or (3, height, width), at least "
            f"{SMALLEST_SIDE_PIXELS} x {SMALLEST_SIDE_PIXELS} pixels; these samples have shape {tuple(x_shape)}. "
            "Use mlp or linear instead."
        )
    return shape[0], shape[1], shape[2]


def _imported_factory(path: str, x_shape: tuple[int, ...], outputs: int) -> Callable[[], Any]:
    module_name, _, attribute = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except Exception as error:  # a user's module may raise anything on import
        raise InputError(
            f"Cannot import the module of --model {path!r} with {here} on the path: {type(error).__name__}: {error}"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        file = getattr(module, "__file__", "built in")
        raise InputError(f"Module {module_name!r} ({file}) has no function or class {attribute!r}.")
    given = {"x_shape": x_shape, "outputs": outputs}
    try:
        signature = inspect.signature(factory)
        arguments = {key: value for key, value in given.items() if key in signature.parameters}
        signature.bind(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be called with no arguments, or with x_shape and outputs: {error}.") from error
    return lambda: factory(**arguments)
