"""How one layer's use in a pass becomes numbers of its samples: exactly, or of a few of them."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...measurements import Audit, LayerReading
from ..gradient_norm import squared_norm
from ..preconditioner import TRAINING_FLOOR, Preconditioner
from .plan import Choice, cheapest
from .random_projections import RANDOM_PROJECTIONS
from .sharing import joined, joint_norms2, merged, norms2_of
from .signs import Signs
from .uses import LayerUse, ParamUse
from .weighted import slot_norms2, weighted_norms2


class NormReader:
    """Asks every use for the exact ‖c_i‖² of all its samples."""

    name = "per-example"
    description = "exact per-example norms, taken during the backward pass"
    metric = ""  # whose preconditioner is applied
    audited_rows: Tensor | None = None  # samples of the micro-batch whose estimates are held against exact norms

    def __init__(self) -> None:
        self._layers: dict[str, LayerReading] = {}

    def begin(self, samples: int, device: torch.device) -> Tensor | None:
        """Get ready for a micro-batch; answers the rows that will be read of it, None for all."""
        return None

    def norms2(self, path: str, use: ParamUse) -> Tensor:
        """‖c_i‖² of one use or an unbiased estimate of it, shape (b,), or (m,) where m rows are read."""
        self._note(path, use, "exact", "")
        return use.norms2()

    def joint(
        self, uses: Sequence[ParamUse], paths: Mapping[Tensor, Sequence[str]], audited: Tensor | None
    ) -> list[Tensor]:
        """‖Σ c_i‖² over the uses kept of a micro-batch, in parts to be added up, or an unbiased estimate of it.

        Args:
            uses: those of parameters that are used more than once, or of modules that were run again.
            paths: of the layers that have a parameter.
            audited: what `audited_rows` was for that micro-batch.
        """
        return norms2_of(uses)

    def gradient_norm2(self, parameters: Iterable[Tensor]) -> float | None:
        """The squared norm of the gradient in the same metric; None where that is the plain one."""
        return None

    @property
    def layers(self) -> tuple[LayerReading, ...]:
        """How each layer was last read."""
        return tuple(self._layers.values())

    def clear(self) -> None:
        """Forget the batch before."""

    def audit(self, samples: int) -> None:
        """Hold the estimates of the next micro-batch against exact norms, on `samples` of its samples."""

    def audited(self) -> Audit | None:
        """What came of that; None where nothing was estimated."""
        return None

    def reseed(self, seed: str) -> None:
        """Begin its random choices anew."""

    def state_dict(self) -> dict[str, Any]:
        """Where its random choices have got to."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on choosing from `state`."""

    def _note(self, path: str, use: ParamUse, method: str, reason: str) -> None:
        if path not in self._layers or self._layers[path].method != method:
            self._layers[path] = LayerReading(path, use.kind, method, reason)


class Weighted(NormReader):
    """Asks for the exact ‖P c_i‖², P the diagonal preconditioner of an optimizer as it stands before its next step.

    P is bounded (`Preconditioner`'s floor): early on, features not met yet would else outweigh all others.

    Args:
        optimizer: it must have stepped; until then a batch is refused.
    """

    description = "exact per-example norms in the optimizer's metric, taken during the backward pass"

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()
        self._optimizer = optimizer
        self._preconditioner: Preconditioner | None = None
        self._squares: Mapping[Tensor, Tensor] = {}
        with suppress(InputError):  # it has not stepped yet; of a kind that is not known it is refused
            Preconditioner(optimizer)

    def begin(self, samples: int, device: torch.device) -> Tensor | None:
        if self._preconditioner is None:
            with suppress(InputError):
                known = Preconditioner(self._optimizer, TRAINING_FLOOR)
                self._squares = known.squares(p for group in known.groups for p in group)
                self._preconditioner = known
        return None

    def clear(self) -> None:
        self._preconditioner, self._squares = None, {}

    def norms2(self, path: str, use: ParamUse) -> Tensor:
        self._note(path, use, "exact", "in the optimizer's metric")
        return weighted_norms2(use, self._squares)

    def joint(
        self, uses: Sequence[ParamUse], paths: Mapping[Tensor, Sequence[str]], audited: Tensor | None
    ) -> list[Tensor]:
        return [part for group in joined(uses) for part in slot_norms2(group, self._squares).values()]

    def gradient_norm2(self, parameters: Iterable[Tensor]) -> float | None:
        if self._preconditioner is None:
            raise InputError(f"{type(self._optimizer).__name__} has not stepped with every parameter: it has no metric")
        of = self._preconditioner.diagonal
        pairs = [(p.grad, of(p)) for p in parameters if p.grad is not None]
        return squared_norm(gradient if diagonal is None else gradient * diagonal for gradient, diagonal in pairs)

    @property
    def metric(self) -> str:  # type: ignore[override]
        return type(self._optimizer).__name__


class Subset(NormReader):
    """Asks for the exact ‖c_i‖² of a few samples of each micro-batch, drawn at random without replacement.

    Args:
        samples: how many, of each micro-batch; all of a smaller one.
        seed: of a generator of its own.
    """

    name = "subset"
    description = "exact norms of a few samples drawn at random, taken during the backward pass"

    def __init__(self, samples: int = 32, seed: int = 0) -> None:
        if samples < 2:
            raise InputError(f"a subset of {samples} was asked for; its variance needs at least 2 samples")
        super().__init__()
        self._samples = samples
        self._random = random.Random(seed)
        self._rows = torch.empty(0)

    def begin(self, samples: int, device: torch.device) -> Tensor | None:
        count = min(self._samples, samples)
        self._rows = torch.tensor(sorted(self._random.sample(range(samples), count)), device=device)
        return self._rows

    def norms2(self, path: str, use: ParamUse) -> Tensor:
        self._note(path, use, "exact, of some samples", f"{len(self._rows)} samples drawn at random")
        return use.at(self._rows).norms2()

    def reseed(self, seed: str) -> None:
        self._random.seed(seed)

    def state_dict(self) -> dict[str, Any]:
        return {"random": self._random.getstate()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        version, words, gauss = state["random"]
        self._random.setstate((version, tuple(words), gauss))


class Cheapest(NormReader):
    """Exact where that is free or nearly so, else an unbiased estimate by random signs: layer by layer, see `plan`.

    The signs of different samples are independent, so that the spread of the numbers over the samples holds the error
    of the estimates too.

    Args:
        probes: random projections averaged for each sample; more are taken where that is too few for a layer.
        seed: of generators of its own, for the signs and for the samples audited.
    """

    def __init__(self, probes: int = 1, seed: int = 0) -> None:
        super().__init__()
        self._probes = probes
        self._signs = Signs(seed)
        self._random = random.Random(seed)
        self._choices: dict[tuple[tuple[str, ...], torch.Size, torch.Size], Choice] = {}
        self._to_audit = 0
        self._pairs: list[tuple[Tensor, Tensor]] = []

    description = "per-example norms, by random signs where exact ones are dear, taken during the backward pass"

    @property
    def name(self) -> str:  # type: ignore[override]
        return "sketch" if any(layer.method == "sketch" for layer in self._layers.values()) else "per-example"

    def begin(self, samples: int, device: torch.device) -> Tensor | None:
        self.audited_rows = None
        if self._to_audit:
            rows = sorted(self._random.sample(range(samples), min(self._to_audit, samples)))
            self.audited_rows, self._to_audit = torch.tensor(rows, device=device), 0
        return None

    def norms2(self, path: str, use: ParamUse) -> Tensor:
        if not isinstance(use, LayerUse):
            self._note(path, use, "exact", "its gradients are formed from a second run")
            return use.norms2()
        return self._cheapest((path,), use, self.audited_rows)

    def joint(
        self, uses: Sequence[ParamUse], paths: Mapping[Tensor, Sequence[str]], audited: Tensor | None
    ) -> list[Tensor]:
        found = []
        for group in map(merged, joined(uses)):
            match group:
                case [LayerUse() as use]:  # all are positions of one layer or projection
                    own = {path: None for slot in use.slots().values() for path in paths[slot.parameter]}
                    found.append(self._cheapest(tuple(own), use, audited))
                case _:
                    found.append(joint_norms2(group))
        return found

    def _cheapest(self, paths: tuple[str, ...], use: LayerUse, audited: Tensor | None) -> Tensor:
        key = (paths, use.kept[0].shape, use.d.shape)
        choice = self._choices.get(key)
        if choice is None:
            choice = self._choices[key] = cheapest(use.rule, use.layer, use.kept, use.d, self._probes)
            for path in paths:
                self._note(path, use, choice.method, choice.reason)
        if choice.method != "sketch":
            return use.norms2()
        norms2 = RANDOM_PROJECTIONS[use.rule](use.layer, use.kept, use.d, self._signs, choice.probes)
        if audited is not None:
            self._pairs.append((norms2[audited], use.at(audited).norms2()))
        return norms2

    def clear(self) -> None:
        self._pairs = []

    def audit(self, samples: int) -> None:
        self._to_audit = samples

    def audited(self) -> Audit | None:
        if not self._pairs:
            return None
        pairs = zip(*self._pairs, strict=True)
        estimate, exact = (torch.stack([part.double() for part in parts]).sum(0) for parts in pairs)
        error = math.sqrt(len(exact) * (estimate - exact).var().item()) if len(exact) > 1 else math.nan
        return Audit(len(exact), estimate.sum().item(), exact.sum().item(), error)

    def reseed(self, seed: str) -> None:
        self._signs.reseed(seed)
        self._random.seed(seed)

    def state_dict(self) -> dict[str, Any]:
        return {"signs": self._signs.state_dict(), "random": self._random.getstate()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._signs.load_state_dict(state["signs"])
        version, words, gauss = state["random"]
        self._random.setstate((version, tuple(words), gauss))
