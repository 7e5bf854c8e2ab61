"""Programs around a step that must do what they say, or be an error that names the way out."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import AutoBatch, InputError, UnsupportedError, fit

N = 256
REFUSALS = (InputError, UnsupportedError, UserWarning)  # said, in any case


def data(n: int = N, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 10, generator=generator, dtype=dtype)
    return x, 2 * x[:, :1] + torch.randn(n, 1, generator=generator, dtype=dtype)


def net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1)).to(dtype)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def mse(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(model(x), y)


def same_or_refused(program: Callable[[], tuple[Tensor, Tensor]], tolerance: float = 1e-9) -> None:
    """What the loop and the plain loop give are the same, or the program is refused or warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            found, expected = program()
        except (*REFUSALS, UserWarning):
            return
    assert torch.allclose(found, expected, rtol=0, atol=tolerance)


# Losses and gradients.


@pytest.mark.parametrize("settings", [{"micro_batch": 16}, {"noise": "micro-batch(every=1)"}])
@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_parameters_act_on_the_whole_gradient(kind: str, settings: dict[str, Any]) -> None:
    """Clipping by a hook, entry by entry, is that of the whole batch's gradient, not of each pass."""

    def clamp(tensor: Tensor) -> Tensor | None:
        if kind == "register_hook":
            return tensor.clamp(-0.1, 0.1)
        assert tensor.grad is not None
        tensor.grad.clamp_(-0.1, 0.1)
        return None

    def program() -> tuple[Tensor, Tensor]:
        model, twin = net(), net()
        for parameter in (*model.parameters(), *twin.parameters()):
            getattr(parameter, kind)(clamp)
        auto = AutoBatch(model, sgd(model), data(64), 64, epochs=1, **settings)
        for x, y in auto:
            auto.backward(mse(model, x, y))
            auto.step()
        mse(twin, *data(64)).backward()
        sgd(twin).step()
        return flat(model), flat(twin)

    same_or_refused(program)


@pytest.mark.parametrize("habit", ["scale", "scale without scaler=", "unscale_"])
def test_calls_of_a_scaler_left_in_the_loop_change_no_step(habit: str) -> None:
    """scaler.scale(loss) and scaler.unscale_(optimizer) are done by the loop, and not twice."""

    def program() -> tuple[Tensor, Tensor]:
        results = []
        for by_habit in (True, False):
            model = net(torch.float32)
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
            optimizer = sgd(model)
            given = None if habit == "scale without scaler=" else scaler
            auto = AutoBatch(model, optimizer, data(dtype=torch.float32), 64, scaler=given)
            for x, y in auto:
                loss = mse(model, x, y)
                auto.backward(scaler.scale(loss) if by_habit and habit != "unscale_" else loss)
                if by_habit and habit == "unscale_":
                    scaler.unscale_(optimizer)
                auto.step()
            results.append(flat(model))
        return results[0], results[1]

    same_or_refused(program, 1e-4)


def test_a_loss_differentiated_beside_the_batch_is_not_lost_in_silence() -> None:
    """Two losses of one batch, each with its backward: both count, or the first is refused or warned of."""

    def program() -> tuple[Tensor, Tensor]:
        model, twin = net(), net()
        auto = AutoBatch(model, sgd(model), data(64), 64, epochs=1)
        for x, y in auto:
            output = model(x)
            F.l1_loss(output, y).backward(retain_graph=True)
            auto.backward(F.mse_loss(output, y))
            auto.step()
            (F.l1_loss(twin(x), y) + mse(twin, x, y)).backward()
            sgd(twin).step()
        return flat(model), flat(twin)

    same_or_refused(program)


@pytest.mark.parametrize("micro_batch", [None, 8])
def test_a_coupled_loss_in_fit_is_that_of_the_batch(micro_batch: int | None) -> None:
    """The root of a mean is not the mean of roots: passes that would change it are refused or warned of."""

    def root(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().mean().sqrt()

    def program() -> tuple[Tensor, Tensor]:
        model, twin = net(), net()
        given: dict[str, Any] = {"batch_size": 64, "lr": None, "optimizer": lambda p: torch.optim.SGD(p, 0.05)}
        fit(model, data(64), root, epochs=1, progress=False, micro_batch=micro_batch, **given)
        root(twin(data(64)[0]), data(64)[1]).backward()
        sgd(twin).step()
        return flat(model), flat(twin)

    same_or_refused(program)


# Optimizers.


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("settings", [{}, {"micro_batch": 16, "clip_norm": 0.1}])
def test_a_second_optimizer_over_the_model_steps_as_in_the_plain_loop(when: str, settings: dict[str, Any]) -> None:
    """As SparseAdam beside Adam: it takes the steps of the plain loop, or is refused."""

    def program() -> tuple[Tensor, Tensor]:
        model, twin = net(), net()
        second = sgd(model[2])
        auto = AutoBatch(model, sgd(model[0]), data(64), 64, epochs=1, **settings)
        for x, y in auto:
            auto.backward(mse(model, x, y))
            if when == "before":
                second.step()
            if auto.step() and when == "after":
                second.step()
        mse(twin, *data(64)).backward()
        if settings:
            nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
        sgd(twin).step()
        return flat(model), flat(twin)

    same_or_refused(program)


class NeedsClosure(torch.optim.SGD):
    def step(self, closure: Any) -> Any:
        return closure()


def test_any_optimizer_that_needs_a_closure_is_refused() -> None:
    """As SAM: not only torch's LBFGS."""
    model = net()
    with pytest.raises(UnsupportedError, match="closure"):
        AutoBatch(model, NeedsClosure(model.parameters(), lr=0.1), data(), 64)


def test_the_optimizer_brought_along_trains_what_is_unfrozen() -> None:
    """Without an optimizer of one's own, too, an unfrozen part is trained from the next step."""
    model = net()
    model[0].requires_grad_(False)
    auto = AutoBatch(model, None, data(), 64, 0.1)
    before = flat(model[0])
    for epoch in range(2):
        model[0].requires_grad_(epoch == 1)
        for x, y in auto:
            auto.backward(mse(model, x, y))
            auto.step()
    assert not torch.equal(before, flat(model[0]))


def test_a_line_search_moves_only_what_the_optimizer_moves() -> None:
    """A body that requires gradients but is not the optimizer's: the search is that over the head alone."""
    results = []
    for frozen in (False, True):
        model = net()
        model[0].requires_grad_(not frozen)
        auto = AutoBatch(model, sgd(model[2], 1.0), data(), 64, "armijo")
        for x, y in auto:
            auto.backward(mse(model, x, y))
            auto.step()
        results.append(flat(model))
    assert torch.allclose(*results)


@pytest.mark.parametrize("change", ["clamp_", "load_state_dict"])
def test_weights_set_by_the_program_survive_averaging(change: str) -> None:
    """As the clipped weights of a critic, or a return to the best ones: not undone by the next step in silence."""
    model = net()
    auto = AutoBatch(model, None, data(), 64, "auto", epochs=2)
    zeros = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    try:
        for x, y in auto:
            auto.backward(mse(model, x, y))
            if auto.step() and auto.steps == 6:
                with torch.no_grad():
                    if change == "clamp_":
                        for parameter in model.parameters():
                            parameter.clamp_(0, 0)
                    else:
                        model.load_state_dict(zeros)
    except REFUSALS:
        return
    assert float(flat(model).abs().max()) < 0.1


# Loops and data.


def test_the_last_batch_of_an_epoch_dropped_without_skip_is_found_out() -> None:
    """By the end of the `for`, as in the middle of it; the next epoch would be that batch alone."""
    model = net()
    auto = AutoBatch(model, sgd(model), data(), 64)
    with pytest.raises(InputError, match=r"auto.skip\(\)"):
        for x, y in auto:
            if auto.place[1] == 192:
                continue
            auto.backward(mse(model, x, y))
            auto.step()


def test_a_batch_dropped_while_it_is_held_elsewhere_is_found_out() -> None:
    """Losses are not taken for those of the batch before."""
    model, held = net(), []
    auto = AutoBatch(model, sgd(model), data(), 64)
    with pytest.raises(InputError, match=r"auto.skip\(\)"):
        for number, (x, y) in enumerate(auto):
            held.append(x)
            if number == 1:
                continue
            auto.backward(mse(model, x, y))
            auto.step()


class Replay(torch.utils.data.Dataset[Any]):
    def __init__(self, n: int) -> None:
        self.x, self.y = data(n)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], self.y[index]


@pytest.mark.parametrize("n", [64, 256])
def test_a_dataset_that_changes_its_length_between_epochs_is_followed_or_refused(n: int) -> None:
    """As a replay memory: the next `for` sees all of it, as with a DataLoader."""
    model, replay = net(), Replay(128)
    auto = AutoBatch(model, sgd(model), replay, 32)
    seen = 0
    try:
        for epoch in range(2):
            for x, y in auto:
                seen += len(x) * epoch
                auto.backward(mse(model, x, y))
                auto.step()
            replay.x, replay.y = data(n)
    except REFUSALS:
        return
    assert seen == n


@pytest.mark.parametrize("leave", ["break", "raise"])
def test_a_loop_left_during_a_line_search_leaves_the_iterate(leave: str) -> None:
    """The model is not left at a trial point."""
    model = net()
    auto = AutoBatch(model, sgd(model, 1.0), data(), 64, "armijo")
    before = flat(model)
    try:
        for x, y in auto:
            auto.backward(mse(model, x, y))
            if not auto.step():
                if leave == "break":
                    break
                raise ValueError
    except ValueError:
        pass
    assert torch.equal(before, flat(model))


def test_after_a_break_the_optimizer_is_the_callers_again() -> None:
    """A loop left in the middle of a batch does not refuse steps taken outside it."""
    model = net()
    optimizer = sgd(model)
    for _ in AutoBatch(model, optimizer, data(), 64):
        break
    auto = AutoBatch(model, optimizer, data(), 64)
    for _ in auto:
        break
    mse(model, *data()).backward()
    optimizer.step()


def test_a_loop_is_true_whatever_its_length() -> None:
    """`loader or default` asks for no length."""
    assert AutoBatch(net(), None, data(), "big-batch")


# Precision and dtypes.


@pytest.mark.parametrize("where", ["within", "behind"])
def test_casts_of_a_surrounding_autocast_are_not_kept_across_averaged(where: str) -> None:
    """An evaluation is of the average, and the next pass of the iterate."""
    model = net(torch.float32)
    auto = AutoBatch(model, None, data(dtype=torch.float32), 64, "auto", epochs=4)
    wrong = 0
    with torch.autocast("cpu", torch.bfloat16):
        for x, y in auto:
            auto.backward(F.mse_loss(model(x).float(), y))
            if not auto.step():
                continue
            if where == "within":
                model(x)
            with auto.averaged():
                if where == "within":
                    found = model(x).detach()
                    torch.clear_autocast_cache()
                    wrong += not torch.equal(found, model(x).detach())
                model(x)
            if where == "behind":
                found = model(x).detach()
                torch.clear_autocast_cache()
                wrong += not torch.equal(found, model(x).detach())
            torch.clear_autocast_cache()
    assert not wrong


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(10, 1, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex128) @ self.weight).abs()


def sparse() -> nn.Module:
    return nn.Sequential(nn.Embedding(30, 8, sparse=True), nn.Flatten(), nn.Linear(8, 1))


@pytest.mark.parametrize(
    ("make", "settings"),
    [(Complex, {}), (sparse, {"clip_value": 0.1}), (sparse, {"lr": "auto"}), (sparse, {"lr": "armijo"})],
)
def test_parameters_of_other_kinds_are_served_or_refused(make: Callable[[], nn.Module], settings: Any) -> None:
    """Complex parameters and sparse gradients end in no error of torch's or Python's own."""
    model = make()
    x = data()[0] if make is Complex else torch.arange(N)[:, None] % 30
    try:
        auto = AutoBatch(model, sgd(model), (x, torch.ones(N, 1)), 64, **settings)
        for a, b in auto:
            auto.backward(F.mse_loss(model(a).float(), b))
            auto.step()
    except REFUSALS:
        return
    assert auto.steps == 4
