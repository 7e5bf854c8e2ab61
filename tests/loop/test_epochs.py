"""Every sample once an epoch, whoever chooses the batch and however the loop is left."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rightbatch import AutoBatch
from rightbatch.data import blobs, load
from rightbatch.models import build_model
from rightbatch.rules.batch_size import BATCH_SIZE_RULES, BigBatch, Fixed, GradientNoiseScale, SweetSpot
from rightbatch.rules.lr import LR_RULES
from rightbatch.rules.recipes import RECIPES

# A rule that needs no settings is had by its name.
STEPS: dict[str, str | None] = {name: name for name in LR_RULES} | {
    "constant": "constant(0.1)",
    "noise-scaled": "noise-scaled(lr=0.2)",
    "recipe": None,
}
SIZES = dict.fromkeys(BATCH_SIZE_RULES, "") | {
    "fixed": "fixed(32)",
    "growth": "growth(over_epochs=3)",
    "interpolation": "interpolation(20.0, 5.0)",
    "seesaw": "seesaw(total_samples=1200)",
}
RULES = ("fixed", "big-batch", "sweet-spot")
PAIRS = [(size, "recipe" if size in RECIPES else "constant") for size in SIZES]
PAIRS += [(size, step) for size in RULES for step in LR_RULES]


def tiny(n: int) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(n)
    x, y = torch.randn(n, 2, generator=generator), torch.randint(0, 2, (n,), generator=generator)
    torch.manual_seed(0)
    return nn.Linear(2, 2), (x, y)


@pytest.mark.parametrize(("size", "step"), PAIRS)
def test_every_rule_consumes_every_sample_once_an_epoch(size: str, step: str, watch: Any, drive: Any) -> None:
    source = blobs(400)
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.parameters()) if step in ("sde", "beta2-half-life") else None
    auto = AutoBatch(model, optimizer, source, SIZES[size] or size, STEPS[step], seed=1, epochs=3)
    witness = watch(auto)
    drive(auto)
    assert witness.consumed_up_to(400) == auto.samples
    assert auto.samples == 1200 or (auto.stopped and auto.samples < 1200)


@pytest.mark.parametrize("size", RULES)
def test_digits_with_a_network(size: str, watch: Any, drive: Any) -> None:
    source = load("digits").train
    model = build_model("mlp", source.x_shape, 10)
    auto = AutoBatch(model, None, source, SIZES[size] or size, "auto", seed=1, epochs=2)
    witness = watch(auto)
    drive(auto)
    assert witness.consumed_up_to(len(source)) == auto.samples == 2 * len(source)
    assert list(auto) == []


SMALL = {
    "fixed": lambda batch: Fixed(batch),
    "fixed, measured": lambda batch: Fixed(batch),
    "sweet-spot": lambda batch: SweetSpot(initial=batch, max_fraction=1.0, least_steps=1, dwell_steps=1),
    "big-batch": lambda batch: BigBatch(initial=max(2, batch), kappa=1.0, growth=0.4, patience=0, tolerance=0.0),
}
MEASURED = {"fixed, measured": "auto(every=2)", "sweet-spot": "auto(every=1)"}


@pytest.mark.parametrize("rule", SMALL)
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2, 60),
    batch=st.integers(1, 60),
    micro_batch=st.none() | st.integers(1, 20),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**64 - 1),
)
def test_exactly_the_epochs_asked_for(
    rule: str, n: int, batch: int, micro_batch: int | None, epochs: int, seed: int, watch: Any, drive: Any
) -> None:
    model, data = tiny(n)
    auto = AutoBatch(
        model,
        None,
        data,
        SMALL[rule](min(batch, n)),
        0.01,
        micro_batch=micro_batch,
        seed=seed,
        epochs=epochs,
        noise=MEASURED.get(rule),
    )
    witness = watch(auto)
    seen = 0
    for x, y in auto:
        assert micro_batch is None or len(x) <= micro_batch
        seen += len(x)
        auto.backward(F.cross_entropy(model(x), y))
        auto.step()
    assert witness.consumed_up_to(n) == auto.samples == seen == epochs * n
    assert auto.place == (epochs, 0)


@pytest.mark.parametrize("rule", SMALL)
@settings(max_examples=15, deadline=None)
@given(n=st.integers(2, 60), batch=st.integers(1, 60))
def test_without_epochs_one_for_is_one_epoch(rule: str, n: int, batch: int, watch: Any, drive: Any) -> None:
    model, data = tiny(n)
    auto = AutoBatch(model, None, data, SMALL[rule](min(batch, n)), 0.01, noise=MEASURED.get(rule))
    witness = watch(auto)
    for count in range(1, 4):
        drive(auto)
        reached = witness.consumed_up_to(n)
        assert reached == auto.samples
        if rule.startswith("fixed"):
            assert reached == count * n
        else:
            # The batch that ends an epoch may take the beginning of the next along; never less than the epoch.
            assert reached >= count * n


def test_a_fixed_batch_is_cut_exactly_and_others_are_topped_up(watch: Any, drive: Any) -> None:
    """Others get no handful of leftovers: half of what they want at least, and never more than that."""
    model, data = tiny(50)
    auto = AutoBatch(model, None, data, 16, 0.1, epochs=2)
    witness = watch(auto)
    drive(auto)
    assert [i.samples for i in witness.intervals] == [16, 16, 16, 2] * 2

    rule = GradientNoiseScale(initial=16, min_size=16, max_size=16)
    model, data = tiny(50)
    auto = AutoBatch(model, None, data, rule, 0.1, epochs=2)
    witness = watch(auto)
    drive(auto)
    assert [[i.samples for i in intervals] for _, intervals in witness.steps] == [
        [16], [16], [9], [9], [16], [16], [9], [9],
    ]  # fmt: skip
    model, data = tiny(53)
    auto = AutoBatch(model, None, data, rule, 0.1, epochs=2)
    witness = watch(auto)
    drive(auto)
    assert [witness.steps[k][1] for k in (2, 3)] == [[(0, 32, 43)], [(0, 43, 53)]]
    model, data = tiny(38)
    auto = AutoBatch(model, None, data, rule, 0.1, epochs=2)
    witness = watch(auto)
    drive(auto)
    assert [list(map(tuple, intervals)) for _, intervals in witness.steps] == [
        [(0, 0, 16)],
        [(0, 16, 27)],
        [(0, 27, 38)],
        [(1, 0, 16)],
        [(1, 16, 27)],
        [(1, 27, 38)],
    ]


def test_a_small_rest_is_topped_up_from_the_next_epoch(watch: Any, drive: Any) -> None:
    """Entering the last 3 of 35 positions, a batch of 16 takes 13 of the next epoch; the last epoch has no next."""
    model, data = tiny(35)
    rule = BigBatch(initial=16, max_size=16, tolerance=0.0, patience=0)
    auto = AutoBatch(model, None, data, rule, 0.1, epochs=2)
    witness = watch(auto)
    auto._step.stream.seek(0, 32)
    drive(auto)
    assert list(map(tuple, witness.steps[0][1])) == [(0, 32, 35), (1, 0, 13)]
    assert witness.intervals[-1].stop == 35
    assert auto.place == (2, 0)


@pytest.mark.parametrize("rule", SMALL)
@pytest.mark.parametrize("step", [0.05, "armijo"])
def test_leaving_early_loses_and_repeats_nothing(rule: str, step: Any, watch: Any) -> None:
    n = 57
    model, data = tiny(n)
    auto = AutoBatch(model, None, data, SMALL[rule](9), step, micro_batch=4, epochs=3, noise=MEASURED.get(rule))
    witness = watch(auto)
    rounds = 0
    while auto.samples < 3 * n:
        rounds += 1
        assert rounds < 500
        for count, (x, y) in enumerate(auto):
            if rounds % 4 == 1 and count == 1:
                break  # a micro-batch taken and not differentiated
            auto.backward(F.cross_entropy(model(x), y))
            if rounds % 4 == 2 and count == 1:
                break  # differentiated, and no step asked for
            taken = auto.step()
            if rounds % 4 == 3 and not taken and count == 2:
                break  # in the midst of a batch or of a search
            if rounds % 4 == 0 and taken:
                break  # between two batches
    assert witness.consumed_up_to(n) == 3 * n


@pytest.mark.parametrize("micro_batch", [None, 4])
@pytest.mark.parametrize("rule", ["fixed", "big-batch"])
def test_leaving_early_changes_no_result(rule: str, micro_batch: int | None, drive: Any) -> None:
    results = []
    for interrupted in (False, True):
        model, data = tiny(57)
        auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), data, SMALL[rule](9), None,
                         micro_batch=micro_batch, epochs=2)  # fmt: skip
        if interrupted:
            for step in range(1, 5):
                for count, (x, y) in enumerate(auto):
                    if auto.steps == step and count == 1:
                        break
                    auto.backward(F.cross_entropy(model(x), y))
                    if count == 2:
                        break
                    auto.step()
        drive(auto)
        results.append((torch.cat([p.detach().reshape(-1) for p in model.parameters()]), auto.steps))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_the_place_is_that_of_the_first_sample_no_step_has_used() -> None:
    model, data = tiny(20)
    auto = AutoBatch(model, None, data, 8, 0.1, micro_batch=4)
    places = []
    for x, y in auto:
        places.append(auto.place)
        auto.backward(F.cross_entropy(model(x), y))
        auto.step()
    assert places == [(0, 0), (0, 0), (0, 8), (0, 8), (0, 16)]
    assert auto.place == (1, 0)


def test_the_order_depends_on_the_seed_only(drive: Any) -> None:
    def first_inputs(seed: int, batch: int) -> Tensor:
        model, data = tiny(40)
        parts = []
        for x, y in (auto := AutoBatch(model, None, data, batch, 0.1, seed=seed)):
            parts.append(x)
            auto.backward(F.cross_entropy(model(x), y))
            auto.step()
        return torch.cat(parts)

    assert torch.equal(first_inputs(1, 7), first_inputs(1, 13))
    assert not torch.equal(first_inputs(1, 7), first_inputs(2, 7))


def test_a_rule_that_stops_ends_the_loop(watch: Any, drive: Any) -> None:
    """All the data in one batch: the run is over once the gradient norm has fallen to half of the largest."""
    model, data = tiny(16)
    rule = BigBatch(initial=16, tolerance=0.5)
    auto = AutoBatch(model, None, data, rule, 0.5, epochs=500)
    witness = watch(auto)
    losses = drive(auto)
    assert auto.stopped.startswith("converged")
    assert auto.steps == len(losses) + 1 < 500, "the step that would follow the decision is not taken"
    first, last = gradient_norm(tiny(16)[0], data), gradient_norm(model, data)
    assert last <= 0.5 * first
    assert witness.consumed_up_to(16) == auto.samples == 16 * auto.steps
    assert list(auto) == []


def gradient_norm(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    gradients = torch.autograd.grad(F.cross_entropy(model(data[0]), data[1]), list(model.parameters()))
    return float(torch.cat([g.reshape(-1) for g in gradients]).norm())
