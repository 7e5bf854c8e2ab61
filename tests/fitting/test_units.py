"""What a loss is a mean over: of any cut of a batch, `fit` steps along the gradient of the loss of the whole batch."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import AutoBatch, InputError, fit
from rightbatch.data import blobs
from rightbatch.loop import Callback

N, D, CLASSES, LENGTH = 23, 3, 4, 5  # N is a prime: passes are uneven
CLASS_WEIGHT = torch.tensor([0.1, 1.0, 3.0, 10.0], dtype=torch.float64)

generator = torch.Generator().manual_seed(1)
X = torch.randn(N, D, generator=generator, dtype=torch.float64)
LABELS = (torch.randint(1, 100, (N,), generator=generator) ** 2) % CLASSES
NUMBERS = torch.randn(N, generator=generator, dtype=torch.float64)
TOKENS = torch.randint(0, CLASSES, (N, LENGTH), generator=generator)
LENGTHS = torch.randint(1, LENGTH + 1, (N, 1), generator=generator)
BEYOND = torch.arange(LENGTH) >= LENGTHS


class PerToken(nn.Module):
    """Outputs (b, classes, t)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, CLASSES * LENGTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out.reshape(-1, CLASSES, LENGTH)


def classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(D, 6), nn.Tanh(), nn.Linear(6, CLASSES))


def log_classifier() -> nn.Module:
    return nn.Sequential(classifier(), nn.LogSoftmax(1))


def regression() -> nn.Module:
    return nn.Sequential(nn.Linear(D, 6), nn.Tanh(), nn.Linear(6, 1), nn.Flatten(0))


WEIGHED = nn.CrossEntropyLoss(CLASS_WEIGHT)
CASES: dict[str, tuple[Callable[[], nn.Module], Any, Tensor]] = {
    "default of classes": (classifier, None, LABELS),
    "default of numbers": (regression, None, NUMBERS),
    "class weights": (classifier, WEIGHED, LABELS),
    "class weights as keywords": (classifier, partial(F.cross_entropy, weight=CLASS_WEIGHT), LABELS),
    "class weights of tokens": (PerToken, WEIGHED, TOKENS),
    "ignored tokens": (PerToken, nn.CrossEntropyLoss(ignore_index=-1), TOKENS.masked_fill(BEYOND, -1)),
    "tokens ignored by default": (PerToken, nn.CrossEntropyLoss(), TOKENS.masked_fill(BEYOND, -100)),
    "ignored tokens, the function": (PerToken, F.cross_entropy, TOKENS.masked_fill(BEYOND, -100)),
    "ignored tokens and class weights": (
        PerToken,
        nn.CrossEntropyLoss(CLASS_WEIGHT, ignore_index=2),
        TOKENS,
    ),
    "label smoothing": (classifier, nn.CrossEntropyLoss(label_smoothing=0.2), LABELS),
    "label smoothing and class weights": (classifier, nn.CrossEntropyLoss(CLASS_WEIGHT, label_smoothing=0.2), LABELS),
    "log-likelihood": (log_classifier, nn.NLLLoss(CLASS_WEIGHT), LABELS),
    "log-likelihood as keywords": (log_classifier, partial(F.nll_loss, weight=CLASS_WEIGHT), LABELS),
    "keyword ignore_index": (PerToken, partial(F.cross_entropy, ignore_index=0), TOKENS),
    "class probabilities": (classifier, WEIGHED, F.one_hot(LABELS, CLASSES).double()),
    "squared error": (regression, nn.MSELoss(), NUMBERS),
    "a sum": (classifier, nn.CrossEntropyLoss(reduction="sum"), LABELS),
    "a sum as keyword": (regression, partial(F.mse_loss, reduction="sum"), NUMBERS),
    "a weighted sum": (classifier, nn.CrossEntropyLoss(CLASS_WEIGHT, reduction="sum"), LABELS),
}
CUTS: list[dict[str, Any]] = [{}, {"micro_batch": 2}, {"micro_batch": 7}, {"noise": "micro-batch(every=1)"}]


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().double()


def fitted(model: nn.Module, targets: Tensor, loss: Any, **settings: Any) -> Any:
    """One step of plain SGD at a learning rate of 1, of a batch that is all of the data."""
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    return fit(model, (X, targets), loss, batch_size=N, lr=None, optimizer=sgd, epochs=1, progress=False, **settings)


def default(loss: Any, targets: Tensor) -> Any:
    return loss or (F.mse_loss if targets.is_floating_point() else F.cross_entropy)


def require_gradient(before: nn.Module, after: nn.Module, loss: Any, targets: Tensor) -> None:
    """What has been subtracted is the gradient of the loss of all samples at once."""
    loss(before(X), targets).backward()
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close((old - new).detach(), old.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_the_step_is_the_gradient_of_the_whole_batch(name: str, cut: dict[str, Any]) -> None:
    make, loss, targets = CASES[name]
    model = built(make)
    before = copy.deepcopy(model)
    run = fitted(model, targets, loss, **cut)
    assert len(run.history) == 1 and run.history[0]["batch_size"] == N
    require_gradient(before, model, default(loss, targets), targets)


@pytest.mark.parametrize("cut", CUTS[:3], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_an_evaluation_is_the_loss_of_the_whole_set(name: str, cut: dict[str, Any]) -> None:
    """Of a sum, its mean over the samples."""
    make, loss, targets = CASES[name]
    model = built(make)
    run = fitted(model, targets, loss, valid=(X, targets), test=(X[:17], targets[:17]), **cut)
    with torch.no_grad():
        for rows, found in ((slice(N), run.history[-1]["valid_loss"]), (slice(17), run.test["loss"])):
            whole = default(loss, targets)(model(X[rows]), targets[rows])
            expected = float(whole) / (len(X[rows]) if "sum" in name else 1)
            assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("micro_batch", [None, 1, 2])
def test_passes_without_any_unit(micro_batch: int | None) -> None:
    """Samples of which every token is ignored, whose mean loss torch gives as nan."""
    targets = TOKENS.masked_fill(torch.arange(N)[:, None] % 2 == 0, -100)
    model = built(PerToken)
    before = copy.deepcopy(model)
    run = fitted(model, targets, nn.CrossEntropyLoss(), micro_batch=micro_batch, valid=(X, targets))
    require_gradient(before, model, nn.CrossEntropyLoss(), targets)
    assert run.history[-1]["valid_loss"] == pytest.approx(F.cross_entropy(model(X), targets).item(), rel=1e-9)


# Losses that torch does not know.


def test_a_sum_that_is_not_known_as_one_is_refused() -> None:
    model = built(classifier)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="reduction='mean'"):
        fitted(model, LABELS, lambda output, target: F.cross_entropy(output, target, reduction="sum"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("noise", [None, "micro-batch(every=1)"])
def test_a_mean_over_units_that_are_not_known_is_not_cut(noise: str | None) -> None:
    passes: list[int] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        passes.append(len(target))
        return F.cross_entropy(output, target, CLASS_WEIGHT)

    model = built(classifier)
    before = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="not the mean of the losses of its samples"):
        fitted(model, LABELS, loss, noise=noise)
    assert passes[-1] == N
    require_gradient(before, model, loss, LABELS)


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_mean_over_samples_is_found_to_be_one(cut: dict[str, Any], recwarn: pytest.WarningsRecorder) -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return ((output - target) ** 4).mean()

    model = built(regression)
    before = copy.deepcopy(model)
    fitted(model, NUMBERS, loss, **cut)
    assert not recwarn.list
    require_gradient(before, model, loss, NUMBERS)


# Precision.


def learnt(**settings: Any) -> Any:
    data = blobs(600)
    train, valid = data.subset(torch.arange(500)), data.subset(torch.arange(500, 600))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3))
    given = {"batch_size": 20, "lr": 0.2, "epochs": 5, "progress": False, **settings}
    return fit(model, train, valid=valid, **given)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns(precision: str) -> None:
    seen = set()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        seen.add(output.dtype)
        return F.cross_entropy(output, target)

    run = learnt(precision=precision, loss=loss)
    assert run.best["valid_accuracy"] > 0.9
    assert {"bf16": torch.bfloat16, "fp16": torch.float16}[precision] in seen
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


@pytest.mark.parametrize("precision", ["fp8", "", 16, {"bf16": 1}])
def test_another_precision_is_refused(precision: Any) -> None:
    with pytest.raises(InputError, match=r"precision.*'bf16'"):
        learnt(precision=precision)


# Callbacks.


class Rows(Callback):
    """Remembers what it is called with, in order."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def step(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def evaluation(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


def test_callbacks_get_steps_and_evaluations_in_order() -> None:
    first, second = Rows(), Rows()
    run = learnt(callbacks=(first, second), epochs=2, eval_every=0.5)
    assert first.rows == second.rows == run.history
    evaluated = [number for number, row in enumerate(first.rows) if row.get("valid_loss") is not None]
    assert len(first.rows) == 2 * 25 + 4 and evaluated == [13, 26, 40, 53]


@pytest.mark.parametrize("callbacks", [[print], [Rows], Rows(), 3.5, {"a": 1}])
def test_what_is_no_callback_is_refused(callbacks: Any) -> None:
    with pytest.raises(InputError, match="callbacks"):
        learnt(callbacks=callbacks)


# Clipping.


@pytest.mark.parametrize("clip", [{"clip_norm": 0.05}, {"clip_value": 0.01}])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_clipping_is_that_of_a_loop_of_ones_own(clip: dict[str, float], micro_batch: int | None) -> None:
    settings: dict[str, Any] = {"micro_batch": micro_batch, "seed": 5, "epochs": 2}
    models = [built(classifier) for _ in range(3)]
    sgd = [torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9) for model in models]
    fit(models[0], (X, LABELS), batch_size=8, lr=None, optimizer=sgd[0], progress=False, **clip, **settings)
    auto = AutoBatch(models[1], sgd[1], (X, LABELS), 8, None, **clip, **settings)
    for x, y in auto:
        auto.backward(F.cross_entropy(models[1](x), y))
        auto.step()
    auto.finalize()
    fit(models[2], (X, LABELS), batch_size=8, lr=None, optimizer=sgd[2], progress=False, **settings)
    ours, theirs, unclipped = (list(model.parameters()) for model in models)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not all(torch.allclose(a, b) for a, b in zip(ours, unclipped, strict=True))
