"""The gradient noise from the moments an optimizer keeps anyway: free, and second-rate."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...errors import InputError, UnsupportedError
from ...measurements import Measurement
from ..gradient_norm import squared_norm
from .estimator import Estimator


class Moments(NamedTuple):
    """Where an optimizer keeps the running averages of g and of g², by their names in its state."""

    first: str
    second: str


ADAM = Moments("exp_avg", "exp_avg_sq")
MOMENTS: dict[type[torch.optim.Optimizer], Moments] = {
    torch.optim.Adam: ADAM,
    torch.optim.AdamW: ADAM,
    torch.optim.NAdam: ADAM,
    torch.optim.RAdam: ADAM,
    torch.optim.RMSprop: Moments("grad_avg", "square_avg"),  # where it is centred
}


class AdamMoments(Estimator):
    """Solves what the first and second moment of an optimizer such as Adam are expected to be for V and s.

    Assumes gradients that come from one distribution for as long as the moments reach back, and that the optimizer was
    given the mean gradients as they were. With w_j and u_j the weights of the gradient of step j in the moments,

    E Σ_k v̂_k = s + V A₂,   E Σ_k m̂_k² = s + V A₁,   A₂ = Σ_j w_j/b_j,   A₁ = Σ_j u_j²/b_j

    so that V̂ = Σ_k (v̂_k - m̂_k²) / (A₂ - A₁) and ŝ = Σ_k m̂_k² - A₁ V̂. For one batch size b and many steps that is
    V̂ = b Σ_k (v̂_k - m̂_k²) (1 + β₁)/(2 β₁).

    | symbol | argument | meaning |
    |---|---|---|
    | m̂, v̂ | optimizer | moments after t steps over 1 - β₁^t and 1 - β₂^t, k counts the weights |
    | w_j = (1 - β₂) β₂^(t-j) / (1 - β₂^t) | | of g_j² in v̂; u_j likewise, of g_j in m̂ with β₁ |
    | b_j | measurement(samples) | samples of step j; a step not measured counts as large as the one measured before |

    Biases: the moments reach back 1/(1 - β₂) steps, 1000 by default, and are that stale; all that the gradient moves in
    that time counts as noise; an L2 penalty (Adam's weight_decay, not AdamW's) is in the signal; clipped gradients are
    those seen. Measurements soon after each other rest on the same gradients, so that their scatter says little of
    their error. Good for a sanity check that costs little, not for decisions: docs/estimators.md has figures.

    Args:
        parameters: the trainable parameters.
        optimizer: Adam, AdamW, NAdam, RAdam, or RMSprop(centered=True), over all of them.

    Raises:
        UnsupportedError: another optimizer, or one without a first moment (β₁ = 0).
        InputError: the optimizer is not over these parameters.

    Reference: the moments are those of Kingma, Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1;
    their expectations for V and s are derived here.
    """

    name: ClassVar[str] = "optimizer-state"

    def __init__(self, parameters: Iterable[Tensor], optimizer: torch.optim.Optimizer) -> None:
        kind = next((kind for kind in MOMENTS if isinstance(optimizer, kind)), None)
        self._optimizer_name = type(optimizer).__name__
        if kind is None or any(not _averages(group) for group in optimizer.param_groups):
            raise UnsupportedError(
                f"{self._optimizer_name} as given keeps no running average of both the gradient and its square; "
                "'optimizer-state' needs Adam, AdamW, NAdam or RAdam with betas[0] > 0, or RMSprop(centered=True)"
            )
        self._moments = MOMENTS[kind]
        self._optimizer = optimizer
        weights = sum(p.numel() for p in parameters if p.requires_grad)
        stepped = sum(p.numel() for group in optimizer.param_groups for p in _trained(group))
        if weights != stepped:
            raise InputError(
                f"the optimizer steps {stepped} weights of {weights} trainable ones; it must step them all"
            )
        self._shares = [Shares() for _ in optimizer.param_groups]
        self._samples = 0  # of the batch measured last

    @property
    def description(self) -> str:
        return f"the moments kept by {self._optimizer_name}"

    def measurement(self, gradient_norm2: float, samples: int, scale: float = 1.0) -> Measurement:
        """V̂ and ŝ of the steps taken so far, not of this batch, which only hands on its size.

        Returns:
            Variance and signal are nan before the optimizer has taken 2 steps; the standard errors are nan.

        Raises:
            InputError: no sample.
            UnsupportedError: the optimizer's state does not hold both moments for every parameter alike.
        """
        if samples < 1:
            raise InputError(f"a batch of {samples} samples was given; at least 1 is needed")
        size, self._samples = self._samples or samples, samples
        variance = signal = reach = 0.0
        for shares, group in zip(self._shares, self._optimizer.param_groups, strict=True):
            # a parameter without a state has had no gradient, and has no share in the noise
            states = [state for p in _trained(group) if (state := self._optimizer.state.get(p))]
            taken = {int(steps) for steps in _on_host([state["step"] for state in states])}
            if len(taken) > 1:
                raise UnsupportedError(
                    f"parameters of one group have taken {min(taken)} and {max(taken)} steps of "
                    f"{self._optimizer_name}; 'optimizer-state' needs all of a group stepped together"
                )
            if not taken:
                continue
            steps = taken.pop()
            beta1, beta2 = _decays(group)
            shares.advance(steps, size, beta1, beta2)
            if steps < 2:
                variance = math.nan
                continue
            first, second = self._sums(states)
            first /= (1 - beta1**steps) ** 2
            second /= 1 - beta2**steps
            of_first = shares.first / (1 - beta1**steps) ** 2
            of_second = shares.second / (1 - beta2**steps)
            own = (second - first) / (of_second - of_first)
            variance += own
            signal += first - of_first * own
            reach = max(reach, min(steps, 1 / (1 - beta2)))
        kept = f"moments kept by {self._optimizer_name}"
        if not reach or math.isnan(variance):
            return Measurement(samples, gradient_norm2, math.nan, math.nan, method=self.name, reason=f"{kept}: too new")
        reason = f"{kept}, which reach back about {reach:.0f} steps"
        return Measurement(samples, gradient_norm2, variance, signal, method=self.name, reason=reason)

    def _sums(self, states: list[dict[str, Any]]) -> tuple[float, float]:
        """Σ_k m_k² and Σ_k v_k."""
        try:
            first = [state[self._moments.first] for state in states]
            second = [state[self._moments.second] for state in states]
        except KeyError as missing:
            raise UnsupportedError(
                f"the state of {self._optimizer_name} holds no {missing} for some parameter"
            ) from None
        wide = torch.promote_types(second[0].dtype, torch.float32)
        sums = torch.stack([v.sum(dtype=wide).to(second[0].device) for v in second])
        return squared_norm(first), sums.sum().item()

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self._samples, "shares": [[s.steps, s.first, s.second] for s in self._shares]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._samples = state["samples"]
        self._shares = [Shares(*shares) for shares in state["shares"]]


@dataclass(slots=True)
class Shares:
    """Σ_j w_j/b_j and Σ_j u_j²/b_j over the steps so far, w and u not yet over their own sums."""

    steps: int = 0
    first: float = 0.0
    second: float = 0.0

    def advance(self, steps: int, samples: int, beta1: float, beta2: float) -> None:
        """Come to `steps` steps, those since the last time having been on `samples` samples each."""
        if steps < self.steps:  # the optimizer was taken back, or begun anew
            self.steps, self.first, self.second = 0, 0.0, 0.0
        past1, past2 = beta1 ** (2 * (steps - self.steps)), beta2 ** (steps - self.steps)
        self.first = past1 * self.first + (1 - past1) * (1 - beta1) / (1 + beta1) / samples
        self.second = past2 * self.second + (1 - past2) / samples
        self.steps = steps


def _averages(group: Mapping[str, Any]) -> bool:
    return bool(group["centered"] if "centered" in group else group["betas"][0] > 0)


def _decays(group: Mapping[str, Any]) -> tuple[float, float]:
    """β₁ and β₂."""
    if "alpha" in group:
        return group["alpha"], group["alpha"]
    return float(group["betas"][0]), float(group["betas"][1])


def _on_host(numbers: list[Any]) -> list[float]:
    """Steps as torch keeps them: numbers, or tensors on some device, which is read once."""
    return torch.stack([torch.as_tensor(n) for n in numbers]).tolist() if numbers else []


def _trained(group: Mapping[str, Any]) -> list[Tensor]:
    return [p for p in group["params"] if p.requires_grad]
