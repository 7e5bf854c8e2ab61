"""Models whose parameters are spread over the processes by `fully_shard` (FSDP2), and all that is different for them.

Every process holds a part of each parameter, of its gradient and of what the optimizer keeps for it, as a DTensor.
Whole parameters exist within passes only, in which the processes therefore wait for each other; the backward pass adds
gradients up and leaves every process its part. So norms are sums over parts, states are put together before they are
saved, and all processes make the same passes, whether or not they have samples for them.

Of an ordinary model every function here gives back what it was given.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...decision import LRRule
from ...errors import OutOfMemoryError, UnsupportedError
from ...noise.gradient_norm import is_part
from ...noise.gradient_norm import squared_norm as squared_norm_here
from ...noise.layers.coverage import RULES, owned
from ..memory.forward_limit import is_out_of_memory

# They see the samples in each process's own passes; the others compare gradients, which no process has whole.
METHODS = ("sketch", "per-example", "subset")


def sharded_modules(model: nn.Module) -> list[Any]:
    """The modules that `fully_shard` was called with."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # slow to import, and not there in every build
    return [] if fsdp is None else [module for module in model.modules() if isinstance(module, fsdp.FSDPModule)]


def require_evenly_sharded(model: nn.Module, size: int) -> None:
    """Refuse what cannot be trained of models that are spread over processes.

    Args:
        model: any; an ordinary one is let through.
        size: how many processes there are.

    Raises:
        UnsupportedError: its parameters are spread otherwise than by `fully_shard` over all processes.
    """
    modules = sharded_modules(model)
    reshard(modules)
    former = any("FullySharded" in base.__name__ for base in type(model).__mro__)
    if not (former or modules or any(map(is_part, model.parameters()))):
        return
    evenly = all(is_part(p) and p.device_mesh.shape == (size,) for p in model.parameters())  # type: ignore[attr-defined]
    if former or not modules or not evenly:
        raise UnsupportedError(
            "The model's parameters are spread over processes otherwise than by torch.distributed.fsdp.fully_shard "
            "over all of them, on a mesh of one dimension. Shard all parameters so, or give the model itself, whole in "
            "each process."
        )
    if not all(hasattr(module, "set_force_sum_reduction_for_comms") for module in modules):
        raise UnsupportedError(
            f"The fully_shard of torch {torch.__version__} cannot sum gradients without dividing them: use a newer "
            "torch, or give the model itself, whole in each process."
        )


def sum_gradients(model: nn.Module) -> None:
    """Have gradients summed over the processes, not averaged: the samples are weighted already."""
    for module in sharded_modules(model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def average_gradients(model: nn.Module, size: int) -> None:
    """Undo `sum_gradients`: they are averaged over so many processes again, as the caller's own loops expect it."""
    for module in sharded_modules(model):
        module.set_gradient_divide_factor(float(size))
        module.set_force_sum_reduction_for_comms(False)


def require_steps(rule: LRRule, parameters: Sequence[Tensor]) -> None:
    """Reject lr rules that would move a sharded model to trial points."""
    if rule.searches and any(map(is_part, parameters)):
        raise UnsupportedError(
            f"The lr rule '{rule.name}' evaluates trial steps, which is not supported for a model sharded over the "
            "processes: use another lr rule, or an unsharded model in each process."
        )


def reshard(modules: Sequence[Any]) -> None:
    """Let go of parameters that are still whole after a pass: those of the next are put together again.

    A pass without a backward pass leaves those of the outermost module as they are, and what is then written into the
    parts would not be seen.
    """
    for module in modules:
        module.reshard()


@contextmanager
def fresh(modules: Sequence[Any], exchanged: AbstractContextManager[None]) -> Iterator[None]:
    """`exchanged`, within which the parts hold other values, and after which they hold those of before."""
    reshard(modules)
    with exchanged:
        yield
        reshard(modules)


@contextmanager
def whole_parameters(model: nn.Module) -> Iterator[None]:
    """Within, the model has the parameters that its passes see, and all of them at once are in memory."""
    modules = sharded_modules(model)
    for module in modules:
        module.unshard()
    try:
        yield
    finally:
        reshard(modules)


def measurable(names: Sequence[str], model: nn.Module, simple: bool) -> list[str]:
    """Of ways to measure the noise those that can be used; `simple` wants neither projections nor another metric.

    Raises:
        UnsupportedError: none.
    """
    if not sharded_modules(model):
        return list(names)
    found = [name for name in names if name in METHODS]
    own = owned(model)
    others = [path for path, module in model.named_modules() if module in own and type(module) not in RULES]
    if not simple:
        reason = "neither projections nor the optimizer's metric can be measured, for which gradients must be whole"
    elif not found:
        reason = f"no process has a whole gradient, so {', '.join(names)} cannot be used, only {', '.join(METHODS)}"
    elif others:
        reason = f"'{others[0]}' is no layer that is read from its input and output gradient alone, or sharded itself"
    elif len({p for module in own.values() for p in module.values()}) < sum(map(len, own.values())):
        reason = "a parameter is shared by several layers"
    else:
        return found
    raise UnsupportedError(
        f"the noise of this model, sharded over the processes, cannot be measured: {reason} (docs/layers.md); call "
        "fully_shard with the blocks around such layers, or use rules that need no noise"
    )


def parts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What this process holds of each; of one model either all are parts or none is."""
    held: list[Any] = list(tensors)
    return [t.detach().to_local() for t in held] if held and is_part(held[0]) else held


def part_like(part: Tensor, parameter: Any) -> Tensor:
    """A tensor over all processes, spread as `parameter` is, of which this one holds `part`."""
    if not is_part(parameter):
        return part
    from torch.distributed.tensor import DTensor

    mesh, placements = parameter.device_mesh, parameter.placements
    shape, stride = parameter.shape, parameter.stride()
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=shape, stride=stride)


def total(number: float, like: Any) -> float:
    """The sum of a number over the processes that `like` is spread over, the same in all of them."""
    if not is_part(like):
        return number
    own = torch.tensor(number, dtype=torch.float64, device=like.device)
    found = [torch.empty_like(own) for _ in range(like.device_mesh.size())]
    dist.all_gather(found, own, group=like.device_mesh.get_group())
    return float(torch.stack(found).sum())


def squared_norm(tensors: Sequence[Tensor]) -> float:
    """‖t‖² over all entries of all tensors, in all processes."""
    return total(squared_norm_here(parts(tensors)), tensors[0]) if tensors else 0.0


# States: saved whole, by the first process, and spread again over however many there are.


def gather_full(state: Any) -> Any:
    """A state in which tensors are whole, on the CPU; in other processes than the first they are left empty."""
    if isinstance(state, Tensor):
        return _in_first(state.full_tensor()) if is_part(state) else state  # type: ignore[attr-defined]
    if isinstance(state, dict):
        found = copy(state)  # with what a module's state says of its versions
        found.update({key: gather_full(value) for key, value in state.items()})
        return found
    return [gather_full(value) for value in state] if isinstance(state, list) else state


def shard_like(full: Tensor, like: Any) -> Tensor:
    """A whole tensor, known to all processes, spread as `like` is."""
    if not is_part(like) or is_part(full):
        return full
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def model_state_like(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """The state of a model, spread as its own is."""
    present, found = model.state_dict(), copy(state)
    found.update({name: shard_like(value, present.get(name)) for name, value in state.items()})
    return found


def optimizer_state_like(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an optimizer, spread as its parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def spread(entry: Any, like: Tensor) -> Any:
        return shard_like(entry, like) if isinstance(entry, Tensor) and entry.shape == like.shape else entry

    if not state or not any(map(is_part, parameters)):
        return dict(state)
    entries = state["state"].items()
    return {**state, "state": {i: {k: spread(v, parameters[i]) for k, v in kept.items()} for i, kept in entries}}


def gather_full_flat(flat: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """A flat vector over what all processes hold of the parameters, in the order of the full ones."""
    if not any(map(is_part, parameters)):
        return flat
    held = parts(parameters)
    pieces = torch.split(flat, [part.numel() for part in held])
    spread = [part_like(piece.view_as(h), p) for piece, h, p in zip(pieces, held, parameters, strict=True)]
    return torch.cat([tensor.reshape(-1) for tensor in gather_full(spread)])


def shard_flat_like(flat: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """What this process holds of such a vector."""
    if not any(map(is_part, parameters)):
        return flat
    pieces = torch.split(flat, [p.numel() for p in parameters])
    spread = [shard_like(piece.view(p.shape), p) for piece, p in zip(pieces, parameters, strict=True)]
    return torch.cat([part.reshape(-1) for part in parts(spread)])


def _in_first(full: Tensor) -> Tensor:
    return full.cpu() if dist.get_rank() == 0 else full.new_empty(0, device="cpu")


@contextmanager
def waiting_for_all(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Within a pass is made; if memory runs out in it, and the model is sharded, that is an error."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error) and sharded_modules(model):
            raise out_of_memory(device) from error
        raise


def out_of_memory(device: torch.device) -> OutOfMemoryError:
    """The error of a process in whose passes memory runs out; the others wait in theirs, and cannot be notified."""
    return OutOfMemoryError(
        f"Memory ran out on {device} (rank {dist.get_rank()}). The model is sharded over the processes, which wait for "
        "each other within a pass, so the batch cannot be restarted: give a smaller micro_batch=, or use "
        "activation checkpointing (torch.utils.checkpoint)."
    )
