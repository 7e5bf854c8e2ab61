"""Trial steps: the very batch again, elsewhere, without a trace."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import AutoBatch
from rightbatch.data import Order, blobs, quadratic
from rightbatch.decision import Decision, Needs, Outcome, Plan, Search, Stateless, StepContext, Trial
from rightbatch.rules.batch_size import BigBatch, Fixed
from rightbatch.rules.lr import Armijo, BarzilaiBorwein

N = 90


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(N, 6, generator=generator), torch.randint(0, 3, (N,), generator=generator)


def noisy_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 3))


RULES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "armijo": lambda: (Fixed(32), Armijo(initial=64.0, factor=0.3)),
    "barzilai-borwein": lambda: (Fixed(32), BarzilaiBorwein(initial=64.0)),
    "big-batch": lambda: (BigBatch(kappa=1.0, initial=20, growth=0.5), Armijo(initial=64.0)),
}


@pytest.mark.parametrize("micro_batch", [None, 11])
@pytest.mark.parametrize("name", RULES)
def test_trials_leave_no_trace(name: str, micro_batch: int | None) -> None:
    """Buffers and random numbers afterwards are those of one forward pass over the pieces of the batch."""
    batch, step = RULES[name]()
    model = noisy_network()
    auto = AutoBatch(
        model, torch.optim.SGD(model.parameters(), lr=0.1), data(), batch, step, micro_batch=micro_batch, epochs=2
    )
    torch.manual_seed(7)
    before, random = deepcopy(model), torch.get_rng_state()
    pieces: list[tuple[Tensor, Tensor]] = []
    trials = steps = 0
    evaluated = 0
    for x, y in auto:
        evaluated += 1
        # A search begins once all pieces have been seen: from then on they come again, in the same sequence.
        if trials == 0 and not (pieces and any(x is a or torch.equal(x, a) for a, _ in pieces)):
            pieces.append((x.clone(), y.clone()))
        else:
            a, b = pieces[trials % len(pieces)]
            assert torch.equal(x, a) and torch.equal(y, b)
            trials += 1
        auto.backward(F.cross_entropy(model(x), y))
        if not auto.step():
            continue
        steps += 1
        assert trials > 0 and trials % len(pieces) == 0
        after = torch.get_rng_state()
        torch.set_rng_state(random)
        for a, _ in pieces:
            before(a)
        assert torch.equal(torch.get_rng_state(), after)
        for mine, theirs in zip(model.buffers(), before.buffers(), strict=True):
            assert torch.equal(mine, theirs)
        assert all(p.grad is None for p in model.parameters())
        before, random, pieces, trials = deepcopy(model), after, [], 0
    assert steps >= 2
    assert evaluated > 2 * steps


@dataclass(frozen=True)
class Asking:
    """Asks for given trials at every step, notes the answers, then takes a step of 0.05."""

    trials: tuple[Trial, ...]
    answers: list[tuple[StepContext, list[Outcome]]] = field(default_factory=list)

    name: ClassVar[str] = "asking"
    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = True
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def start(self, plan: Plan) -> tuple[Decision, Stateless]:
        return Decision(lr=0.05), Stateless()

    def decide(self, now: StepContext, state: Stateless) -> Search:
        outcomes = []
        for trial in self.trials:
            outcomes.append((yield trial))
        self.answers.append((now, outcomes))
        return Decision(lr=0.05), state


@pytest.mark.parametrize("micro_batch", [None, 11])
def test_a_trial_at_the_present_point_draws_the_same_dropout_masks(micro_batch: int | None, drive: Any) -> None:
    model, rule = noisy_network(), Asking((Trial(0.0), Trial(1.0), Trial(0.0, gradient=True)))
    drive(AutoBatch(model, None, data(), 32, rule, micro_batch=micro_batch))
    assert len(rule.answers) == 3
    for now, (first, moved, third) in rule.answers:
        assert first.loss == third.loss == now.loss
        assert moved.loss != now.loss


def test_trials_change_no_weight(drive: Any) -> None:
    weights, losses = [], []
    for trials in ((), (Trial(3.0), Trial(0.5, gradient=True), Trial(1e6))):
        torch.manual_seed(5)
        model = noisy_network()
        torch.manual_seed(6)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        losses.append(drive(AutoBatch(model, optimizer, data(), 32, Asking(trials), epochs=3)))
        weights.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert torch.equal(*weights)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("micro_batch", [None, 7])
def test_the_curvature_of_a_quadratic(micro_batch: int | None, drive: Any) -> None:
    """Gradients of ½ (w - z)ᵀ H (w - z) differ by H Δw: the answer is gᵀHg/gᵀg and the loss is a known parabola."""
    problem = quadratic(n=60, features=5, condition=20.0, dtype=torch.float64)
    model = problem.model()
    rule = Asking((Trial(0.3, gradient=True), Trial(7.0, gradient=True), Trial(0.3)))
    auto = AutoBatch(model, None, problem.source, 20, rule, micro_batch=micro_batch, seed=1)
    hessian = problem.population.hessian
    z = problem.source.x[torch.from_numpy(Order(60, 1).indices(0, 0, 20))]
    w = model.w.weight.detach().reshape(-1).clone()
    drive(auto, F.mse_loss, steps=1)
    g = hessian @ (w - z.mean(0))
    curvature = float(g @ hessian @ g / (g @ g))
    (now, outcomes), *_ = rule.answers
    assert now.gradient_norm2 == pytest.approx(float(g @ g), rel=1e-12)
    for trial, outcome in zip(rule.trials, outcomes, strict=True):
        loss = now.loss - trial.step * float(g @ g) + 0.5 * trial.step**2 * float(g @ hessian @ g)
        assert outcome.loss == pytest.approx(loss, rel=1e-11)
        assert outcome.curvature == pytest.approx(curvature, rel=1e-9) or not trial.gradient
    assert torch.isnan(torch.tensor(outcomes[2].curvature))


def classifier() -> tuple[nn.Module, Tensor, Tensor]:
    source = blobs(120)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return model, source.x.double(), source.y


@pytest.mark.parametrize("micro_batch", [None, 9])
def test_armijo_holds_at_the_accepted_step_and_not_before_it(micro_batch: int | None, watch: Any) -> None:
    model, x, y = classifier()
    rule = Armijo(initial=1000.0, c=0.3, rounding=0.0, reset="always")
    auto = AutoBatch(model, None, (x, y), 40, rule, micro_batch=micro_batch, seed=2, epochs=2)
    witness = watch(auto)
    before = deepcopy(model)
    shortened = 0
    for a, b in auto:
        auto.backward(F.cross_entropy(model(a), b))
        if not auto.step():
            continue
        rows = torch.cat([torch.from_numpy(Order(120, 2).indices(*i)) for i in witness.steps[-1][1]])
        loss = F.cross_entropy(before(x[rows]), y[rows])
        gradients = torch.autograd.grad(loss, list(before.parameters()))
        norm2 = sum(float(g.square().sum()) for g in gradients)
        rate = auto.lr

        def at(
            step: float,
            origin: nn.Module = before,
            slope: tuple[Tensor, ...] = gradients,
            rows: Tensor = rows,
        ) -> float:
            moved = deepcopy(origin)
            with torch.no_grad():
                for p, g in zip(moved.parameters(), slope, strict=True):
                    p -= step * g
                return F.cross_entropy(moved(x[rows]), y[rows]).item()

        assert at(rate) <= loss.item() - 0.3 * rate * norm2 + 1e-13
        if rate < 1000.0:
            shortened += 1
            assert at(2 * rate) > loss.item() - 0.3 * 2 * rate * norm2
        for p, q, g in zip(before.parameters(), model.parameters(), gradients, strict=True):
            torch.testing.assert_close(q, p - rate * g, rtol=1e-11, atol=1e-13)
        before = deepcopy(model)
    assert shortened == 6


def test_leaving_in_the_middle_of_a_search_puts_the_model_back() -> None:
    model = noisy_network()
    auto = AutoBatch(model, None, data(), 32, Asking((Trial(5.0), Trial(9.0, gradient=True))))
    before = deepcopy(model)
    for seen, (x, y) in enumerate(auto, 1):
        auto.backward(F.cross_entropy(model(x), y))
        assert not auto.step()
        assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))
        if seen == 2:
            break
    for p, q in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(p, q) and p.grad is None


def test_most_trials_need_no_gradient() -> None:
    """A loop may then skip the graph; the answers are the same."""
    rates = []
    for skip in (False, True):
        model, x, y = classifier()
        auto = AutoBatch(model, None, (x, y), 40, Armijo(initial=100.0), seed=2, epochs=1)
        forward_only = 0
        for a, b in auto:
            forward_only += not auto.needs_gradient
            with torch.set_grad_enabled(auto.needs_gradient or not skip):
                loss = F.cross_entropy(model(a), b)
            auto.backward(loss)
            if auto.step():
                rates.append((skip, auto.lr))
        assert forward_only > 3
    assert [rate for skip, rate in rates if skip] == [rate for skip, rate in rates if not skip]


@pytest.mark.parametrize("name", ["armijo", "barzilai-borwein"])
def test_searching_steps_lower_the_loss(name: str, drive: Any) -> None:
    model, x, y = classifier()
    losses = drive(AutoBatch(model, None, (x, y), 40, name, epochs=10))
    assert losses[-1] < 0.5 * losses[0]


def test_a_search_that_finds_only_non_finite_losses_gives_up_quietly(drive: Any) -> None:
    """Far away the loss overflows: trials answer nan or inf, the search shortens, nothing fails."""
    model, x, y = classifier()
    auto = AutoBatch(model, None, (x, y), 40, Armijo(initial=1e300, factor=1e-30), epochs=1)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target) + output.square().square().mean()

    losses = drive(auto, loss)
    assert len(losses) == 3
    assert auto.lr < 1.0
