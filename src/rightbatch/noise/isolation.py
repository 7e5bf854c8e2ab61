"""Look at a model without leaving a trace in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Within it a model may be run in its own mode; its buffers and torch's random states are as before afterwards."""
    saved = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for module, name, buffer, copy in saved:
                module._buffers[name] = buffer
                if not torch.equal(buffer, copy):
                    buffer.copy_(copy)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Within, modules may be put in another mode; afterwards each is in its own again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def devices_of(model: nn.Module) -> list[torch.device]:
    """The devices its parameters are on, in an order that does not change."""
    return sorted({p.device for p in model.parameters()}, key=str)


def random_state(*devices: torch.device) -> list[Tensor]:
    """The states of torch's generators that a forward pass on these devices may draw from."""
    states = [torch.get_rng_state()]
    for device in devices:
        if device.type == "cuda":
            states.append(torch.cuda.get_rng_state(device))
    return states


def set_random_state(states: list[Tensor], *devices: torch.device) -> None:
    """Put back what `random_state` gave for the same devices."""
    torch.set_rng_state(states[0])
    for device, state in zip((d for d in devices if d.type == "cuda"), states[1:], strict=True):
        torch.cuda.set_rng_state(state, device)
