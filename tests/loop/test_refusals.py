"""What the loop refuses, each with a sentence that says what to do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import AutoBatch, DataError, InputError, UnsupportedError
from rightbatch.data import blobs
from rightbatch.loop.resolving import SWEET_SPOT_WHEN_AVERAGING, resolve
from rightbatch.rules.batch_size import BigBatch, Bounded, Fixed, Horizon, Rounded, SweetSpot
from rightbatch.rules.lr import Armijo, AveragedDistance, Constant, Tournament, WarmUp
from rightbatch.rules.recipes import Interpolation, Seesaw


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))


def new(**settings: Any) -> AutoBatch:
    model = settings.pop("model", None) or network()
    make = settings.pop("make", None)
    optimizer = None if make is None else make(model.parameters())
    return AutoBatch(model, optimizer, settings.pop("train", blobs(60)), **{"batch_size": 8, "lr": 0.1, **settings})


def frozen() -> nn.Module:
    return network().requires_grad_(False)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def empty() -> tuple[Tensor, Tensor]:
    return torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)


SETTINGS: dict[str, tuple[Callable[[], AutoBatch], type[Exception], str]] = {
    "nothing to train": (lambda: new(model=frozen()), InputError, "no trainable parameters.*requires_grad=True"),
    "micro_batch 0": (lambda: new(micro_batch=0), InputError, "micro_batch is 0: give a whole number of at least 1"),
    "micro_batch -3": (lambda: new(micro_batch=-3), InputError, "micro_batch is -3"),
    "micro_batch 2.5": (lambda: new(micro_batch=2.5), InputError, "micro_batch is 2.5: give a whole number"),
    "micro_batch True": (lambda: new(micro_batch=True), InputError, "micro_batch is True"),
    "epochs 0": (lambda: new(epochs=0), InputError, "epochs is 0: give a whole number of at least 1"),
    "epochs 1.5": (lambda: new(epochs=1.5), InputError, "epochs is 1.5"),
    "epochs text": (lambda: new(epochs="3"), InputError, "epochs is '3'"),
    "batch > data": (lambda: new(batch_size=61), InputError, "batch size is 61.*only 60 samples"),
    "batch 0": (lambda: new(batch_size=0), InputError, "batch size is 0.*at least 1"),
    "batch -1": (lambda: new(batch_size=-1), InputError, "batch size is -1"),
    "batch 1.5": (lambda: new(batch_size=1.5), InputError, "batch size is 1.5"),
    "batch name": (lambda: new(batch_size="big-bach"), InputError, "did you mean 'big-batch'"),
    "lr name": (lambda: new(lr="armjo"), InputError, "did you mean 'armijo'"),
    "lr 0": (lambda: new(lr=0.0), InputError, "learning rate is 0.0"),
    "lr nan": (lambda: new(lr=float("nan")), InputError, "learning rate is nan"),
    "seed": (lambda: new(seed=-1), InputError, "seed .* -1"),
    "no samples": (lambda: new(train=empty()), DataError, "data are empty"),
    "one sample": (
        lambda: new(train=(torch.ones(1, 2), torch.tensor([0])), batch_size=1),
        DataError,
        "a single sample",
    ),
    "lengths": (lambda: new(train=(torch.ones(5, 2), torch.zeros(4))), DataError, "5 samples and y has 4"),
    "NaN": (lambda: new(train=(torch.full((9, 2), float("nan")), torch.zeros(9))), DataError, "x has 18 NaN"),
    "objects": (lambda: new(train=(np.array([[1, "a"]], dtype=object), [0])), DataError, "object array"),
    "path": (lambda: new(train="nowhere.npz"), DataError, "nowhere.npz does not exist"),
    "armijo over Adam": (
        lambda: new(lr="armijo", make=torch.optim.Adam),
        UnsupportedError,
        "'armijo' searches along the gradient, but Adam moves in another direction: use torch.optim.SGD",
    ),
    "Barzilai-Borwein over Adam": (
        lambda: new(batch_size="big-batch", lr="barzilai-borwein", make=torch.optim.AdamW),
        UnsupportedError,
        "'barzilai-borwein' searches along the gradient, but AdamW",
    ),
    "LBFGS": (lambda: new(lr=None, make=torch.optim.LBFGS), UnsupportedError, "LBFGS.*armijo"),
    "noise of every batch": (
        lambda: new(batch_size="big-batch", noise="auto(every=8)"),
        InputError,
        r"noise='auto\(every=8\)' measures every 8 steps, but the rule 'big-batch' needs a measurement of every batch",
    ),
    "noise name": (lambda: new(noise="micro-bach"), InputError, "names no method .did you mean 'micro-batch'"),
    "noise number": (lambda: new(noise=3), InputError, "noise=3 is no way to measure: give one of 'auto', '"),
    "noise budget": (lambda: new(noise="auto(budget=0)"), InputError, "Noise.budget is 0: .* above 0 and at most 1"),
    "noise setting": (lambda: new(noise="sketchy(probe=1)"), InputError, "names no method"),
    "noise of a model": (
        lambda: new(model=nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), noise="per-example"),
        UnsupportedError,
        "noise='per-example' cannot measure this run: .*'1'.*use noise='auto' or",
    ),
    "noise in a metric, averaged": (
        lambda: new(lr="averaged-distance", noise="micro-batch(preconditioned=True)"),
        UnsupportedError,
        "the lr rule 'averaged-distance' it steps averaged ones",
    ),
    "noise-scaled without a rate": (
        lambda: new(batch_size="big-batch", lr="noise-scaled", make=lambda p: torch.optim.SGD(p, lr=0.0)),
        InputError,
        "[Ee]very learning rate",
    ),
    "two dtypes, averaged": (
        lambda: new(model=nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), lr="averaged-distance"),
        UnsupportedError,
        "in one dtype",
    ),
    "foreign optimizer, averaged": (
        lambda: new(lr="averaged-distance", make=lambda _: sgd(network().parameters())),
        UnsupportedError,
        "not trainable parameters of the model",
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_refused_before_anything_runs(name: str) -> None:
    make, kind, message = SETTINGS[name]
    with pytest.raises(kind, match=message):
        make()


def step_on(auto: AutoBatch, loss: Callable[[Tensor, Tensor], Any]) -> None:
    for x, y in auto:
        auto.backward(loss(auto.model(x), y))
        auto.step()


def test_backward_twice() -> None:
    auto = new()
    x, y = next(iter(auto))
    auto.backward(F.cross_entropy(auto.model(x), y))
    with pytest.raises(InputError, match="without a new micro-batch from the loop"):
        auto.backward(F.cross_entropy(auto.model(x), y))


def test_backward_before_the_loop() -> None:
    auto = new()
    with pytest.raises(InputError, match="without a new micro-batch"):
        auto.backward(torch.ones((), requires_grad=True))


def test_step_without_backward() -> None:
    auto = new()
    with pytest.raises(InputError, match="must follow auto"):
        auto.step()
    next(iter(auto))
    with pytest.raises(InputError, match="must follow auto"):
        auto.step()


def test_step_twice() -> None:
    auto = new()
    x, y = next(iter(auto))
    auto.backward(F.cross_entropy(auto.model(x), y))
    assert auto.step()
    with pytest.raises(InputError, match="must follow auto"):
        auto.step()


def test_step_left_out() -> None:
    auto = new()
    with pytest.raises(InputError, match=r"auto.step\(\) was not called"):
        for x, y in auto:
            auto.backward(F.cross_entropy(auto.model(x), y))


def test_backward_left_out() -> None:
    with pytest.raises(InputError, match="neither to auto"):
        list(new())


def test_loss_backward_instead_of_ours() -> None:
    auto = new()
    with pytest.raises(InputError, match="must follow auto"):
        for x, y in auto:
            F.cross_entropy(auto.model(x), y).backward()  # type: ignore[no-untyped-call]
            auto.step()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda o, y: F.cross_entropy(o, y, reduction="none"), r"must be one number.*got shape \(8,\)"),
        (lambda o, y: F.cross_entropy(o, y).item(), "must be one number.*got float"),
        (lambda o, y: None, "got NoneType"),
        (lambda o, y: F.cross_entropy(o.detach(), y), "does not depend on a trainable parameter"),
    ],
)
def test_losses_that_cannot_be_differentiated(loss: Callable[[Tensor, Tensor], Any], message: str) -> None:
    auto = new()
    with pytest.raises(InputError, match=message):
        step_on(auto, loss)
    assert auto.steps == 0
    step_on(auto, F.cross_entropy)  # the loop can be begun again
    assert auto.samples == 60


def test_a_loss_computed_under_no_grad() -> None:
    auto = new()
    with pytest.raises(InputError, match="under no_grad"), torch.no_grad():
        step_on(auto, F.cross_entropy)


def test_a_loss_of_shape_one_is_one_number() -> None:
    auto = new()
    step_on(auto, lambda o, y: F.cross_entropy(o, y).reshape(1))
    assert auto.samples == 60


def test_what_auto_and_none_mean() -> None:
    assert resolve("auto", "auto") == (Horizon(), Tournament())
    assert resolve("auto", "averaged-distance") == (SWEET_SPOT_WHEN_AVERAGING, AveragedDistance())
    assert SweetSpot(floor=3.0, ceiling=8.0) == SWEET_SPOT_WHEN_AVERAGING
    assert resolve("auto", None) == (SweetSpot(), Constant())
    assert resolve(64, 0.25) == (Fixed(64), Constant(0.25))
    assert resolve(SweetSpot(initial=8), "armijo(c=0.3)") == (SweetSpot(initial=8), Armijo(c=0.3))


def test_a_recipe_brings_its_learning_rate() -> None:
    recipe = Seesaw(64)
    for lr in (None, "auto", recipe.lr_rule):
        assert resolve("seesaw(initial=64)", lr) == resolve(recipe, lr) == (recipe, recipe.lr_rule)
    for lr in (0.2, "0.2", Constant(0.2)):
        assert resolve(recipe, lr) == (recipe, Seesaw(64, lr=0.2).lr_rule)
    assert resolve(recipe, "warm-up(0.2)") == (recipe, WarmUp(Seesaw(64, lr=0.2).lr_rule))
    assert resolve("rounded('seesaw(64)')", None) == (Rounded(recipe), recipe.lr_rule)
    assert resolve(32, recipe.lr_rule) == (Fixed(32), recipe.lr_rule)


@pytest.mark.parametrize(
    ("batch_size", "lr", "words"),
    [
        ("seesaw", "seesaw", "give it as batch_size="),
        (32, "seesaw", "give it as batch_size="),
        ("seesaw", "cosine", "sets the learning rate itself"),
        ("seesaw", Seesaw(64).lr_rule, "sets the learning rate itself"),
        ("rounded('geo-damp')", "linear-scaling", "sets the learning rate itself"),
        (Seesaw(lr=0.1), 0.2, "give one"),
        (Interpolation(2.0, 1.0), 0.2, "computes the learning rate itself"),
    ],
)
def test_another_learning_rate_rule_beside_a_recipe_is_refused(batch_size: Any, lr: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        resolve(batch_size, lr)


def test_a_rule_around_no_rule_in_particular_goes_around_what_auto_means() -> None:
    for lr, within in (("auto", Horizon()), ("averaged-distance", SWEET_SPOT_WHEN_AVERAGING)):
        assert resolve("bounded(max_size=64)", lr)[0] == Bounded(within, max_size=64)
        assert resolve(Rounded(Bounded(max_size=64)), lr)[0] == Rounded(Bounded(within, max_size=64))
    assert resolve("bounded(max_size=64)", None)[0] == Bounded(SweetSpot(), max_size=64)
    for written in (Bounded(SweetSpot(), max_size=64), Bounded("sweet-spot", max_size=64), Rounded(BigBatch())):
        assert resolve(written, "auto")[0] is written


def test_the_optimizer_that_none_brings() -> None:
    plain = new(lr=None).optimizer
    assert isinstance(plain, torch.optim.SGD) and plain.param_groups[0]["lr"] == 0.01
    auto = new(lr="auto").optimizer
    assert isinstance(auto, torch.optim.NAdam) and auto.param_groups[0]["betas"] == (0.9, 0.98)
    averaged = new(lr="averaged-distance").optimizer
    assert isinstance(averaged, torch.optim.Adam) and averaged.param_groups[0]["betas"] == (0.0, 0.99)
