"""The processes of a run: which of them this is, what is its share, and how they bring things together.

One process is the trivial case, with nothing to send: there is one code path.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ...errors import InputError, RightbatchError, UnsupportedError

BUCKET_BYTES = 25 * 2**20  # large enough for the network, small enough to be copied while the one before is sent
LEAST_SHARE = 2  # BatchNorm cannot take one sample alone
_ALONE: ContextVar[bool] = ContextVar("_ALONE", default=False)
T = TypeVar("T")


@contextmanager
def alone() -> Iterator[None]:
    """Within, what is begun in this process is its own affair, as a probe is that only one of them makes."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


class ProcessGroup:
    """The processes that train one model together; every one makes the same calls in the same order.

    Args:
        size: how many there are.
        rank: which of them this is, from 0.
        device: where numbers must lie to be sent.
    """

    def __init__(self, size: int = 1, rank: int = 0, device: torch.device | None = None) -> None:
        self.size = size
        self.rank = rank
        self.first = rank == 0  # whether this is the one that decides and writes
        self.several = size > 1  # whether there are others
        self._device = device

    @classmethod
    def present(cls) -> "ProcessGroup":
        """Those of torch.distributed, if it has been initialised; else this process alone.

        Raises:
            InputError: torchrun has started several, which do not know of each other.
        """
        if _ALONE.get():
            return cls()
        if dist.is_available() and dist.is_initialized():
            over_cpu = "cpu:" in dist.get_backend_config()
            device = torch.device("cpu") if over_cpu else torch.device("cuda", torch.cuda.current_device())
            return cls(dist.get_world_size(), dist.get_rank(), device)
        started = os.environ.get("WORLD_SIZE", "1")
        if dist.is_available() and dist.is_torchelastic_launched() and started != "1":
            raise InputError(
                f"torchrun has started {started} processes, but they do not know of each other: call "
                "torch.distributed.init_process_group() before."
            )
        return cls()

    def share(self, samples: int, most: int | None = None) -> tuple[int, int]:
        """Where this process's part of so many samples begins and ends.

        Parts are contiguous and differ by one at most. Where there are fewer than two for each, fewer processes have a
        part, but for parts that would exceed `most`; those with none get (0, 0).

        Args:
            samples: at least 1; at most `most` for each process.
            most: samples of a part; None for any number.
        """
        taking = min(self.size, max(1, samples // LEAST_SHARE, -(-samples // (most or samples))))
        if self.rank >= taking:
            return 0, 0
        return samples * self.rank // taking, samples * (self.rank + 1) // taking

    def gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of every process in the order of ranks; each gives as many."""
        return self.start_gather(numbers)()

    def largest(self, number: float) -> float:
        """The largest of the numbers of all processes."""
        return max(given for (given,) in self.gather([number]))

    def start_gather(self, numbers: Sequence[float]) -> Callable[[], list[list[float]]]:
        """Send numbers; the answer waits for those of the others."""
        if not self.several:
            return lambda: [list(numbers)]
        own = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        sent = dist.all_gather(rows, own, async_op=True)

        def received() -> list[list[float]]:
            sent.wait()
            gathered: list[list[float]] = torch.stack(rows).tolist()
            return gathered

        return received

    def gather_uneven(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of every process, which may give more or fewer."""
        counts = [int(row[0]) for row in self.gather([len(numbers)])]
        rows = self.gather([*numbers, *[0.0] * (max(counts) - len(numbers))]) if max(counts) else [[]] * self.size
        return [row[:count] for row, count in zip(rows, counts, strict=True)]

    def any(self, *flags: bool) -> list[bool]:
        """Of each flag, whether it is set in some process."""
        return [any(column) for column in zip(*self.gather([float(flag) for flag in flags]), strict=True)]

    def collect(self, item: T) -> list[T]:
        """The plain value that every process gives, in the order of ranks."""
        if not self.several:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def device_of(self, rank: int, own: torch.device) -> str:
        """The name of that process's device; all tell theirs."""
        return self.collect(str(own))[rank]

    def on_first(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises, in the first process, the only one to do it."""
        if not self.several:
            return work()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = work()
            except (RightbatchError, OSError) as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, device=self._device)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    def require_equal(self, what: str, value: object, advice: str) -> None:
        """Refuse to go on where processes differ.

        Raises:
            InputError: naming the ranks and what each has.
        """
        values = self.collect(value)
        if any(other != values[0] for other in values):
            listed = "; ".join(f"rank {rank}: {other}" for rank, other in enumerate(values[:8]))
            raise InputError(f"The processes differ in {what}: {listed}. {advice}")

    @torch.no_grad()
    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Set tensors to what they are in the first process."""
        if self.several:
            for bucket in _buckets(tensors):
                flat = torch.cat([t.detach().reshape(-1) for t in bucket])
                dist.broadcast(flat, src=0)
                _spread(flat, bucket)

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradients by their sums over the processes; one that is missing everywhere stays missing."""
        if self.several:
            finish = self.start_sum(parameters)
            finish(self.any(*(p.grad is not None for p in parameters)))

    @torch.no_grad()
    def start_sum(self, parameters: Sequence[Tensor]) -> Callable[[Sequence[bool]], None]:
        """Send the gradients, in buckets, each while the next is being copied together.

        Returns:
            What waits for them and leaves the sums in the parameters, of those of which some process had a gradient.

        Raises:
            UnsupportedError: sparse gradients.
        """
        if any(p.grad is not None and p.grad.is_sparse for p in parameters):
            raise UnsupportedError("sparse gradients are not summed over processes: leave out sparse=True")
        sent = []
        for bucket in _buckets(parameters):
            flat = torch.cat([_dense(p).reshape(-1) for p in bucket])
            sent.append((flat, bucket, dist.all_reduce(flat, async_op=True)))

        @torch.no_grad()
        def finish(present: Sequence[bool]) -> None:
            for parameter, somewhere in zip(parameters, present, strict=True):
                if somewhere and parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
            for flat, bucket, work in sent:
                work.wait()
                _spread(flat, [torch.empty_like(p) if p.grad is None else p.grad for p in bucket])

        return finish


def _dense(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors of one precision and device together, up to the size of a bucket, in the same order everywhere."""
    buckets: list[list[Tensor]] = []
    filling: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kind = (tensor.dtype, tensor.device)
        bucket = filling.get(kind)
        if bucket is None or sum(t.nbytes for t in bucket) + tensor.nbytes > BUCKET_BYTES:
            bucket = filling[kind] = []
            buckets.append(bucket)
        bucket.append(tensor)
    return buckets


def _spread(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy a bucket back into its tensors."""
    ends = list(accumulate(t.numel() for t in tensors))
    parts = [flat[end - t.numel() : end].view(t.shape) for end, t in zip(ends, tensors, strict=True)]
    torch._foreach_copy_(list(tensors), parts)
