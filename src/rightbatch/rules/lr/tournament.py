"""Learning rate by a tournament of forks, then linear decay to the end of the run; what "auto" means.

Forks of the run at several learning rates take the same batches. Each keeps the average of its iterates, the j-th
weighted by j, and is judged by the loss of that average on fresh samples: the loss of the iterate itself is dominated
by noise that the decay removes later, and would favour rates that are 2 to 8 times too small. Then

    η(p) = η_t · (1 - p) · sqrt(B/B_t),      p the share of the run that is over,

with η_t the winner and B_t the batch size of the tournament. Weights decay only as far as over-fitting is measured:

    λ = λ_max · sqrt(η_ref/η_t) · clip((G - G_0)/w, 0, 1),      G ← G + (1 - L_train/L_valid - G)/2

at each validation, L_train averaged over about 20 steps.

| symbol | argument | meaning |
|---|---|---|
| η_ref | lr | middle of the rates compared |
| λ_max | weight_decay | largest decay of weights, decoupled, for `lr` |
| G_0, w | gap, gap_width | gap between training and validation at which decay begins; until it is full |

Reference: none; this project's (docs/default.md). The averaging and the decay are usual; successive halving is
Jamieson and Talwalkar's.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from ...citation import Citation
from ...decision import NO_EVIDENCE, Decision, Needs, Outlook, Plan, Round, Search, StepContext
from ...errors import InputError
from ...ranges import require_number, require_whole

PASSES = 84  # 3 forks of 12 steps and 2 of 24 more: passes of one batch by default
LEAST_STEPS = 3
LOSS_WEIGHT = 0.05  # of a batch in the average training loss
GAP_WEIGHT = 0.5  # of a validation in the average gap
JUDGED_SHARE = 0.01  # of the samples to come


@dataclass(frozen=True, slots=True)
class TournamentState:
    """Where the rule stands.

    Args:
        lrs: of the forks still compared, in the order of their turns; of one, the winner.
        rounds: played.
        stretch: factor on the steps of all rounds, less than 1 in short runs; nan before the first.
        batch_size: of the tournament; 0 until it is over.
        train_loss: averaged; nan before the first batch.
        gap: averaged.
        validations: seen.
        weight_decay: decided.
    """

    lrs: tuple[float, ...]
    rounds: int = 0
    stretch: float = math.nan
    batch_size: int = 0
    train_loss: float = math.nan
    gap: float = 0.0
    validations: int = 0
    weight_decay: float = 0.0


@dataclass(frozen=True, slots=True)
class Tournament:
    """Compare three learning rates by forks of the run, take the best, and decay it linearly to the end of the run.

    With an optimizer given, the rates compared are its own and `ratio` times less and more, and its weight decay is
    left alone. Without a horizon the rate is constant.

    Args:
        lr: middle of the rates compared; a model with a single weight matrix takes `linear` times as much.
        ratio: between neighbouring rates.
        linear: see `lr`.
        first_steps: steps of all three forks, after which the worst is dropped.
        second_steps: further steps of the two left.
        share: most of the run that the forks' passes may take; their steps are reduced for it, to three at least.
        judged: samples to judge on, at least; no more than 1 % of the run, but two batches.
        weight_decay: see above.
        gap: see above.
        gap_width: see above.

    Raises:
        InputError: a setting out of its range; when a run starts, a given optimizer without a rate.
    """

    lr: float = 0.012
    ratio: float = 3.0
    linear: float = 3.0
    first_steps: int = 12
    second_steps: int = 24
    share: float = 0.12
    judged_samples: int = 128
    weight_decay: float = 0.2
    gap: float = 0.03
    gap_width: float = 0.15

    name: ClassVar[str] = "tournament"
    reference: ClassVar[Citation | None] = None
    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("lr", "linear", "share", "gap_width"):
            require_number(f"Tournament.{name}", getattr(self, name), above=0)
        for name in ("weight_decay", "gap"):
            require_number(f"Tournament.{name}", getattr(self, name), least=0)
        require_number("Tournament.ratio", self.ratio, above=1)
        for name in ("first_steps", "second_steps", "judged_samples"):
            require_whole(f"Tournament.{name}", getattr(self, name), least=1)

    def start(self, plan: Plan) -> tuple[Decision, TournamentState]:
        """Start with the smallest rate."""
        middle = self.lr * (self.linear if plan.matrices <= 1 else 1.0) if plan.own_optimizer else plan.lr
        if not middle > 0:
            raise InputError(f"Tournament has a learning rate of {middle:g} to compare others with: give one above 0.")
        small, large = middle / self.ratio, middle * self.ratio
        reason = f"learning rates {small:.3g}, {middle:.3g} and {large:.3g} are compared by forks of the run"
        state = TournamentState((large, small, middle))  # what is not known better is reported: the middle, last
        return Decision(lr=small, code="initial", reason=reason), state

    def round(self, outlook: Outlook, state: TournamentState) -> tuple[Round | None, TournamentState]:
        """Two rounds."""
        if len(state.lrs) == 1:
            return None, state
        left = outlook.steps_left
        stretch = state.stretch
        if math.isnan(stretch):
            stretch = 1.0 if left is None else min(1.0, self.share * left / PASSES)
        steps = self.second_steps if state.rounds else self.first_steps
        most = self.judged_samples if left is None else JUDGED_SHARE * left * outlook.batch_size
        samples = max(2 * outlook.batch_size, min(self.judged_samples, round(most)))
        return Round(state.lrs, max(LEAST_STEPS, round(steps * stretch)), samples), replace(state, stretch=stretch)

    def judged(
        self, losses: tuple[float, ...], state: TournamentState
    ) -> tuple[Decision, tuple[int, ...], TournamentState]:
        """Drop the worst after the first round, all but the best after the second."""
        order = sorted(range(len(losses)), key=lambda at: (losses[at], state.lrs[at]))
        alive = [at for at in order if math.isfinite(losses[at])]
        if not alive:
            lr = min(state.lrs) / self.ratio
            reason = f"the forks at all learning rates diverged: continue at {lr:.3g}"
            return Decision(lr=lr, code="tournament", reason=reason), (), replace(state, lrs=(lr,))
        kept = alive[: 1 if state.rounds else 2]
        kept.reverse()  # the best takes its turn last, and is reported
        lrs = tuple(state.lrs[at] for at in kept)
        after = replace(state, lrs=lrs, rounds=state.rounds + 1)
        found = ", ".join(f"{losses[at]:.4g} at {state.lrs[at]:.3g}" for at in order)
        what = f"continue at {lrs[0]:.3g}, which decays to 0" if len(lrs) == 1 else "the best two go on"
        evidence = {f"loss_{state.lrs[at]:.3g}": losses[at] for at in order}
        reason = f"losses of the averages of the forks: {found}; {what}"
        return Decision(lr=lrs[-1], code="tournament", reason=reason, evidence=evidence), tuple(kept), after

    def without_rounds(self, state: TournamentState) -> tuple[Decision, TournamentState]:
        """Take the middle rate."""
        lr = sorted(state.lrs)[len(state.lrs) // 2]
        reason = f"no forks are possible here: continue at {lr:.3g}"
        return Decision(lr=lr, code="no-forks", reason=reason), replace(state, lrs=(lr,))

    def decide(self, now: StepContext, state: TournamentState) -> Search:
        """Decay the rate, and weights where over-fitting is measured."""
        yield from ()
        loss = now.loss
        if not math.isnan(state.train_loss):
            loss = state.train_loss + LOSS_WEIGHT * (now.loss - state.train_loss)
        state = replace(state, train_loss=loss)
        if len(state.lrs) > 1:  # until the rounds begin
            return Decision(code="held"), state
        state = replace(state, batch_size=state.batch_size or max(now.wanted, now.batch_size))
        settings = NO_EVIDENCE
        if now.validations > state.validations:
            state = self._validated(now, state)
            settings = {"weight_decay": state.weight_decay}
        base, progress = state.lrs[-1], now.progress or 0.0
        lr = base * max(0.0, 1.0 - progress) * math.sqrt(max(now.wanted, 1) / state.batch_size)
        return Decision(lr=lr, code="decay", settings=settings), state

    def _validated(self, now: StepContext, state: TournamentState) -> TournamentState:
        if not (math.isfinite(now.valid_loss) and now.valid_loss > 0):
            return replace(state, validations=now.validations)
        gap = state.gap + GAP_WEIGHT * (1 - state.train_loss / now.valid_loss - state.gap)
        full = self.weight_decay * math.sqrt(self.lr / state.lrs[-1])
        decay = full * min(1.0, max(0.0, (gap - self.gap) / self.gap_width))
        return replace(state, gap=gap, validations=now.validations, weight_decay=decay)
