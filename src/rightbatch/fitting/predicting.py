"""Predictions of a stored run: its model, its parameters and its preprocessing, for other data."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Preprocessing, Source
from ..errors import InputError, RunFolderError
from ..models import build_model
from ..record import RunFolder
from .evaluation import evaluating

CHUNK_SAMPLES = 1024
TOLERANCE = 1e-6  # relative, for statistics that another machine has computed


def load_model(folder: RunFolder, name: str | None = None) -> tuple[nn.Module, tuple[int, ...]]:
    """Build the model of a run again and load its parameters, the best ones by validation.

    Args:
        folder: of the run.
        name: of the model, as for `build_model` (default: the one that the run recorded).

    Returns:
        The model, and the shape of one sample's input.

    Raises:
        InputError: the run recorded no name, or its parameters are not those of the model.
        RunFolderError: there are no stored parameters, or they cannot be read.
    """
    import safetensors.torch

    recipe = folder.read_config().get("built_as")
    if not isinstance(recipe, dict):
        raise InputError(
            f"{folder.path} does not say which data its model takes: predictions need a run on pairs of inputs and "
            "targets. Load the parameters in Python, with "
            "model.load_state_dict(safetensors.torch.load_file('model.safetensors'))"
        )
    name = name or recipe["name"]
    if name is None:
        raise InputError(
            f"the run in {folder.path} was started in Python, without a name of its model: add --model module:factory"
        )
    if not folder.model.exists():
        raise RunFolderError(f"{folder.path} has no model.safetensors: the run has not ended; resume it first")
    x_shape = tuple(recipe["x_shape"])
    model = build_model(name, x_shape, recipe["outputs"], recipe["seed"])
    try:
        state = safetensors.torch.load_file(folder.model)
    except Exception as error:  # safetensors raises a type of its own
        raise RunFolderError(f"{folder.model} cannot be read: {error}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"the parameters in {folder.model} are not those of the model {name}: {' '.join(str(error).split())[:300]}"
        ) from error
    return model, x_shape


def outputs_of(model: nn.Module, source: Source, device: torch.device | str) -> Iterator[Tensor]:
    """The outputs of a model for all samples, in order and in batches, on the CPU.

    Raises:
        InputError: the model does not return one tensor with a row for each sample.
    """
    model.to(device)
    for start in range(0, len(source), CHUNK_SAMPLES):
        x, _ = source.fetch(torch.arange(start, min(start + CHUNK_SAMPLES, len(source))))
        with evaluating(model):
            output: Any = model(x.to(device))
        if not isinstance(output, Tensor) or output.dim() == 0 or len(output) != len(x):
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(
                f"the model returns {shape} for {len(x)} samples: it must return one tensor, a row for each"
            )
        yield output.detach().cpu()


def require_same_preprocessing(folder: RunFolder, present: Preprocessing | None) -> None:
    """Raise unless the data of a resumed run are prepared as before.

    Raises:
        InputError: they have other columns, categories or classes, or other statistics.
    """
    before = folder.read_preprocessing()
    stored = Preprocessing.from_dict(before) if before else None
    if not _same(stored, present):
        raise InputError(
            f"the data differ from those that the run in {folder.path} began with: their columns, categories, classes "
            "or statistics are others. Resume with the same data, or begin another run"
        )


def _same(a: Preprocessing | None, b: Preprocessing | None) -> bool:
    if a is None or b is None:
        return a is b
    if (a.classes, a.table, a.images) != (b.classes, b.table, b.images):
        return False
    if a.statistics is None or b.statistics is None:
        return a.statistics is b.statistics
    pairs = zip(a.statistics.mean + a.statistics.scale, b.statistics.mean + b.statistics.scale, strict=False)
    return len(a.statistics.mean) == len(b.statistics.mean) and all(
        math.isclose(x, y, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for x, y in pairs
    )
