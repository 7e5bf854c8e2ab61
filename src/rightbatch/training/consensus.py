"""What the processes of a run tell each other, so that all take the same steps.

Every process cuts the same intervals off the same order and takes its share of each micro-batch. Three times a step a
few numbers go round: losses, failures and times before the gradients are added up; what is computed from the sum, where
the first process's numbers are those that count; times and the digest of all decisions after the step. Rules are pure
functions, so that processes which decide on the same numbers decide the same; the digests prove it.

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

from ..decision import Decision, Outcome
from ..errors import RightbatchError, UnsupportedError
from ..evidence import Movement
from ..noise import squared_norm
from .gathering import Gathering
from .ranks import Ranks

COMPARE_EVERY_STEPS = 100
SAME = 1e-6  # by which norms of the same parameters may differ: by rounding on unlike machines, not by a step


def unwrapped(model: nn.Module, ranks: Ranks) -> nn.Module:
    """The model itself where it comes in DistributedDataParallel, which from now on leaves gradients alone.

    Raises:
        UnsupportedError: its parameters are spread over the processes, or it speaks to the others in its passes.
    """
    if isinstance(model, DistributedDataParallel):
        # What its no_sync() does. It averages with equal weights and must know at the forward pass which backward pass
        # is the last of a step; here shares are unequal, and a rule may want more once it has seen the gradient.
        model.require_backward_grad_sync = False
        model = model.module
    sharded = any("FullySharded" in base.__name__ or base.__name__ == "FSDPModule" for base in type(model).__mro__)
    if sharded or any(hasattr(p, "device_mesh") for p in model.parameters()):
        raise UnsupportedError(
            "The model's parameters are spread over the processes (FSDP, DTensor), which is not supported: give the "
            "model itself, whole in each process. Where it does not fit, recompute activations "
            "(torch.utils.checkpoint) and lower micro_batch."
        )
    synced = [name for name, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)]
    if synced and ranks.several:
        raise UnsupportedError(
            f"'{synced[0]}': SyncBatchNorm waits for the other processes in each pass, but their shares of a batch may "
            "be cut otherwise, or empty: use BatchNorm, which takes each share by itself, or GroupNorm."
        )
    return model


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


class Consensus:
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

    def __init__(self, ranks: Ranks, model: nn.Module, parameters: list[nn.Parameter], settings: dict[str, object]):
        self.ranks = ranks
        self.decisions = 0
        self._last = ""
        self._model = model
        self._parameters = parameters
        if ranks.several:
            shapes = [(name, tuple(p.shape), str(p.dtype)) for name, p in model.named_parameters()]
            for what, value in {**settings, "the model": crc32(repr(shapes).encode())}.items():
                ranks.require_equal(what, value, "Give the same everywhere.")
            ranks.copy_from_first(self._tensors)
            self.require_same_model()

    @property
    def _tensors(self) -> list[Tensor]:
        return [p.detach() for p in self._model.parameters()] + list(self._model.buffers())

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

    def hear(self, gathering: Gathering) -> None:
        """Bring together losses, failures and times of the batch as gathered so far: the slowest counts."""
        gathering.loss_total = gathering.loss_sum
        if not self.ranks.several:
            return
        own = [float(bool(gathering.failed)), gathering.loss_sum, gathering.seconds]
        rows = self.ranks.gather([*own, *(seconds for _, seconds in gathering.times_s)])
        failed, losses, seconds, *pieces = zip(*rows, strict=True)
        gathering.loss_total, gathering.seconds = math.fsum(losses), max(seconds)
        gathering.times_s = [(n, max(s)) for (n, _), s in zip(gathering.times_s, pieces, strict=True)]
        if any(failed):
            gathering.failed = self._reason(gathering.failed)

    def hear_trial(self, gathering: Gathering) -> None:
        """Bring together what a trial step has given, gradients included where it wants them."""
        if not self.ranks.several:
            return
        rows = self.ranks.gather([float(bool(gathering.failed)), gathering.trial_loss_sum])
        failed, losses = zip(*rows, strict=True)
        gathering.trial_loss_sum = math.fsum(losses)
        if any(failed):
            gathering.failed = self._reason(gathering.failed)
        elif gathering.wants_gradient:
            self.ranks.add_gradients(self._parameters)

    def _reason(self, failed: str) -> str:
        reasons = self.ranks.collect(failed)
        return next(f"rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason)

    def add_gradients(self, gathering: Gathering) -> None:
        """Leave the sum over the processes in the parameters, of a batch that was enlarged with its first part's."""
        if not self.ranks.several:
            return
        self.ranks.add_gradients(self._parameters)
        for parameter, earlier in zip(self._parameters, gathering.summed or [], strict=False):
            if earlier is not None:
                parameter.grad = earlier if parameter.grad is None else earlier.add_(parameter.grad)
        gathering.summed = None

    def set_aside(self, gathering: Gathering) -> None:
        """Before a batch is enlarged: what has been added up must not be added up again."""
        if self.ranks.several:
            gathering.summed = [p.grad for p in self._parameters]
            for parameter in self._parameters:
                parameter.grad = None

    def seen(self, own: Seen, failed: str) -> Seen:
        """What the first process has computed; all must have come to the same but for rounding.

        Of a batch that failed there is no sum, and its norm is not a number.

        Raises:
            RightbatchError: they have not: the sum of the gradients is not the same everywhere.
        """
        if not self.ranks.several:
            return own
        movement = own.movement or Movement(math.nan, math.nan, 0)
        moved = [movement.distance_rms, movement.squared_directions, float(movement.steps)]
        norm2 = math.nan if failed else own.gradient_norm2
        rows = self.ranks.gather([norm2, math.nan if own.distance is None else own.distance, *moved])
        _require_close("the norm of the summed gradient", [row[0] for row in rows])
        norm2, distance, rms, squares, steps = rows[0]
        return Seen(
            norm2,
            None if own.distance is None else distance,
            None if own.movement is None else Movement(rms, squares, int(steps)),
        )

    def outcome(self, own: Outcome) -> Outcome:
        """The curvature of a trial step that the first process has found."""
        return Outcome(own.loss, self.ranks.gather([own.curvature])[0][0]) if self.ranks.several else own

    def note(self, step: int, examples: int, learning_rate: float, size: Decision, rate: Decision) -> None:
        """Add to the digest what is done at a step and what has been decided."""
        if self.ranks.several:
            said = [f"batch of {examples}", f"learning rate {learning_rate!r}", f"next batch {size.examples}"]
            said += [f"{name} {value!r}" for name, value in sorted(rate.settings.items())]
            said += [decision.action for decision in (size, rate) if decision.action]
            self._last = f"step {step}: {', '.join(said)}"
            self.decisions = crc32(self._last.encode(), self.decisions)

    def conclude(self, step: int, seconds: Sequence[float]) -> list[float]:
        """After a step: the times of the slowest process, all having decided the same and, now and then, come as far.

        Raises:
            RightbatchError: decisions or parameters differ; names ranks and values.
        """
        if not self.ranks.several:
            return list(seconds)
        compared = step % COMPARE_EVERY_STEPS == 1
        norm2 = squared_norm([p.detach() for p in self._parameters]) if compared else 0.0
        digests, norms2, *times = zip(*self.ranks.gather([float(self.decisions), norm2, *seconds]), strict=True)
        if len(set(digests)) > 1:
            said = "; ".join(f"rank {rank}: {last}" for rank, last in enumerate(self.ranks.collect(self._last)))
            raise RightbatchError(
                f"The processes have taken different steps: {said}. Set rates, data and rules alike in all of them."
            )
        _require_close("the norm of the parameters", norms2)
        return [max(column) for column in times]

    def begin_at(self, decisions: int) -> None:
        """Go on from a state that was loaded, everywhere the same.

        Raises:
            InputError: it was not.
        """
        self.decisions = decisions
        self.require_same_model()


def _require_close(what: str, values: Sequence[float]) -> None:
    first = values[0]
    if any(abs(value - first) > SAME * abs(first) for value in values):
        listed = "; ".join(f"rank {rank}: {value!r}" for rank, value in enumerate(values))
        raise RightbatchError(
            f"The processes have gone apart in {what}: {listed}. Change parameters and optimizer in all of them alike."
        )
