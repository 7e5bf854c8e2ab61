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
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...decision import Decision, Outcome
from ...errors import InputError, RightbatchError, UnsupportedError
from ...measurements import Movement
from ...noise.gradient_norm import is_part
from ..accumulator import BatchAccumulator
from ..processor import cpu_name
from .process_group import ProcessGroup
from .sharding import average_gradients, require_evenly_sharded, squared_norm, sum_gradients

COMPARE_EVERY_STEPS = 100
TIMES = 3  # of a step, told with the next
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


@dataclass(frozen=True, slots=True)
class Seen:
    """What a process computes from the gradient and its own parameters, on which rules decide."""

    gradient_norm2: float
    distance: float | None
    movement: Movement | None


class RankSync:
    """Keeps the processes of a run in step.

    `decisions` is the digest of all decisions so far; `times` are those of the last step, to be told with the next.

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
        self.times: list[float] = []
        self._wishes = self._granted = [False] * WISHES
        self._alike = not ranks.several or len(set(ranks.collect(_machine(parameters[0].device)))) == 1
        self._model = model
        self._parameters = parameters
        self._to_sum = [p for p in parameters if not is_part(p)]  # the others' gradients are summed as they come
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

    def hear(self, gathering: BatchAccumulator, add: bool) -> None:
        """Bring together what the processes have seen of the batch so far, and add up their gradients if wanted.

        Of times the slowest process's count: those of this batch, and those told of the step before. Where memory ran
        out somewhere, `oversized` is set everywhere and the rest is worth nothing.

        Raises:
            RightbatchError: the step before was not the same everywhere; names ranks and values.
        """
        gathering.loss_total = gathering.loss_sum
        if not self.ranks.several:
            return
        present = [p.grad is not None for p in self._to_sum]
        compared = bool(self.times) and self._step % COMPARE_EVERY_STEPS == 0
        norm2 = squared_norm([p.detach() for p in self._parameters]) if compared else 0.0
        times = self.times or [0.0] * TIMES
        own = [float(bool(gathering.failed)), gathering.loss_sum, crc32(bytes(present)), self.decisions, norm2]
        own += [float(gathering.oversized), *map(float, self._wishes), gathering.seconds, *times]
        own += [seconds for _, seconds in gathering.times_s]
        receive = self.ranks.start_gather(own)
        finish = self.ranks.start_sum(self._to_sum) if add else None
        columns = list(zip(*receive(), strict=True))
        failed, losses, presence, decisions, norms2, oversized = columns[:6]
        self._granted = [any(column) for column in columns[6 : 6 + WISHES]]
        slowest = [max(column) for column in columns[6 + WISHES :]]
        if any(oversized):
            if finish is not None:
                finish(present)
            _note_smallest(gathering, oversized)
            return
        if finish is not None:
            finish(present if len(set(presence)) == 1 else self.ranks.any(*present))
            self._add_summed(gathering)
        self._require_same_steps(decisions, norms2)
        gathering.loss_total, gathering.seconds = math.fsum(losses), slowest[0]
        self.times = slowest[1 : 1 + TIMES] if self.times else []
        gathering.times_s = [(n, s) for (n, _), s in zip(gathering.times_s, slowest[1 + TIMES :], strict=True)]
        if any(failed):
            gathering.failed = self._reason(gathering.failed)

    def _require_same_steps(self, decisions: Sequence[float], norms2: Sequence[float]) -> None:
        if len(set(decisions)) > 1:
            said = "; ".join(f"rank {rank}: {last}" for rank, last in enumerate(self.ranks.collect(self._last)))
            raise RightbatchError(
                f"The processes have taken different steps: {said}. Set rates, data and rules alike in all of them."
            )
        _require_close("the norm of the parameters", norms2)

    def agreed(self, *wishes: bool) -> list[bool]:
        """Whether some process had each of these wishes one step ago; the present ones are told with the next batch."""
        if not self.ranks.several:
            return list(wishes)
        self._wishes = list(wishes)
        return self._granted

    def hear_trial(self, gathering: BatchAccumulator) -> None:
        """Bring together what a trial step has given, gradients included where it wants them; `oversized` as `hear`."""
        if not self.ranks.several:
            return
        rows = self.ranks.gather([float(bool(gathering.failed)), gathering.trial_loss_sum, gathering.oversized])
        failed, losses, oversized = zip(*rows, strict=True)
        if any(oversized):
            _note_smallest(gathering, oversized)
            return
        gathering.trial_loss_sum = math.fsum(losses)
        if any(failed):
            gathering.failed = self._reason(gathering.failed)
        elif gathering.wants_gradient:
            self.ranks.add_gradients(self._parameters)

    def _reason(self, failed: str) -> str:
        reasons = self.ranks.collect(failed)
        return next(f"rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason)

    def add_gradients(self, gathering: BatchAccumulator) -> None:
        """Leave the sum over the processes in the parameters."""
        self.ranks.add_gradients(self._to_sum)
        self._add_summed(gathering)

    def _add_summed(self, gathering: BatchAccumulator) -> None:
        """Of a batch that was enlarged, add the sum of its first part."""
        for parameter, earlier in zip(self._parameters, gathering.summed or [], strict=False):
            if earlier is not None:
                parameter.grad = earlier if parameter.grad is None else earlier.add_(parameter.grad)
        gathering.summed = None

    def set_aside(self, gathering: BatchAccumulator) -> None:
        """Before a batch is enlarged: what has been added up must not be added up again."""
        if self.ranks.several:
            gathering.summed = [p.grad for p in self._parameters]
            for parameter in self._parameters:
                parameter.grad = None

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


def _note_smallest(gathering: BatchAccumulator, oversized: Sequence[float]) -> None:
    """Of the passes that ran out of memory, which is the smallest, and of which process."""
    found = min((int(samples), rank) for rank, samples in enumerate(oversized) if samples)
    gathering.oversized, gathering.oversized_rank = found


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
