"""The arena: its clock, its problems, its store and its scores."""

import importlib
import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rightbatch.data import blobs

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MODULES = ("problem", "clock", "data", "networks", "store", "runs", "tuned", "scores", "tables")


@pytest.fixture
def arena(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the arena, with points in the plane as a further problem."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    made = SimpleNamespace(**{name: importlib.import_module(f"default.{name}") for name in MODULES})
    made.contestants = importlib.import_module("default.contestants")
    made.contestant = importlib.import_module("default.contestants.contestant")
    made.rightbatch = importlib.import_module("default.contestants.rightbatch")
    made.problem.names("design")
    x, y = blobs(900).fetch(torch.arange(900))

    def points() -> tuple[object, object]:
        return made.data.split(x / 10, y, 500, 200, 200), lambda: nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.1))

    entry = made.problem.Entry("design", "test", 2, 20, points, nn.functional.cross_entropy)
    monkeypatch.setitem(made.problem.ENTRIES, "points", entry)
    made.points = made.problem.problem("points")
    return made


def test_parts_and_families(arena: SimpleNamespace) -> None:
    """A third is sealed, and most families occur in more than one part."""
    entries = {name: entry for name, entry in arena.problem.ENTRIES.items() if name != "points"}
    parts = {part: [e.family for e in entries.values() if e.part == part] for part in arena.problem.PARTS}
    assert len(entries) >= 30 and len({e.family for e in entries.values()}) >= 10
    assert abs(len(parts["sealed"]) - len(entries) / 3) < 1
    assert len(set(parts["sealed"]) - {*parts["design"], *parts["confirmation"]}) == 0
    for families in parts.values():
        assert len(set(families)) >= 10


def test_clock_and_time_to_a_target(arena: SimpleNamespace) -> None:
    clock = arena.clock.Clock(20)
    clock.charge(5)
    clock.charge(30)
    assert (clock.units, clock.examples) == (75, 35)
    run = arena.clock.Trajectory([(0, 0, math.inf), (10, 1, 4.0), (20, 2, 1.0), (40, 4, 2.0)], 1.0, 1.0, 40, 4)
    assert run.time_to(4.0) == 10, "nothing to interpolate from"
    assert run.time_to(2.0) == pytest.approx(15), "half of the way by the logarithm"
    assert run.time_to(0.5) == math.inf
    assert run.least_until(0.25) == 4.0 and run.least_until(1.0) == 1.0
    with pytest.raises(ValueError, match="either"):
        arena.clock.Horizon()


def test_split_is_disjoint(arena: SimpleNamespace) -> None:
    x = torch.arange(50.0).unsqueeze(1)
    parts = arena.data.split(x, x, 20, 10, 20)
    seen = torch.cat([pair[0] for pair in parts]).flatten().sort().values
    assert torch.equal(seen, torch.arange(50.0))
    with pytest.raises(ValueError, match="50"):
        arena.data.split(x, x, 20, 10, 21)


def test_adapters_start_as_their_base(arena: SimpleNamespace) -> None:
    base = arena.networks.mlp((4, 6, 3))
    x = torch.randn(5, 4)
    before = base(x)
    model = arena.networks.with_adapters(base, 2)
    assert torch.equal(model(x), before)
    assert [tuple(p.shape) for p in arena.contestant.trained(model)] == [(2, 4), (6, 2), (2, 6), (3, 2)]


@pytest.mark.parametrize("name", ["sgd-32-0.05", "Schedule-Free SGD", "NAdamW", "Muon + AdamW", "Rightbatch"])
def test_contestants_repeat_and_pay(arena: SimpleNamespace, name: str) -> None:
    """Twice the same numbers; all epochs are gone through, and what is shipped is no worse than the start."""
    who, horizon = arena.contestants.contestant(name), arena.clock.Horizon(epochs=2)
    first, second = (who.run(arena.points, 1, horizon) for _ in range(2))
    assert first == second
    assert first.examples >= 2 * 500
    assert first.units >= first.examples + 20 * first.examples / 500
    assert first.valid < first.checks[0][2]
    assert 40 <= len(first.checks) <= 60 or name != "Rightbatch"


def test_tuned_runs_pay_by_the_step(arena: SimpleNamespace) -> None:
    run = arena.contestants.contestant("adam-128-0.002").run(arena.points, 0, arena.clock.Horizon(epochs=2))
    assert run.units == 2 * (500 + 4 * 20) and run.examples == 1000


def test_rightbatch_goes_by_the_simulated_clock(arena: SimpleNamespace) -> None:
    real, started = time.perf_counter, time.perf_counter()
    run = arena.rightbatch.Rightbatch().run(arena.points, 0, arena.clock.Horizon(units=20000))
    assert time.perf_counter is real and time.perf_counter() >= started
    assert importlib.import_module("rightbatch.loop.run_state").perf_counter is real
    assert 20000 <= run.units < 1.1 * 20000, "it ends with the first step beyond the limit"
    assert run.notes["stopped"].startswith("time limit")


def test_passes_without_gradients_are_charged_and_evaluation_is_not(arena: SimpleNamespace) -> None:
    model = nn.Linear(2, 3)
    clock = arena.rightbatch.ModelClock(20, model)
    with torch.no_grad():
        model(torch.zeros(7, 2))
        model.eval()(torch.zeros(9, 2))
    assert (clock.units, clock.examples) == (27, 7)


def test_store_holds_what_still_holds(arena: SimpleNamespace, tmp_path: Path) -> None:
    store, horizon = arena.store.Store(tmp_path), arena.clock.Horizon(epochs=2)
    run = arena.clock.Trajectory([(0.0, 0, math.inf)], 0.1 + 0.2, 1.0, 3.0, 4, {"a": [1, 2]})
    store.save("points", "x", "1", 0, horizon, run)
    assert store.load("points", "x", "1", 0, horizon) == run
    assert store.load("points", "x", "2", 0, horizon) is None, "another version"
    assert store.load("points", "x", "1", 0, arena.clock.Horizon(units=2)) is None
    path = store.path("points", "x", 0, horizon)
    path.write_text(path.read_text().replace(arena.store.fingerprint("points"), "another"))
    assert store.load("points", "x", "1", 0, horizon) is None, "the problem has changed"


def test_tuned_and_scores(arena: SimpleNamespace, tmp_path: Path) -> None:
    """By hand: the best cell ends at 1.0 after 100 units and had 2.0 at 70 of them; another had 2.0 at 50."""
    store = arena.store.Store(tmp_path)
    horizon, run = arena.clock.Horizon(epochs=2), arena.clock.Trajectory

    def curve(*checks: tuple[float, float], test: float) -> object:
        points = [(units, int(units), loss) for units, loss in checks]
        return run(points, min(loss for _, loss in checks), test, checks[-1][0], int(checks[-1][0]))

    best = curve((0, 9.0), (70, 2.0), (100, 1.0), test=2.0)
    quick = curve((0, 9.0), (50, 2.0), (100, 1.5), test=3.0)
    poor = curve((0, 9.0), (100, 8.0), test=8.0)
    for cell in arena.contestants.GRID:
        trajectory = {"sgd-32-0.01": best, "adam-512-0.008": quick}.get(cell.name, poor)
        store.save("points", cell.name, "", 0, horizon, trajectory)
    tuned = arena.tuned.Tuned(store, "points", 1)
    assert (tuned.best, tuned.valid, tuned.test, tuned.units) == ("sgd-32-0.01", 1.0, 2.0, 100)
    assert (tuned.target, tuned.time) == (2.0, 50)
    assert arena.tuned.single_cell(store, ["points"]) == "sgd-32-0.01"
    score = arena.scores.score(store, tuned, "sgd-32-0.01", arena.scores.EPOCHS)
    assert (score.ratio, score.valid, score.test, score.examples) == (1.4, 0.0, 0.0, 0.1)
    assert arena.scores.horizon(tuned, arena.scores.TIME).units == 150
    missed = replace(score, problem="other", time=math.inf, ratio=math.inf, valid=0.5, test=-0.5)
    summary = arena.scores.summary([score, missed])
    assert (summary.reached, summary.problems, summary.better) == (1, 2, 1)
    assert summary.ratio == pytest.approx(math.sqrt(1.4 * 3))
    assert (summary.valid, summary.test) == ((0.25, 0.5), (-0.25, 0.0))
    ratios = arena.scores.profiles({"a": [score, missed], "b": [replace(score, time=35.0), missed]})
    assert ratios == {"a": [2.0, math.inf], "b": [1.0, math.inf]}
    assert arena.scores.within(ratios["a"], 2) == 0.5 and arena.scores.within(ratios["a"], 1.9) == 0
    assert arena.tables.at_largest_rate([tuned, replace(tuned, name="points")]).endswith("0 of 2 problems.")
    assert "| **Rightbatch** | 1 of 2 | 2.05 |" in arena.tables.overview({"Rightbatch": [score, missed]})[-1]
