"""What the processes of a run tell each other, so that all take the same steps.

Every process cuts the same intervals off the same order and takes its share of each micro-batch. Once a step, while the
gradients are being added up, a row of numbers goes round: losses and failures of this step, times and the digest of all
decisions up to the last one. A process that runs out of memory leaves its other passes out and says so there; all then
give the batch back. Rules are pure functions, so that processes which decide on the same numbers decide the same; the
digests prove it. Machines that are not alike may round the norm of the same gradient differently: then the first
process's goes round too.

With one process nothing is sent and every answer is what went in.
"""

import hashlib
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...decision import Decision, Outcome
from ...errors import InputError, RightbatchError, UnsupportedError
from ...measurements import Movement
from ...noise.gradient_norm import is_part
from ..gradients import Gradients
from ..timing.step_times import StepTimes
from .process_group import ProcessGroup
from .sharding import average_gradients, require_evenly_sharded, squared_norm, sum_gradients

COMPARE_EVERY_STEPS = 100
WISHES = 3
SAME = 1e-6  # by which norms of the same parameters may differ: by rounding on unlike machines, not by a step


def unwrapped(model: nn.Module, ranks: ProcessGroup) -> nn.Module:
    """The model itself where it comes in DistributedDataParallel.

    Raises:
        InputError: it is none.
        UnsupportedError: its parameters are spread over some processes, or it speaks to the others in its passes.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    if isinstance(model, DistributedDataParallel):
        model = model.module
    require_evenly_sharded(model, ranks.size)
    synced = [name for name, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)]
    if synced and ranks.several:
        raise UnsupportedError(
            f"'{synced[0]}': SyncBatchNorm waits for the other processes in each pass, but their shares of a batch may "
            "be cut otherwise, or empty: use BatchNorm, which takes each share by itself, or GroupNorm."
        )
    return model


def take_over_gradients(model: nn.Module) -> None:
    """From now on this library brings gradients together; what wraps the model leaves them alone, or sums them."""
    if isinstance(model, DistributedDataParallel):
        # What its no_sync() does. It averages with equal weights and must know at the forward pass which backward pass
        # is the last of a step; here shares are unequal, and a rule may want more once it has seen the gradient.
        model.require_backward_grad_sync = False
    else:
        sum_gradients(model)


def give_gradients_back(model: nn.Module, ranks: ProcessGroup) -> None:
    """Undo `take_over_gradients`, so that the caller's own loops over the model average gradients as before."""
    if isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = True
    else:
        average_gradients(model, ranks.size)


def digest_of(tensors: Sequence[Tensor]) -> str:
    """SHA-256 of the bytes of tensors, the first 16 digits."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


class Seen(NamedTuple):
    """What a process computes from the gradient and its own parameters, on which rules decide."""

    gradient_norm2: float
    distance: float | None
    movement: Movement | None


@dataclass(slots=True)
class BatchRecord:
    """What a process has seen of a batch, or what all have.

    Args:
        loss: sum of the losses over all units.
        weight: units.
        failed: why the batch leads to no step; empty if nothing is wrong.
        oversized: samples of the pass that ran out of memory; 0 where none did.
        rank: of the process in which it did.
        seconds: spent on the passes.
    """

    loss: float
    weight: float
    failed: str = ""
    oversized: int = 0
    rank: int = 0
    seconds: float = 0.0

    def smallest(self, oversized: Sequence[float]) -> "BatchRecord":
        """Of the passes that ran out of memory, which is the smallest, and of which process."""
        samples, rank = min((int(count), rank) for rank, count in enumerate(oversized) if count)
        return BatchRecord(math.nan, 0.0, "", samples, rank)


class RankSync:
    """Keeps the processes of a run in step.

    `decisions` is the digest of all decisions so far.

    Args:
        ranks: the processes.
        model: set to the first process's, which is checked.
        parameters: those that are trained.
        settings: what must be the same everywhere.

    Raises:
        InputError: the processes differ in settings, shapes or, after all, in parameters.
    """

    def __init__(
        self, ranks: ProcessGroup, model: nn.Module, parameters: list[nn.Parameter], settings: dict[str, object]
    ):
        self.ranks = ranks
        self.decisions = 0
        self._last = ""
        self._step = 0
        self._wishes = self._granted = [False] * WISHES
        self._alike = not ranks.several or len(set(ranks.collect(_machine(parameters[0].device)))) == 1
        self._model = model
        if ranks.several:
            shapes = [(name, tuple(p.shape), str(p.dtype)) for name, p in model.named_parameters()]
            for what, value in {**settings, "the model": crc32(repr(shapes).encode())}.items():
                ranks.require_equal(what, value, "Give the same everywhere.")
            ranks.copy_from_first(self._tensors)
            self.require_same_model()

    @property
    def _tensors(self) -> list[Tensor]:
        return [p.detach() for p in self._model.parameters() if not is_part(p)] + list(self._model.buffers())

    def require_same_model(self) -> None:
        """Compare digests of all parameters and buffers.

        Raises:
            InputError: naming ranks and digests.
        """
        if self.ranks.several:
            advice = "Load the same state in every process."
            self.ranks.require_equal("parameters and buffers", digest_of(self._tensors), advice)

    def share_buffers(self) -> None:
        """Set buffers, such as the running statistics of BatchNorm, to those of the first process."""
        if self.ranks.several:
            self.ranks.copy_from_first(list(self._model.buffers()))

    def exchange(self, record: BatchRecord, gradients: Gradients, add: bool, times: StepTimes | None) -> BatchRecord:
        """Combine what the processes have seen of the batch so far, and sum their gradients where `add`.

        Of seconds the slowest process's count: those of this batch, and `times`, those of the step before. Where memory
        ran out somewhere, only `oversized` and `rank` of the record count.

        Raises:
            RightbatchError: the step before was not the same everywhere; names ranks and values.
        """
        if not self.ranks.several:
            return record
        parameters = [p for p in gradients.parameters if not is_part(p)]  # gradients of parts are summed as they come
        present = [p.grad is not None for p in parameters]
        compared = self._step % COMPARE_EVERY_STEPS == 0
        norm2 = squared_norm([p.detach() for p in gradients.parameters]) if compared else 0.0
        own = [float(bool(record.failed)), record.loss, record.weight, float(record.oversized), record.seconds]
        own += [float(crc32(bytes(present))), float(self.decisions), norm2, *map(float, self._wishes)]
        own += [] if times is None else times.numbers
        receive = self.ranks.start_gather(own)
        finish = self.ranks.start_sum(parameters) if add else None
        rows = receive()
        failed, losses, weights, oversized, seconds, presence, decisions, norms2 = list(zip(*rows, strict=True))[:8]
        self._granted = [any(row[8 + i] for row in rows) for i in range(WISHES)]
        if any(oversized):
            if finish is not None:
                finish(present)
            return record.smallest(oversized)
        if finish is not None:
            finish(present if len(set(presence)) == 1 else self.ranks.any(*present))
            gradients.add_summed()
        self._require_same_steps(decisions, norms2)
        if times is not None:
            times.slowest([row[8 + WISHES :] for row in rows])
        reason = self._reason(record.failed) if any(failed) else ""
        return BatchRecord(math.fsum(losses), math.fsum(weights), reason, 0, 0, max(seconds))

    def _require_same_steps(self, decisions: Sequence[float], norms2: Sequence[float]) -> None:
        if len(set(decisions)) > 1:
            said = "; ".join(f"rank {rank}: {last}" for rank, last in enumerate(self.ranks.collect(self._last)))
            raise RightbatchError(
                f"The processes have taken different steps: {said}. Set rates, data and rules alike in all of them."
            )
        _require_close("the norm of the parameters", norms2)

    def agreed(self, *wishes: bool) -> list[bool]:
        """Whether some process had each of these wishes one step ago; the present ones are sent with the next batch."""
        if not self.ranks.several:
            return list(wishes)
        self._wishes = list(wishes)
        return self._granted

    def exchange_trial(self, record: BatchRecord, gradients: Gradients, add: bool) -> BatchRecord:
        """Combine what a trial step has given, gradients included where `add`."""
        if not self.ranks.several:
            return record
        rows = self.ranks.gather([float(bool(record.failed)), record.loss, record.weight, float(record.oversized)])
        failed, losses, weights, oversized = zip(*rows, strict=True)
        if any(oversized):
            return record.smallest(oversized)
        reason = self._reason(record.failed) if any(failed) else ""
        if add and not reason:
            self.ranks.add_gradients(gradients.parameters)
        return BatchRecord(math.fsum(losses), math.fsum(weights), reason)

    def _reason(self, failed: str) -> str:
        reasons = self.ranks.collect(failed)
        return next(f"rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason)

    def sum(self, gradients: Gradients) -> None:
        """Leave the sum of the gradients over the processes in the parameters."""
        if self.ranks.several:
            self.ranks.add_gradients([p for p in gradients.parameters if not is_part(p)])
            gradients.add_summed()

    def seen(self, own: Seen) -> Seen:
        """What the first process has computed; all must have come to the same but for rounding.

        Raises:
            RightbatchError: they have not: the sum of the gradients is not the same everywhere.
        """
        if self._alike:
            return own
        movement = own.movement or Movement(math.nan, math.nan, 0)
        moved = [movement.distance_rms, movement.squared_directions, float(movement.steps)]
        rows = self.ranks.gather([own.gradient_norm2, math.nan if own.distance is None else own.distance, *moved])
        _require_close("the norm of the summed gradient", [row[0] for row in rows])
        norm2, distance, rms, squares, steps = rows[0]
        return Seen(
            norm2,
            None if own.distance is None else distance,
            None if own.movement is None else Movement(rms, squares, int(steps)),
        )

    def outcome(self, own: Outcome) -> Outcome:
        """The curvature of a trial step that the first process has found."""
        return Outcome(own.loss, self.of_first(own.curvature))

    def of_first(self, number: float) -> float:
        """What the first process has computed."""
        return number if self._alike else self.ranks.gather([number])[0][0]

    def note(self, step: int, samples: int, lr: float, size: Decision, rate: Decision) -> None:
        """Add to the digest what is done at a step and what has been decided."""
        self._step = step
        if self.ranks.several:
            said = [f"batch of {samples}", f"learning rate {lr!r}", f"next batch {size.batch_size}"]
            said += [f"{name} {value!r}" for name, value in sorted(rate.settings.items())]
            said += [decision.action for decision in (size, rate) if decision.action]
            self._last = f"step {step}: {', '.join(said)}"
            self.decisions = crc32(self._last.encode(), self.decisions)

    def begin_at(self, decisions: int) -> None:
        """Go on from a state that was loaded, everywhere the same.

        Raises:
            InputError: it was not.
        """
        self.decisions = decisions
        self.require_same_model()


def _machine(device: torch.device) -> tuple[object, ...]:
    """What sums are rounded by."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    capability = torch.backends.cpu.get_cpu_capability()
    return torch.__version__, name, cpu_name(), capability, torch.get_num_threads()


def _require_close(what: str, values: Sequence[float]) -> None:
    first = values[0]
    if any(abs(value - first) > SAME * abs(first) for value in values):
        listed = "; ".join(f"rank {rank}: {value!r}" for rank, value in enumerate(values))
        raise RightbatchError(
            f"The processes have gone apart in {what}: {listed}. Change parameters and optimizer in all of them alike."
        )


def cpu_name() -> str:
    """The model of the processor, as far as the system reports it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
