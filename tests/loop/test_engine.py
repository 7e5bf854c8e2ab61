"""What the loop tells rules and does for them: lengths, optimizer settings, distance, projections."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import AutoBatch, UnsupportedError
from rightbatch.decision import Decision, Needs, Plan, Search, Stateless, StepContext
from rightbatch.noise import per_example_gradients
from rightbatch.rules.batch_size import Fixed

N = 48


def model_and_data() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return model, (torch.randn(N, 4, dtype=torch.float64), torch.randint(0, 3, (N,)))


@dataclass(frozen=True)
class Setting:
    """Sets what it is told to at step `at`, and notes what it is told."""

    settings: dict[str, float] = field(default_factory=dict)
    at: int = 1
    wants: Needs = Needs.NOTHING
    plans: list[Plan] = field(default_factory=list)
    shown: list[StepContext] = field(default_factory=list)

    name: ClassVar[str] = "setting"
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    @property
    def needs(self) -> Needs:
        return self.wants

    def start(self, plan: Plan) -> tuple[Decision, Stateless]:
        self.plans.append(plan)
        return Decision(settings=self.settings if self.at < 0 else {}), Stateless()

    def decide(self, now: StepContext, state: Stateless) -> Search:
        yield from ()
        self.shown.append(now)
        return Decision(settings=self.settings if now.step == self.at else {}), state


def run(auto: AutoBatch, model: nn.Module, each: Callable[[], None] = lambda: None) -> None:
    for x, y in auto:
        auto.backward(F.cross_entropy(model(x), y))
        if auto.step():
            each()


OPTIMIZERS: dict[str, tuple[Callable[[Any], torch.optim.Optimizer], dict[str, float]]] = {
    "momentum": (
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        {"momentum": 0.5, "weight_decay": 0.0},
    ),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, lr=0.01), {"beta2": 0.9, "eps": 1e-6}),
    "adamw": (lambda p: torch.optim.AdamW(p, lr=0.01), {"beta1": 0.8, "beta2": 0.95, "eps": 1e-6}),
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_settings_act_like_those_set_by_hand(name: str) -> None:
    make, settings = OPTIMIZERS[name]
    trained = []
    for by_rule in (True, False):
        model, data = model_and_data()
        optimizer = make(model.parameters())
        rule = Setting(settings if by_rule else {}, at=2)
        auto = AutoBatch(model, optimizer, data, Fixed(8), rule, epochs=1)

        def by_hand(optimizer: torch.optim.Optimizer = optimizer, auto: AutoBatch = auto) -> None:
            if auto.steps == 2:  # two steps taken: the third goes by the new settings
                group = optimizer.param_groups[0]
                for key in ("momentum", "weight_decay", "eps"):
                    if key in settings:
                        group[key] = settings[key]
                if name == "adamw":
                    group["betas"] = (settings["beta1"], settings["beta2"])
                elif name == "rmsprop":
                    group["alpha"] = settings["beta2"]

        run(auto, model, (lambda: None) if by_rule else by_hand)
        trained.append(flat(model))
    assert torch.equal(*trained)


def test_parameter_groups_keep_the_ratios_of_their_weight_decays() -> None:
    model, data = model_and_data()
    decays = [0.1, 0.0, 0.025, 0.0]
    groups = [{"params": [p], "weight_decay": d} for p, d in zip(model.parameters(), decays, strict=True)]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    auto = AutoBatch(model, optimizer, data, Fixed(8), "sde(at=2, weight_decay=True)", epochs=1)
    run(auto, model)
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([2 * d for d in decays])


def test_settings_are_known_to_rules_and_kept_through_a_resume() -> None:
    model, data = model_and_data()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.8, 0.9), eps=1e-7, weight_decay=0.3)
    rule = Setting({"beta2": 0.5}, at=0)
    auto = AutoBatch(model, optimizer, data, Fixed(8), rule, epochs=2)
    plan = rule.plans[0]
    assert plan.optimizer == "AdamW" and plan.total_samples == 2 * N
    assert plan.settings == {"beta1": 0.8, "beta2": 0.9, "eps": 1e-7, "weight_decay": 0.3}
    run(auto, model)
    assert {now.total_samples for now in rule.shown} == {2 * N}
    assert [now.epoch for now in rule.shown] == [8 * k / N for k in range(12)]
    again = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.8, 0.9), eps=1e-7, weight_decay=0.3)
    other = AutoBatch(model, again, data, Fixed(8), Setting({"beta2": 0.5}, at=0), epochs=2)
    state = auto.state_dict()
    other.load_state_dict({**state, "settings": other.state_dict()["settings"]})
    assert again.param_groups[0]["betas"] == (0.8, 0.5)


def test_momentum_can_be_begun_in_the_midst_of_a_run() -> None:
    model, data = model_and_data()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01)
    run(AutoBatch(model, optimizer, data, Fixed(8), Setting({"momentum": 0.3}, at=2), epochs=1), model)
    assert all(state["momentum_buffer"].abs().sum() > 0 for state in optimizer.state.values())


def test_an_endless_run_has_no_length() -> None:
    model, data = model_and_data()
    rule = Setting()
    AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.1), data, Fixed(8), rule)
    assert rule.plans[0].total_samples is None


def test_a_setting_that_the_optimizer_lacks_is_refused_by_name() -> None:
    model, data = model_and_data()
    with pytest.raises(UnsupportedError, match="beta1, which SGD does not have"):
        AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.1), data, Fixed(8), Setting({"beta1": 0.5}, at=-1))


def test_distance_from_the_start() -> None:
    model, data = model_and_data()
    start = flat(model)
    rule = Setting(wants=Needs.DISTANCE)
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.1), data, Fixed(8), rule, epochs=1)
    expected = [0.0]
    run(auto, model, lambda: expected.append((flat(model) - start).norm().item()))
    assert [now.distance for now in rule.shown] == pytest.approx(expected[:-1], rel=1e-12)
    state, moved = auto.state_dict(), flat(model) - start
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    again = Setting(wants=Needs.DISTANCE)
    resumed = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=1e-30), data, Fixed(8), again, epochs=2)
    resumed.load_state_dict({**state, "settings": resumed.state_dict()["settings"]})
    run(resumed, model)
    assert again.shown[0].distance == pytest.approx((moved + 1.0).norm().item(), rel=1e-12)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


@pytest.mark.parametrize("micro_batch", [None, 4])
@pytest.mark.parametrize("method", ["auto", "per-example", "micro-batch"])
def test_projections(method: str, micro_batch: int | None) -> None:
    """Of per-example norms they are exact; of groups of m samples, m times the variance over the groups."""
    model, data = model_and_data()
    rule = Setting(wants=Needs.NOISE_OF_EVERY_BATCH | Needs.PROJECTIONS)
    auto = AutoBatch(
        model,
        torch.optim.SGD(model.parameters(), lr=1e-30),
        data,
        Fixed(16),
        rule,
        micro_batch=micro_batch,
        epochs=1,
        noise=method,
    )
    batches: list[tuple[Tensor, Tensor]] = []
    for x, y in auto:
        batches.append((x, y))
        auto.backward(F.cross_entropy(model(x), y))
        auto.step()
    xs, ys = (torch.cat(parts) for parts in zip(*batches, strict=True))
    each = per_example_gradients(model, F.cross_entropy, xs, ys).view(3, 16, -1)
    for now, g in zip(rule.shown, each, strict=True):
        groups = g if method != "micro-batch" else g.view(4, 4, -1).mean(1)
        expected = (groups @ g.mean(0)).var().item() * (16 / len(groups))
        assert now.measurement is not None
        assert now.measurement.projection_variance == pytest.approx(expected, rel=1e-9)


def test_a_method_without_projections_is_refused() -> None:
    model, data = model_and_data()
    rule = Setting(wants=Needs.NOISE_OF_EVERY_BATCH | Needs.PROJECTIONS)
    with pytest.raises(UnsupportedError, match="'subset' does not see how the samples spread along the gradient"):
        AutoBatch(model, None, data, Fixed(16), rule, noise="subset")
