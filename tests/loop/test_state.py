"""Saving and going on: bit for bit, from anywhere but a trial point."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import AutoBatch, InputError
from rightbatch.data import blobs
from rightbatch.loop import Callback
from rightbatch.loop.decide import restored
from rightbatch.rules.batch_size import BigBatch
from rightbatch.rules.lr import AveragedDistance, RangeTest

N, EPOCHS = 150, 4


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


RUNS: dict[str, tuple[Any, Any, Any, Callable[[nn.Module], torch.optim.Optimizer] | None]] = {
    "fixed, SGD with momentum": (32, None, None, sgd),
    "fixed, Adam": (32, 0.02, None, adam),
    "fixed, measured": (32, "noise-scaled(lr=0.5)", "auto(every=3)", sgd),
    "fixed, micro-batches in Adam's metric": (32, 0.02, "micro-batch(every=2, preconditioned=True)", adam),
    "fixed, auto": (16, "auto", None, None),
    "fixed, auto over SGD": (16, "auto", None, sgd),
    "big-batch, armijo": (BigBatch(initial=8, kappa=0.1, growth=0.5), "armijo", None, None),
    "big-batch, Barzilai-Borwein": (BigBatch(initial=8, kappa=0.1, growth=0.5), "barzilai-borwein", None, None),
}


def new(name: str, micro_batch: int | None = None, seed: int = 3) -> tuple[nn.Module, AutoBatch]:
    batch, step, noise, make = RUNS[name]
    model = network()
    optimizer = None if make is None else make(model)
    return model, AutoBatch(
        model, optimizer, blobs(N), batch, step, micro_batch=micro_batch, seed=seed, epochs=EPOCHS, noise=noise
    )


def saved(model: nn.Module, auto: AutoBatch) -> io.BytesIO:
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "auto": auto.state_dict(), "random": torch.get_rng_state()}, file)
    file.seek(0)
    return file


def loaded(file: io.BytesIO, name: str, micro_batch: int | None = None) -> tuple[nn.Module, AutoBatch]:
    """Everything new, as in another process, then the state."""
    torch.manual_seed(99)
    model, auto = new(name, micro_batch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    auto.load_state_dict(state["auto"])
    torch.set_rng_state(state["random"])
    return model, auto


def outcome(model: nn.Module, auto: AutoBatch) -> dict[str, Any]:
    state = auto.state_dict()
    if state["meter"] is not None:
        state["meter"].pop("interval")
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "without times": {k: v for k, v in state.items() if k not in ("timer", "run", "settings")},
        "run": {k: v for k, v in state["run"].items() if k != "seconds"},
        "noise": auto.noise and (auto.noise.variance, auto.noise.signal, auto.noise.low, auto.noise.high),
        "random": torch.get_rng_state(),
    }


@pytest.mark.parametrize("micro_batch", [None, 5])
@pytest.mark.parametrize("at", [1, 7])
@pytest.mark.parametrize("name", RUNS)
def test_going_on_is_bit_for_bit(
    name: str, at: int, micro_batch: int | None, drive: Any, watch: Any, identical: Any
) -> None:
    results, losses, intervals = [], [], []
    for interrupted in (False, True):
        model, auto = new(name, micro_batch)
        torch.manual_seed(11)
        witness = watch(auto)
        seen = drive(auto, steps=at)
        assert 0 < auto.samples < EPOCHS * N
        if interrupted:
            model, auto = loaded(saved(model, auto), name, micro_batch)
            told = len(witness.decisions)
            auto.observe(witness)
            assert len(witness.decisions) == told, "first decisions are told once in a run"
        losses.append(seen + drive(auto))
        intervals.append(witness.steps)
        results.append(outcome(model, auto))
    assert losses[0] == losses[1]
    assert intervals[0] == intervals[1]
    assert identical(*results)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["fixed, SGD with momentum", "fixed, auto", "big-batch, armijo"])
def test_a_batch_half_gathered_is_begun_again(name: str, count: int, drive: Any, identical: Any) -> None:
    """The random numbers it has drawn are the caller's to put back, with all others."""
    micro_batch, results, losses = 3, [], []
    for interrupted in (False, True):
        model, auto = new(name, micro_batch)
        torch.manual_seed(11)
        seen = drive(auto, steps=6)
        if interrupted:
            random = torch.get_rng_state()
            for number, (x, y) in enumerate(auto):
                if number == count:
                    break
                auto.backward(F.cross_entropy(model(x), y))
                assert not auto.step()
            torch.set_rng_state(random)
            file = saved(model, auto)
            model, auto = loaded(file, name, micro_batch)
        losses.append(seen + drive(auto))
        results.append(outcome(model, auto))
    assert losses[0] == losses[1]
    assert identical(*results)


def test_the_state_is_a_snapshot_of_plain_types(drive: Any) -> None:
    def check(value: Any) -> None:
        if isinstance(value, Mapping):
            assert type(value) is dict
            for key, part in value.items():
                assert type(key) in (str, int)
                check(part)
        elif isinstance(value, list | tuple):
            for part in value:
                check(part)
        else:
            assert value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor)

    for name in RUNS:
        _, auto = new(name)
        drive(auto, steps=5)
        check(auto.state_dict())


def test_a_trial_point_is_not_saved() -> None:
    model, auto = new("big-batch, armijo")
    refused = 0
    for x, y in auto:
        if not auto.needs_gradient:
            with pytest.raises(InputError, match=r"during a line search.*has returned True"):
                auto.state_dict()
            refused += 1
        auto.backward(F.cross_entropy(model(x), y))
        if auto.step():
            break
    assert refused
    auto.state_dict()


def test_loading_in_the_midst_of_a_search_keeps_what_was_loaded(drive: Any) -> None:
    name = "big-batch, armijo"
    model, auto = new(name)
    drive(auto, steps=4)
    file = saved(model, auto)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    model, auto = new(name)
    for x, y in auto:
        auto.backward(F.cross_entropy(model(x), y))
        auto.step()
        if not auto.needs_gradient:
            break
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    auto.load_state_dict(state["auto"])
    next(iter(auto))
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert auto.needs_gradient and auto.steps == 4


def other(**changes: Any) -> AutoBatch:
    settings: dict[str, Any] = {"train": blobs(N), "batch_size": 32, "lr": 0.1, "seed": 3, **changes}
    model = network()
    make = settings.pop("make", lambda p: torch.optim.SGD(p, lr=0.1))
    return AutoBatch(model, make(model.parameters()), settings.pop("train"), **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "seed=3, .* seed=4"),
        ({"train": blobs(N + 1)}, f"n={N}, .* n={N + 1}"),
    ],
)
def test_a_state_of_other_data_is_refused(changes: dict[str, Any], message: str, drive: Any) -> None:
    auto = other()
    drive(auto, steps=3)
    state = auto.state_dict()
    stranger = other(**changes)
    with pytest.raises(InputError, match=message):
        stranger.load_state_dict(state)
    assert stranger.steps == stranger.samples == 0


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"batch_size": 64}, ["batch_size"]),
        ({"lr": 0.2}, ["lr"]),
        ({"lr": "armijo"}, ["lr"]),
        ({"batch_size": BigBatch(), "noise": "micro-batch"}, ["batch_size", "noise"]),
        ({"micro_batch": 7, "epochs": 5}, ["micro_batch"]),
        ({"make": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.2)}, ["weight_decay"]),
    ],
)
def test_other_settings_are_taken_and_reported(changes: dict[str, Any], names: list[str], drive: Any) -> None:
    class Changes(Callback):
        def change(self, step: int, samples: int, name: str, old: Any, new: Any) -> None:
            assert (step, samples) == (3, 96) and str(old) != str(new)
            seen.append(name)

    seen: list[str] = []
    auto = other()
    drive(auto, steps=3)
    again = other(**changes)
    before = again.batch_size, again.lr
    again.observe(Changes())
    again.model.load_state_dict(auto.model.state_dict())
    again.load_state_dict(auto.state_dict())
    assert seen == names and again.steps == 3 and again.place == auto.place
    assert (again.batch_size, again.lr) == before
    drive(again, steps=1)
    assert again.steps == 4


def test_another_optimizer_or_other_groups_are_refused(drive: Any) -> None:
    auto = other()
    drive(auto, steps=3)
    state = auto.state_dict()
    with pytest.raises(InputError, match=r"SGD.*Adam"):
        other(make=lambda p: torch.optim.Adam(p, lr=0.1)).load_state_dict(state)
    with pytest.raises(InputError, match=r"\[4\].*\[2, 2\]"):
        other(
            make=lambda p: torch.optim.SGD([{"params": (p := list(p))[:2]}, {"params": p[2:]}], lr=0.1)
        ).load_state_dict(state)


def test_failures_and_cuts_are_remembered(drive: Any) -> None:
    auto = other(noise="auto(every=1)", lr="noise-scaled")
    calls = iter(range(100))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target) * (float("nan") if next(calls) == 2 else 1.0)

    drive(auto, loss, steps=3)
    again = other(noise="auto(every=1)", lr="noise-scaled")
    again.model.load_state_dict(auto.model.state_dict())
    again.load_state_dict(auto.state_dict())
    torch.manual_seed(1)
    expected = drive(auto)
    torch.manual_seed(1)
    assert drive(again) == expected
    assert again.lr == auto.lr < 0.05


def test_a_resumed_run_knows_that_exact_norms_are_impossible(drive: Any) -> None:
    """Found out in the first batch; the run that goes on compares groups from its first batch on."""

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.unused = nn.Linear(2, 3), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x)
            return out

    def begin() -> AutoBatch:
        return AutoBatch(Unused(), None, blobs(N), 32, 0.1, noise="auto(every=1)")

    auto = begin()
    drive(auto, steps=2)
    assert auto.meter is not None and "unused" in auto.meter.method
    again = begin()
    again.load_state_dict(auto.state_dict())
    assert again.meter is not None and again.meter.method == auto.meter.method
    drive(again, steps=1)
    assert again.noise is not None and again.noise.measurements == 2


@dataclass(frozen=True)
class Inner:
    a: float = 0.0
    trace: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner
    table: dict[str, float]
    count: int = 0


def test_nested_states_go_through_plain_types() -> None:
    from dataclasses import asdict

    state = Outer(Inner(1.5, ((1.0, 2.0), (3.0, 4.0))), {"x": 1.0}, 7)
    assert restored(Outer(Inner(), {}), asdict(state)) == state
    rule = AveragedDistance()
    begun = AveragedDistance(test=RangeTest()).start
    from rightbatch.decision import Plan

    _, fresh = begun(Plan(train_samples=10, parameter_count=4, parameter_norm=2.0))
    test = rule.test.observe(rule.test.observe(fresh.test, 1.0), 0.5)
    moved = type(fresh)(test, 0.3, 0.1, 0.2, 1.0, 0.9, 4)
    assert restored(fresh, asdict(moved)) == moved
