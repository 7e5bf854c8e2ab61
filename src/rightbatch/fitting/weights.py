"""The parameters and buffers of a model as safetensors: one file that every framework reads and nothing executes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ..errors import InputError, RunFolderError
from ..record.atomic import write_atomic


def save_weights(path: Path, state: Mapping[str, Any]) -> None:
    """Write the tensors of a model's state, whole or not at all.

    A tensor under several names, as tied weights have, is written under each, so that
    `model.load_state_dict(safetensors.torch.load_file(path))` finds all of them. Extra state that is no tensor is left
    out; the file's metadata names it.

    Raises:
        RunFolderError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensor = value.detach().cpu().contiguous()
            shared = tensor.numel() and tensor.untyped_storage().data_ptr() in storages
            tensors[name] = tensor.clone() if shared else tensor
            storages.add(tensor.untyped_storage().data_ptr())
    left_out = ", ".join(name for name in state if name not in tensors)
    metadata = {"format": "pt"} | ({"left_out": left_out} if left_out else {})
    try:
        write_atomic(path, lambda file: file.write(safetensors.torch.save(tensors, metadata)))
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from error


def require_storable(model: nn.Module) -> None:
    """Refuse, before training, a model that could not be saved after it.

    Raises:
        InputError: a tensor is of a type or layout that safetensors lacks.
    """
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            continue
        try:
            if value.layout != torch.strided:
                raise KeyError(value.layout)
            safetensors.torch.save({name: torch.empty(0, dtype=value.dtype)})
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise InputError(
                f"{name} of the model is {value.dtype} with layout {value.layout}, which model.safetensors cannot "
                "hold: convert it, or train without run_dir."
            ) from error
