"""Memory that runs out: recognised, and answered by smaller forward passes, which change no result but by rounding."""

import gc
import traceback

import torch

CALM_STEPS = 100  # without running out, before larger passes are tried again; doubled each time that was too early
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
        """A pass of `failed` examples ran out of memory."""
        self.now, self._calm_steps = -(-failed // 2), 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text.lower() in str(error).lower() for text in OUT_OF_MEMORY_TEXTS)


def let_go(error: BaseException) -> None:
    """Free what the frames that an exception came through still refer to: the activations of the pass that failed."""
    traceback.clear_frames(error.__traceback__)


def release(device: torch.device) -> None:
    """Give back what is no longer referred to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
