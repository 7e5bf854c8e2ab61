"""What people write around a step of their own loop: it works as they mean it, or is an error; never silently wrong."""

import copy
import gc
import warnings
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

from rightbatch import AutoBatch, InputError, UnsupportedError
from rightbatch.data import as_source
from rightbatch.loop import Callback

SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"micro_batch": 8},
    {"micro_batch": 7},
    {"noise": "micro-batch(every=1)"},
    {"noise": "per-example(every=1)", "micro_batch": 24},
    {"batch_size": "big-batch(initial=16, kappa=0.05)"},
    {"lr": "armijo"},
)
IDS = [" ".join(f"{k}={v}" for k, v in s.items()) or "plain" for s in SETTINGS]


def data(n: int = 256) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(n, 10)
    return x, x @ torch.randn(10, 1) * 5 + torch.randn(n, 1) * 5


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(10, 1)


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def gradient(weights: Tensor, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The twin: that of the mean loss over all that was yielded for a step."""
    twin = linear()
    nn.utils.vector_to_parameters(weights, twin.parameters())
    F.mse_loss(twin(torch.cat([x for x, _ in parts])), torch.cat([y for _, y in parts])).backward()
    return flat(p.grad for p in twin.parameters())


def steps_of(
    between: Callable[[AutoBatch, nn.Module], None], **settings: Any
) -> Iterator[tuple[Tensor, Tensor, AutoBatch]]:
    """(the move of each step at its rate, the whole batch's gradient, the loop)."""
    model = linear()
    settings = {"batch_size": 64, **settings}
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=1.0), data(), **settings)
    before, parts = flat(model.parameters()), []
    for x, y in auto:
        if auto.needs_gradient:
            parts.append((x, y))
        auto.backward(F.mse_loss(model(x), y))
        between(auto, model)
        if auto.step():
            now = flat(model.parameters())
            yield (before - now) / auto.lr, gradient(before, parts), auto
            before, parts = now, []


# Clipping.


@pytest.mark.parametrize("settings", SETTINGS, ids=IDS)
@pytest.mark.parametrize("by", ["option", "method"])
def test_the_whole_batchs_gradient_is_clipped_once(by: str, settings: dict[str, Any]) -> None:
    option = {"clip_norm": 0.1} if by == "option" else {}
    count = 0
    for move, true, auto in steps_of(
        lambda auto, _: auto.clip_grad_norm_(0.1) and None if by == "method" else None, **settings, **option
    ):
        assert float(move.norm()) == pytest.approx(0.1, rel=1e-3)
        assert float(torch.cosine_similarity(move, true, dim=0)) > 0.9999
        assert auto.last["gradient_norm"] == pytest.approx(float(true.norm()), rel=1e-4)
        count += 1
    assert count and auto.last["clipped"] == count


def test_a_gradient_below_the_bound_is_left_alone() -> None:
    for move, true, auto in steps_of(lambda *_: None, clip_norm=1e9):
        assert torch.allclose(move, true, rtol=1e-4, atol=1e-5) and not auto.last["clipped"]


@pytest.mark.parametrize("settings", SETTINGS[:4], ids=IDS[:4])
def test_clip_value_is_that_of_torch(settings: dict[str, Any]) -> None:
    for move, true, _ in steps_of(lambda *_: None, clip_value=0.5, **settings):
        assert torch.allclose(move, true.clamp(-0.5, 0.5), atol=1e-4)


def test_the_norm_gathered_is_returned() -> None:
    norms: list[float] = []
    found = [
        float(true.norm()) for _, true, _ in steps_of(lambda auto, _: norms.append(float(auto.clip_grad_norm_(1e9))))
    ]
    assert norms == pytest.approx([float(norm) for norm in found], rel=1e-4)


def by_norm(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)


def by_value(model: nn.Module) -> None:
    nn.utils.clip_grad_value_(model.parameters(), 0.1)


def by_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.data.clamp_(-0.1, 0.1)


@pytest.mark.parametrize("change", [by_norm, by_value])
@pytest.mark.parametrize("settings", SETTINGS, ids=IDS)
def test_gradients_changed_by_someone_else_are_an_error(settings: dict[str, Any], change: Any) -> None:
    # Before the last pass the parameters hold none, which torch's clip_grad_value_ cannot take.
    with pytest.raises((InputError, RuntimeError), match=r"clip_norm|empty\(\)"):
        list(steps_of(lambda _, model: change(model), **settings))


@pytest.mark.parametrize("settings", SETTINGS[1:5], ids=IDS[1:5])
def test_also_where_they_leave_no_version(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="clip_norm"):
        list(steps_of(lambda _, model: by_data(model), **settings))


def test_of_a_single_pass_that_is_not_measured_they_are_what_was_meant() -> None:
    for move, true, _ in steps_of(lambda _, model: by_data(model)):
        assert torch.allclose(move, true.clamp(-0.1, 0.1), atol=1e-5)


@pytest.mark.parametrize(
    "bounds", [{"clip_norm": 0}, {"clip_norm": -1.0}, {"clip_value": 0}, {"clip_norm": 1, "clip_value": 1}]
)
def test_bounds_that_cannot_be(bounds: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"clip_(norm|value)"):
        AutoBatch(linear(), None, data(), 64, **bounds)


# Weights.


@pytest.mark.parametrize("settings", [s for s in SETTINGS[:4]] + [{"lr": "armijo", "micro_batch": 5}])
def test_units_weigh_the_passes(settings: dict[str, Any]) -> None:
    """A mean over units that samples have unequal numbers of: the whole batch's gradient, whatever it is cut into."""
    torch.manual_seed(3)
    x, y = data(64)
    units = torch.randint(0, 9, (64,)).float()
    units[:20] = 0  # some passes have none at all
    model = linear()
    before = flat(model.parameters())
    auto = AutoBatch(
        model, torch.optim.SGD(model.parameters(), lr=1.0), (torch.cat([x, units[:, None]], 1), y), 64, **settings
    )
    for batch, target in auto:
        inputs, weight = batch[:, :10], batch[:, 10]
        errors = (model(inputs) - target).square().squeeze(1)
        auto.backward((weight * errors).sum() / weight.sum(), weight=weight.sum())
        auto.step()
    twin = linear()
    loss = (units * (twin(x) - y).square().squeeze(1)).sum() / units.sum()
    loss.backward()
    true = flat(p.grad for p in twin.parameters())
    assert torch.allclose((before - flat(model.parameters())) / auto.lr, true, rtol=1e-3, atol=1e-3)
    assert auto.last["train_loss"] == pytest.approx(float(loss.detach()), rel=1e-4)


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), "three", True, torch.ones(2)])
def test_a_weight_that_cannot_be(weight: Any) -> None:
    model = linear()
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.1), data(), 64)
    x, y = next(iter(auto))
    with pytest.raises(InputError, match="weight"):
        auto.backward(F.mse_loss(model(x), y), weight=weight)


# Gradients belong to one batch.


@pytest.mark.parametrize("micro_batch", [None, 16])
def test_passes_of_others_leave_nothing_in_the_gradient(micro_batch: int | None) -> None:
    """A generator's pass through a discriminator, in every micro-batch."""

    def others(auto: AutoBatch, model: nn.Module) -> None:
        pass

    model = linear()
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=1.0), data(), 64, micro_batch=micro_batch)
    before, parts = flat(model.parameters()), []
    with pytest.warns(UserWarning, match="loss1"):  # once: it might have been meant to count
        for x, y in auto:
            model(torch.randn(3, 10)).sum().backward()
            parts.append((x, y))
            auto.backward(F.mse_loss(model(x), y))
            if auto.step():
                now = flat(model.parameters())
                assert torch.allclose(before - now, gradient(before, parts), rtol=1e-4, atol=1e-4)
                before, parts = now, []


class TwoParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.backbone, self.head = nn.Linear(10, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.backbone(x).relu())
        return out


@pytest.mark.parametrize("lr", [None, "auto", "dog"])
@pytest.mark.parametrize("noise", [None, "auto(every=1)"])
def test_a_backbone_unfrozen_in_mid_run_is_trained_from_the_next_step(lr: Any, noise: str | None) -> None:
    model = TwoParts()
    model.backbone.requires_grad_(False)
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.01), data(), 64, lr, noise=noise, epochs=2)
    moved = []
    for x, y in auto:
        before = model.backbone.weight.detach().clone()
        loss = F.mse_loss(model(x), y)
        auto.backward(loss)
        if auto.step():
            moved.append(not torch.equal(before, model.backbone.weight))
            model.backbone.requires_grad_(auto.steps >= 3)
    assert moved[:3] == [False] * 3 and sum(moved[3:]) >= 4


def test_groups_added_in_mid_run_are_trained_and_keep_their_rates() -> None:
    model = TwoParts()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.01)
    auto = AutoBatch(model, optimizer, data(), 64, 0.02, epochs=2)
    for x, y in auto:
        before = model.backbone.weight.detach().clone()
        auto.backward(F.mse_loss(model(x), y))
        auto.step()
        assert torch.equal(before, model.backbone.weight) == (auto.steps <= 2)
        if auto.steps == 2:
            optimizer.add_param_group({"params": model.backbone.parameters(), "lr": 0.001})
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.02, 0.001])


def test_parameters_of_the_optimizer_beyond_the_model_are_part_of_the_batch() -> None:
    """As a temperature of the loss: cleared, gathered, scaled and clipped with the others."""
    model, temperature = linear(), nn.Parameter(torch.ones(()))
    auto = AutoBatch(
        model, torch.optim.SGD([*model.parameters(), temperature], lr=0.01), data(), 64, micro_batch=16, clip_norm=1.0
    )
    for a, b in auto:
        auto.backward(F.mse_loss(model(a) * temperature, b))
        before = temperature.item()
        if auto.step():
            assert 0 < abs(temperature.item() - before) <= 0.01 + 1e-6


def test_several_loops_beside_each_other_do_not_disturb() -> None:
    """Actor and critic on a shared trunk, each with its loop; and a plain optimizer on another model."""
    torch.manual_seed(0)
    trunk, heads = nn.Linear(10, 8), [nn.Linear(8, 1), nn.Linear(8, 1)]
    models = [nn.Sequential(trunk, nn.Tanh(), head) for head in heads]
    autos = [AutoBatch(m, torch.optim.SGD(m.parameters(), lr=0.01), data(), 64, epochs=1) for m in models]
    plain = linear()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01)
    for (a, b), (c, d) in zip(*autos, strict=True):
        for auto, model, x, y in ((autos[0], models[0], a, b), (autos[1], models[1], c, d)):
            loss = F.mse_loss(model(x), y)
            true = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            before = flat(model.parameters())
            auto.backward(loss)
            assert auto.step()
            assert torch.allclose(before - flat(model.parameters()), 0.01 * flat(true), atol=1e-6)
        optimizer.zero_grad()
        F.mse_loss(plain(a), b).backward()
        optimizer.step()
    assert autos[0].steps == autos[1].steps == 4


# Habits.


def test_an_optimizer_step_kept_in_the_loop_names_its_line() -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    auto = AutoBatch(model, optimizer, data(), 64)
    before = flat(model.parameters())
    x, y = next(iter(auto))
    auto.backward(F.mse_loss(model(x), y))
    with pytest.raises(InputError, match=r"optimizer.step\(\).*test_around_a_step.py:\d+"):
        optimizer.step()
    assert torch.equal(before, flat(model.parameters()))


def test_runs_that_follow_one_another_leave_one_hook_on_optimizers() -> None:
    counts = set()
    for _ in range(3):
        model = linear()
        auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.1), data(), 64)
        counts.add(len(_global_optimizer_pre_hooks))
        del auto
        gc.collect()
    assert len(counts) == 1


def test_after_the_loop_the_optimizer_is_the_callers_again() -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    auto = AutoBatch(model, optimizer, data(), 64)
    for x, y in auto:
        auto.backward(F.mse_loss(model(x), y))
        auto.step()
    F.mse_loss(model(x), y).backward()
    optimizer.step()


@pytest.mark.filterwarnings("ignore:The parameters had gradients")
@pytest.mark.parametrize("both", [False, True])
def test_loss_backward_by_habit(both: bool) -> None:
    model = linear()
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.1), data(), 64)
    x, y = next(iter(auto))
    loss = F.mse_loss(model(x).tanh(), y)
    loss.backward()
    with pytest.raises(InputError, match=r"loss.backward\(\)"):
        auto.backward(loss) if both else auto.step()


@pytest.mark.parametrize("settings", [{}, {"micro_batch": 16}, {"noise": "per-example(every=1)", "micro_batch": 16}])
def test_micro_batches_without_a_loss_are_skipped(settings: dict[str, Any]) -> None:
    """The others of the same batch make its step; a batch of which all are skipped makes none."""
    model = linear()
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=1.0), data(), 64, epochs=1, **settings)
    before, parts, number = flat(model.parameters()), [], -1
    for x, y in auto:
        number += 1
        if auto.place == (0, 64) or (settings and number % 4 == 3):
            auto.skip()
            continue
        parts.append((x, y))
        auto.backward(F.mse_loss(model(x), y))
        if auto.step():
            assert torch.allclose(before - flat(model.parameters()), gradient(before, parts), rtol=1e-3, atol=1e-3)
        if auto.place[1] % 64 == 0 and auto.steps:
            before, parts = flat(model.parameters()), []
    assert auto.samples == 256 and auto.steps == 3


def prefetched(auto: AutoBatch) -> Iterator[Any]:
    """As loaders do that look one batch ahead, to know which is the last."""
    iterator = iter(auto)
    ahead = next(iterator)
    for following in chain(iterator, [None]):
        yield ahead
        ahead = following


@pytest.mark.parametrize(
    "settings", [{}, {"micro_batch": 16}, {"noise": "per-example(every=2)"}, {"noise": "micro-batch(every=2)"}]
)
def test_a_loader_that_prefetches_is_served(settings: dict[str, Any]) -> None:
    results = []
    for wrap in (iter, prefetched):
        model = linear()
        auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.01), data(), 64, epochs=2, **settings)
        for x, y in wrap(auto):
            auto.backward(F.mse_loss(model(x), y))
            auto.step()
        assert auto.steps == 8 and auto.samples == 512
        results.append((flat(model.parameters()), auto.noise is not None))
    assert torch.equal(results[0][0], results[1][0]) or results[0][1]
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5) and results[0][1] == results[1][1]


def test_a_batch_dropped_without_skip_is_found_out() -> None:
    model = linear()
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.01), data(), 64)
    with pytest.raises(InputError, match=r"auto.skip\(\)"):
        for number, (x, y) in enumerate(auto):
            if number == 1:
                continue
            auto.backward(F.mse_loss(model(x), y))
            auto.step()


@pytest.mark.parametrize("lr", ["armijo", None])
def test_rules_that_repeat_or_enlarge_cannot_be_prefetched(lr: Any) -> None:
    model = linear()
    batch_size = 64 if lr else "big-batch(initial=16)"
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.01), data(), batch_size, lr)
    with pytest.raises(InputError, match="fetch"):
        next(prefetched(auto))


@pytest.mark.parametrize(
    ("n", "size", "micro_batch", "epochs"),
    [(256, 64, None, None), (250, 64, 7, 3), (65, 64, None, 2), (129, 64, 32, 1)],
)
def test_the_length_is_that_of_the_next_for(n: int, size: int, micro_batch: int | None, epochs: int | None) -> None:
    model = linear()
    auto = AutoBatch(
        model, torch.optim.SGD(model.parameters(), lr=0.01), data(n), size, micro_batch=micro_batch, epochs=epochs
    )
    length, count = len(auto), 0
    for x, y in auto:
        auto.backward(F.mse_loss(model(x), y))
        auto.step()
        count += 1
    assert count == length and len(auto.dataset) == n


def test_a_length_that_is_not_known_is_none() -> None:
    with pytest.raises(TypeError, match="batch_size"):
        len(AutoBatch(linear(), None, data(), "big-batch"))


def test_averaged_models_of_torch_follow() -> None:
    model = linear()
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.01), data(), 64, noise="per-example(every=1)")
    expected = None
    for x, y in auto:
        auto.backward(F.mse_loss(model(x), y))
        if auto.step():
            ema.update_parameters(model)
            now = flat(model.parameters())
            expected = now if expected is None else 0.5 * expected + 0.5 * now
    assert expected is not None and torch.allclose(flat(ema.module.parameters()), expected, atol=1e-6)
    copy.deepcopy(model)


# Learning rates.


def test_groups_keep_their_ratios_and_a_group_at_zero_stays_there() -> None:
    model = TwoParts()
    groups = [
        {"params": [model.backbone.weight], "lr": 0.0},
        {"params": [model.backbone.bias], "lr": 0.02},
        {"params": model.head.parameters(), "lr": 0.01},
    ]
    optimizer = torch.optim.SGD(groups)
    auto = AutoBatch(model, optimizer, data(), 64, 0.5)
    assert auto.lr == 0.5
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0, 0.5, 0.25])


def test_a_rate_that_a_warm_up_has_set_to_zero_counts_as_its_initial_one() -> None:
    model = TwoParts()
    optimizer = torch.optim.SGD(
        [{"params": model.backbone.parameters(), "lr": 0.4}, {"params": model.head.parameters()}], lr=0.1
    )
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    AutoBatch(model, optimizer, data(), 64, 0.8)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.8, 0.2])


@pytest.mark.parametrize("lr", [None, 0.1, "auto"])
def test_an_optimizer_at_rate_zero_is_an_error(lr: Any) -> None:
    model = linear()
    with pytest.raises(InputError, match="rate"):
        AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.0), data(), 64, lr)


@pytest.mark.parametrize("scheduler", ["CosineAnnealingLR", "ReduceLROnPlateau"])
def test_a_scheduler_object_names_per_sample(scheduler: str) -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = {"T_max": 8} if scheduler == "CosineAnnealingLR" else {}
    made = getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **given)
    with pytest.raises(InputError, match="per_sample"):
        AutoBatch(model, optimizer, data(), 64, made)


@pytest.mark.parametrize("batch_size", [16, "growth(initial=8, last=64, over_epochs=1)"])
def test_a_scheduler_stepped_outside_while_the_batch_grows_is_warned_of_once(batch_size: Any) -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    auto = AutoBatch(model, optimizer, data(), batch_size, epochs=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for x, y in auto:
            auto.backward(F.mse_loss(model(x), y))
            if auto.step():
                scheduler.step()
    named = [w for w in caught if "per_sample" in str(w.message)]
    assert len(named) == (0 if batch_size == 16 else 1)


# Scalers and lower precision.


@pytest.mark.parametrize("settings", SETTINGS, ids=IDS)
def test_with_a_scaler_the_steps_are_those_without(settings: dict[str, Any]) -> None:
    results = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10)):
        steps = list(steps_of(lambda *_: None, clip_norm=0.5, scaler=scaler, **settings))
        last = steps[-1][2].last
        results.append((torch.stack([move for move, _, _ in steps]), last["train_loss"], last["noise_scale"]))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-4)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)
    assert results[0][2] == (results[1][2] and pytest.approx(results[1][2], rel=1e-3))


def test_an_overflow_costs_the_step_and_is_an_event_of_its_own() -> None:
    class Events(Callback):
        def overflow(self, step: int, samples: int, scale: float) -> None:
            overflows.append((samples, scale))

        def failure(self, *args: Any) -> None:
            pytest.fail("an overflow is no divergence")

    overflows: list[tuple[int, float]] = []
    model = linear()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.01), data(), 64, scaler=scaler, epochs=3)
    auto.observe(Events())
    taken = 0
    for x, y in auto:
        auto.backward(F.mse_loss(model(x), y))
        taken += auto.step()
    assert overflows and taken == 12 - len(overflows)
    assert scaler.get_scale() == 2.0 ** (127 - len(overflows))


def test_a_loss_that_is_not_finite_is_divergence_with_a_scaler_too() -> None:
    failures: list[str] = []

    class Events(Callback):
        def failure(self, step: int, samples: int, reason: str, lr: float, restored_step: int) -> None:
            failures.append(reason)

    model = linear()
    auto = AutoBatch(
        model, torch.optim.SGD(model.parameters(), lr=0.01), data(), 64, scaler=torch.amp.GradScaler("cpu")
    )
    auto.observe(Events())
    for number, (x, y) in enumerate(auto):
        auto.backward(F.mse_loss(model(x), y) * (float("nan") if number == 1 else 1))
        auto.step()
    assert failures == ["the loss became nan"]


def test_casts_of_a_surrounding_autocast_are_those_of_the_present_weights() -> None:
    model = linear()
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.05), data(), 64, epochs=8)
    with torch.autocast("cpu", torch.bfloat16):
        losses = []
        for x, y in auto:
            auto.backward(F.mse_loss(model(x).float(), y))
            auto.step()
            losses.append(auto.last["train_loss"])
    assert losses[-1] < 0.5 * losses[0]


# What cannot be served.


def test_closures_are_refused_with_advice_that_holds() -> None:
    model = linear()
    with pytest.raises(UnsupportedError, match="armijo"):
        AutoBatch(model, torch.optim.LBFGS(model.parameters()), data(), 64)
    AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.1), data(), 64, "armijo")


def test_lazy_parameters_ask_for_a_first_pass() -> None:
    model = nn.LazyLinear(1)
    with pytest.raises(InputError, match="call the model once"):
        AutoBatch(model, None, data(), 64)
    model(torch.randn(2, 10))
    AutoBatch(model, None, data(), 64)


def test_a_state_goes_into_a_checkpoint_of_ones_own(tmp_path: Any) -> None:
    model = linear()
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.01), as_source(data()), "big-batch", epochs=2)
    for x, y in auto:
        auto.backward(F.mse_loss(model(x), y))
        if auto.step():
            break
    torch.save({"model": model.state_dict(), "loop": auto.state_dict()}, tmp_path / "mine.pt")
    state = torch.load(tmp_path / "mine.pt", weights_only=True)
    again = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.01), data(), "big-batch", epochs=2)
    again.load_state_dict(state["loop"])
    assert (again.steps, again.place, again.batch_size) == (auto.steps, auto.place, auto.batch_size)


@pytest.mark.parametrize("noise", ["micro-batch(every=1, groups=8)", "per-example(every=1)"])
def test_noise_is_measured_by_units(noise: str) -> None:
    """Samples given several times over as units: the noise of the mean over units is found, whatever the split.

    64 samples of which each counts w units have the same batch gradient as their w-fold copies; V̂ is compared with the
    estimate from the passes' own gradients by the formula, in float64.
    """
    x, y = (t.double() for t in data(64))
    model, twin = linear().double(), linear().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-30)
    auto = AutoBatch(model, optimizer, (x, y), 64, noise=noise, micro_batch=8)
    weights, each = [], []
    for number, (a, b) in enumerate(auto):
        weights.append(1.0 + number % 3)
        each.append(flat(torch.autograd.grad(F.mse_loss(twin(a), b), list(twin.parameters()))))
        auto.backward(F.mse_loss(model(a), b), weight=weights[-1])
        auto.step()
    shares = torch.tensor(weights).double() * 64 / sum(weights)
    mean = (shares[:, None] * torch.stack(each)).sum(0) / 64
    assert auto.last["gradient_norm"] == pytest.approx(float(mean.norm()), rel=1e-9)
    assert auto.noise is not None
    if noise.startswith("micro-batch"):
        variance = ((shares * torch.stack(each).square().sum(1)).sum() - 64 * mean.square().sum()) / 7
        assert auto.noise.variance == pytest.approx(float(variance), rel=1e-9)
