"""Memory that runs out: recognised, and answered by smaller forward passes.

They change no result but by rounding, and but for BatchNorm in training mode, which normalises by each pass.
"""

import gc
import traceback
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import OutOfMemoryError
from ...noise.isolation import random_state, set_random_state
from ...noise.layers.coverage import couples

CALM_STEPS = 100  # without running out, before larger passes are tried; doubled each time that these run out
OUT_OF_MEMORY_TEXTS = (
    "out of memory",  # CUDA, MPS, XPU
    "can't allocate memory",  # CPU
    "not enough memory",  # CPU, Windows
    "cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class ForwardLimit:
    """Most samples in one forward pass: halved where memory runs out, doubled again after a while without.

    Where BatchNorm takes part in training mode, passes are not cut to one sample, which it could not take.

    Args:
        most: what it begins with and never exceeds.
        model: whose BatchNorm layers are meant; None where passes are for evaluation.
    """

    def __init__(self, most: int, model: nn.Module | None = None) -> None:
        self.now = self._most = most
        self._norms = [m for m in model.modules() if isinstance(m, _BatchNorm)] if model is not None else []
        self._held = 0  # the limit before larger passes were tried, until these have held as long
        self._wait_steps = CALM_STEPS
        self._calm_steps = 0

    @property
    def _least(self) -> int:
        """Fewest samples that a pass may be cut to because memory ran out."""
        return 2 if self._most > 1 and any(couples(norm) for norm in self._norms) else 1

    @property
    def share(self) -> int:
        """Most samples in one process after all: of an odd number, one goes along with a pass of two."""
        return self.now if self.now == self._most else max(self.now, 2 * self._least - 1)

    def passes(self, samples: int, processes: int) -> int:
        """In how many passes so many samples are to be cut, each of which the processes share."""
        count = -(-samples // (self.now * processes))
        return count if self.now == self._most else min(count, max(1, samples // self._least))

    def begin(self, wanted: int) -> None:
        """A batch is begun, `wanted` of its samples for each process; after enough that want it, passes grow."""
        larger = min(wanted, self._most) > self.now
        if not larger and not 0 < self._held < wanted:
            return
        self._calm_steps += 1
        if self._calm_steps > self._wait_steps:
            if self._held:
                self._held, self._wait_steps = 0, CALM_STEPS
            if larger:
                self._held, self.now = self.now, min(self._most, 2 * self.now)
            self._calm_steps = 0

    def halve(self, failed: int) -> bool:
        """A pass of `failed` samples ran out of memory; False where none smaller is possible."""
        if failed <= self._least or failed > self.now:
            return False
        if 0 < self._held < failed:  # larger passes were tried in vain
            self.now, self._wait_steps = self._held, 2 * self._wait_steps
        else:
            self.now = -(-failed // 2)
        self._held = self._calm_steps = 0
        return True

    def state_dict(self) -> dict[str, int]:
        """All that `load_state_dict` needs."""
        return {
            "now": self.now,
            "most": self._most,
            "held": self._held,
            "wait_steps": self._wait_steps,
            "calm_steps": self._calm_steps,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from `state`; where memory had left it at its most, with the most of this one."""
        if state["now"] < state["most"]:
            self.now = min(self._most, state["now"])
        self._held, self._wait_steps, self._calm_steps = (state[key] for key in ("held", "wait_steps", "calm_steps"))


class BatchSnapshot:
    """Buffers and random numbers as they were before a batch, for it to be restarted as if for the first time.

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

    def note(self) -> None:
        """A batch starts."""
        self._random = random_state(self._device)
        if self._places:
            self._note_buffers()

    @torch.no_grad()
    def _note_buffers(self) -> None:
        buffers = [module._buffers.get(name) for module, name in self._places]
        if any(now is not before for now, before in zip(buffers, self._buffers or [None] * len(buffers), strict=True)):
            self._copies = [buffer.clone() for buffer in buffers if buffer is not None]
        elif self._copies:  # one call for all, at every batch
            torch._foreach_copy_(self._copies, self._present())
        self._buffers = buffers

    @torch.no_grad()
    def put_back(self) -> None:
        """It is to be restarted."""
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
    """Do `work(a, b)` over stretches of the samples from `begin` to `end`, half as long wherever memory runs out.

    Returns:
        False where it ran out over a single sample; the rest is left undone then.
    """
    limit.begin(end - begin)
    while begin < end:
        stop = min(end, begin + limit.now)
        try:
            work(begin, stop)
            begin = stop
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if not limit.halve(stop - begin):
                return False
            let_go(error)
            release(device)
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, and smaller passes might help."""
    if isinstance(error, OutOfMemoryError):
        return False
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text.lower() in str(error).lower() for text in OUT_OF_MEMORY_TEXTS)


def exhausted(device: str, rank: int | None, samples: int = 1, why: str = "") -> OutOfMemoryError:
    """The error that ends a run, memory having run out over the smallest pass there is.

    Args:
        device: in words.
        rank: of the process, where there are several.
        samples: of that pass.
        why: there is no smaller one; by default because one sample is the least, or with BatchNorm two or three.
    """
    over = "a single sample" if samples == 1 else f"{samples} samples"
    where = device if rank is None else f"{device} (rank {rank})"
    if not why:
        why = "and passes cannot be made smaller"
        if samples > 1:
            why += ": BatchNorm cannot take one sample alone (where it can, as over images, give micro_batch=1)"
    return OutOfMemoryError(
        f"Memory ran out over {over} on {where}, {why}. Use activation checkpointing (torch.utils.checkpoint), a "
        "smaller model, smaller samples or a lower precision, or free memory that other programs hold."
    )


def let_go(error: BaseException) -> None:
    """Free what the frames that an exception came through still refer to: the activations of the pass that failed."""
    traceback.clear_frames(error.__traceback__)


def release(device: torch.device) -> None:
    """Give back what is no longer referred to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def wait(device: torch.device) -> None:
    """Wait for the device to finish what it was given, so that seconds tell how long that took."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
