"""Memory that runs out: recognised, and answered by smaller forward passes, which change no result but by rounding."""

import gc
import traceback
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..errors import OutOfMemoryError
from ..noise.isolation import random_state, set_random_state

CALM_STEPS = 100  # without running out, before larger passes are tried again; doubled each time
OUT_OF_MEMORY_TEXTS = (
    "out of memory",  # CUDA, MPS, XPU
    "can't allocate memory",  # CPU
    "not enough memory",  # CPU, Windows
    "cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class ForwardLimit:
    """Most examples in one forward pass: halved where memory runs out, doubled again after a while without.

    Args:
        most: what it begins with and never exceeds.
    """

    def __init__(self, most: int) -> None:
        self.now = self._most = most
        self._wait_steps = CALM_STEPS
        self._calm_steps = 0

    def begin(self) -> None:
        """A batch is begun; after enough of them, larger passes are tried."""
        if self.now < self._most:
            self._calm_steps += 1
            if self._calm_steps > self._wait_steps:
                self.now, self._calm_steps = min(self._most, 2 * self.now), 0
                self._wait_steps *= 2

    def halve(self, failed: int) -> None:
        """A pass of `failed` examples, at least two, ran out of memory."""
        self.now, self._calm_steps = -(-failed // 2), 0

    def state_dict(self) -> dict[str, int]:
        """All that `load_state_dict` needs."""
        return {"now": self.now, "wait_steps": self._wait_steps, "calm_steps": self._calm_steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from `state`."""
        self.now = min(self._most, state["now"])
        self._wait_steps, self._calm_steps = state["wait_steps"], state["calm_steps"]


class Beginning:
    """Buffers and random numbers as they were before a batch, for it to be begun anew as if for the first time.

    Args:
        model: whose buffers passes change, as those of BatchNorm; buffers it is given later are not looked after.
        device: what its passes draw random numbers on.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._places = [(m, name) for m in model.modules() for name, buffer in m._buffers.items() if buffer is not None]
        self._device = device
        self._random: list[Tensor] = []
        self._buffers: list[Tensor | None] = []
        self._copies: list[Tensor] = []

    @torch.no_grad()
    def note(self) -> None:
        """A batch is begun."""
        self._random = random_state(self._device)
        buffers = [module._buffers.get(name) for module, name in self._places]
        if any(now is not before for now, before in zip(buffers, self._buffers or [None] * len(buffers), strict=True)):
            self._copies = [buffer.clone() for buffer in buffers if buffer is not None]
        elif self._copies:  # one call for all, at every batch
            torch._foreach_copy_(self._copies, self._present())
        self._buffers = buffers

    @torch.no_grad()
    def put_back(self) -> None:
        """It is to be begun anew."""
        set_random_state(self._random, self._device)
        for (module, name), buffer in zip(self._places, self._buffers, strict=True):
            module._buffers[name] = buffer
        if self._copies:
            torch._foreach_copy_(self._present(), self._copies)

    def _present(self) -> list[Tensor]:
        return [buffer for buffer in self._buffers if buffer is not None]


def in_passes(
    work: Callable[[int, int], None], begin: int, end: int, limit: ForwardLimit, device: torch.device
) -> bool:
    """Do `work(a, b)` over stretches of the examples from `begin` to `end`, half as long wherever memory runs out.

    Returns:
        False where it ran out over a single example; the rest is left undone then.
    """
    while begin < end:
        stop = min(end, begin + limit.now)
        try:
            work(begin, stop)
            begin = stop
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if stop - begin == 1:
                return False
            limit.halve(stop - begin)
            let_go(error)
            release(device)
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text.lower() in str(error).lower() for text in OUT_OF_MEMORY_TEXTS)


def exhausted(device: str, rank: int | None, examples: int = 1) -> OutOfMemoryError:
    """The error that ends a run, memory having run out over the smallest pass there is.

    Args:
        device: in words.
        rank: of the process, where there are several.
        examples: of that pass.
    """
    over = "a single example" if examples == 1 else f"{examples} examples"
    where = device if rank is None else f"{device} (rank {rank})"
    return OutOfMemoryError(
        f"Memory ran out over {over} on {where}, and passes cannot be made smaller. Compute activations again in "
        "the backward pass (torch.utils.checkpoint), make the model or the examples smaller, lower the precision, or "
        "free memory that others hold."
    )


def let_go(error: BaseException) -> None:
    """Free what the frames that an exception came through still refer to: the activations of the pass that failed."""
    traceback.clear_frames(error.__traceback__)


def release(device: torch.device) -> None:
    """Give back what is no longer referred to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
