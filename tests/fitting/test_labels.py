"""Kinds of targets beside kinds of losses: each is right, converted, reported, or refused with a remedy."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import DataError, InputError, find_lr, fit
from rightbatch.data import Source, as_source
from rightbatch.fitting import Run
from rightbatch.fitting.evaluation import evaluate
from rightbatch.fitting.labels import absent_classes, labels_of

N = 24
X = torch.randn(N, 2, generator=torch.Generator().manual_seed(3))
TURN = torch.arange(N)
WITH_255 = torch.where(TURN % 3 == 0, 255, TURN % 4)
FLAT = nn.Flatten(0)


def squared(output: Tensor, target: Tensor) -> Tensor:
    """A user's own loss, which broadcasts."""
    return (output - target).square().mean()


def squared_columns(output: Tensor, target: Tensor) -> Tensor:
    """A user's own loss, which does not."""
    return (output[:, 0] - target).square().mean()


def total(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum()


# The loss, the outputs of the model (0: shape (n,)), the targets, and what is refused with what remedy; None: right.
TABLE: dict[str, tuple[Any, int, Tensor, tuple[type[InputError], str] | None]] = {
    "default, classes": (None, 3, TURN % 3, None),
    "default, -100 is ignored": (None, 4, torch.where(WITH_255 == 255, -100, WITH_255), None),
    "255 ignored": (nn.CrossEntropyLoss(ignore_index=255), 4, WITH_255, None),
    "255 ignored, function": (partial(F.cross_entropy, ignore_index=255), 4, WITH_255, None),
    "255 ignored by nll": (partial(F.nll_loss, ignore_index=255), 4, WITH_255, None),
    "255 not ignored": (None, 4, WITH_255, (DataError, r"255 marks .* nn.CrossEntropyLoss\(ignore_index=255\)")),
    "255 ignored and a 7": (
        nn.CrossEntropyLoss(ignore_index=255),
        4,
        torch.where(TURN == 5, 7, WITH_255),
        (DataError, "run from 0 to 7, but the model has 4 outputs"),
    ),
    "-100 and -1": (
        None,
        3,
        torch.where(TURN < 6, -100, TURN % 4 - 1),
        (DataError, "run from -1 to 2.*ignore_index=-1"),
    ),
    "all ignored": (None, 3, torch.full((N,), -100), (DataError, "All train targets are -100")),
    "from 1": (None, 3, TURN % 3 + 1, (DataError, "run from 1 to 3.*classes must be 0 to 2. Subtract 1")),
    "from 1, one output more": (None, 4, TURN % 3 + 1, None),
    "-1 and 1": (None, 2, TURN % 2 * 2 - 1, (DataError, r"Convert them to 0 and 1 with \(y \+ 1\) // 2")),
    "-1 to 1": (nn.CrossEntropyLoss(), 3, TURN % 3 - 1, (DataError, "Add 1 to the targets")),
    "gaps": (None, 6, torch.tensor([0, 2, 5])[TURN % 3], None),
    "gaps, as many outputs as labels": (
        None,
        3,
        torch.tensor([0, 2, 5])[TURN % 3],
        (DataError, r"Renumber them with torch.unique\(y, return_inverse=True\)\[1\], or give the model 6 outputs"),
    ),
    "booleans are classes": (None, 2, TURN % 2 == 0, None),
    "one output for two classes": (None, 1, TURN % 2, (InputError, r"one output per class.*BCEWithLogitsLoss\(\)")),
    "one output as (n,)": (None, 0, TURN % 2, (InputError, "one output per class")),
    "column of classes": (None, 3, (TURN % 3)[:, None], (InputError, r"shape \(2, 1\).*pass y\[:, 0\]")),
    "one-hot": (None, 3, F.one_hot(TURN % 3), (InputError, r"y.argmax\(1\), of probabilities y.float\(\)")),
    "probabilities": (F.cross_entropy, 3, F.one_hot(TURN % 3).float(), None),
    "floats": (F.cross_entropy, 3, (TURN % 3).float(), (DataError, r"convert them with .long\(\)")),
    "floats for nll": (F.nll_loss, 3, (TURN % 3).float(), (DataError, "nll_loss needs integer class targets")),
    "floats for a margin": (
        nn.MultiMarginLoss(),
        3,
        (TURN % 3).float(),
        (DataError, "multi_margin_loss needs"),
    ),
    "bce of booleans": (nn.BCEWithLogitsLoss(), 0, TURN % 2 == 0, None),
    "bce of integers": (nn.BCEWithLogitsLoss(), 0, TURN % 2, None),
    "bce of integers, function": (F.binary_cross_entropy_with_logits, 1, (TURN % 2)[:, None], None),
    "bce of integers, partial": (partial(F.binary_cross_entropy_with_logits, reduction="sum"), 0, TURN % 2, None),
    "bce of floats": (nn.BCEWithLogitsLoss(), 0, (TURN % 2).float(), None),
    "bce of -1 and 1": (nn.BCEWithLogitsLoss(), 0, TURN % 2 * 2 - 1, (DataError, r"with \(y \+ 1\) / 2")),
    "bce of -1.0 and 1.0": (
        nn.BCEWithLogitsLoss(),
        0,
        (TURN >= 12) * 2.0 - 1,
        (DataError, r"run from -1 to 1. Convert targets -1 and 1 with \(y \+ 1\) / 2"),
    ),
    "bce of 1 and 2": (nn.BCEWithLogitsLoss(), 0, TURN % 2 + 1, (DataError, "Subtract 1")),
    "bce of 0 to 255": (nn.BCEWithLogitsLoss(), 0, TURN % 2 * 255, (DataError, "Divide them by 255")),
    "bce of classes": (nn.BCEWithLogitsLoss(), 3, TURN % 3, (InputError, "the shapes must be equal. Give the model")),
    "bce (n, 1) against (n,)": (nn.BCEWithLogitsLoss(), 1, TURN % 2, (InputError, r"y.unsqueeze\(-1\)")),
    "soft margin of -1 and 1": (nn.SoftMarginLoss(), 0, TURN % 2 * 2 - 1, None),
    "soft margin of 0 and 1": (nn.SoftMarginLoss(), 0, TURN % 2, (DataError, r"-1 or 1.*2 \* y - 1")),
    "mse of integers": (nn.MSELoss(), 0, TURN, None),
    "huber of integers": (F.huber_loss, 0, TURN % 2, None),
    "default (n, 1) against (n,)": (None, 1, X.sum(1), None),
    "default (n, 2) against (n,)": (None, 2, X.sum(1), (InputError, "Give the model as many outputs")),
    "mse (n, 1) against (n,)": (F.mse_loss, 1, X.sum(1), (InputError, r"y.unsqueeze\(-1\), or .*nn.Flatten\(0\)")),
    "mse (n,) against (n, 1)": (nn.MSELoss(), 0, X.sum(1, keepdim=True), (InputError, r"y.squeeze\(-1\)")),
    "l1 (n, 1) against (n,)": (partial(F.l1_loss), 1, X.sum(1), (InputError, "the shapes must be equal")),
    "own (n, 1) against (n,)": (
        squared,
        1,
        X.sum(1),
        (InputError, "in a table of 16 x 16, each output with"),
    ),
    "own (n,) against (n, 1)": (squared, 0, X.sum(1, keepdim=True), (InputError, r"y.squeeze\(-1\)")),
    "own sum (n, 1) against (n,)": (total, 1, X.sum(1), (InputError, "each output with every target")),
    "own of columns": (squared_columns, 1, X.sum(1), None),
    "own of equal shapes": (squared, 0, X.sum(1), None),
    "class": (
        nn.CrossEntropyLoss,
        3,
        TURN % 3,
        (InputError, "the class nn.CrossEntropyLoss: pass an instance"),
    ),
    "partial of a class": (
        partial(nn.MSELoss, reduction="sum"),
        0,
        X[:, 0],
        (InputError, "a partial of the class nn"),
    ),
    "text": ("mse", 0, X[:, 0], (InputError, "must be a function of output and target, got 'mse'")),
}


def model(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.Linear(2, max(1, outputs))
    return layer if outputs else nn.Sequential(layer, FLAT)


def trained(loss: Any, outputs: int, y: Tensor, **settings: Any) -> Run:
    return fit(model(outputs), (X, y), loss, batch_size=8, lr=0.01, epochs=1, progress=False, **settings)


@pytest.mark.parametrize("name", TABLE)
def test_targets(name: str) -> None:
    loss, outputs, y, refused = TABLE[name]
    if refused is None:
        run = trained(loss, outputs, y)
        assert all(torch.isfinite(p).all() for p in run.model.parameters())
        return
    kind, message = refused
    with pytest.raises(kind, match=message) as caught:
        trained(loss, outputs, y)
    assert type(caught.value) is kind


@pytest.mark.parametrize("where", ["valid", "test"])
@pytest.mark.parametrize("loss", [F.mse_loss, squared, None])
def test_a_table_is_refused_in_evaluation_too(where: str, loss: Any) -> None:
    """Targets (n,) for training and (n, 1) for evaluation; the default loss compares one by one."""
    other = (X, X.sum(1, keepdim=True))
    if loss is None:
        trained(loss, 0, X.sum(1), **{where: other})
        return
    with pytest.raises(InputError, match=rf"{where}|\(2, 1\)"):
        trained(loss, 0, X.sum(1), **{where: other})


@pytest.mark.parametrize(
    ("integers", "floats", "loss"),
    [
        (TURN % 2, (TURN % 2).float(), nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))),
        (TURN % 5, (TURN % 5).float(), nn.HuberLoss()),
        (TURN % 2 == 0, (TURN % 2 == 0).float(), F.binary_cross_entropy_with_logits),
    ],
)
def test_converted_targets_give_the_same_run(integers: Tensor, floats: Tensor, loss: Any) -> None:
    a, b = (trained(loss, 0, y, valid=(X, y)) for y in (integers, floats))
    assert [row.get("train_loss") for row in a.history] == [row.get("train_loss") for row in b.history]
    assert a.best["valid_loss"] == b.best["valid_loss"]


def test_a_class_is_refused_by_a_probe_too() -> None:
    with pytest.raises(InputError, match="pass an instance"):
        find_lr(model(3), (X, TURN % 3), nn.CrossEntropyLoss)


def test_absent_classes_are_reported() -> None:
    source = as_source((X, torch.tensor([0, 2, 5])[TURN % 3]))
    assert labels_of(source) == [0, 2, 5]
    assert absent_classes(source, None) == "no training sample has class 1, 3, 4; the highest class is 5"
    assert absent_classes(as_source((X, WITH_255)), 255) == ""
    many = as_source((X, torch.where(TURN == 0, 40, 0)))
    assert absent_classes(many, -100).startswith("no training sample has class 1, 2, 3, 4, 5 and 34 others")


@pytest.mark.parametrize("y", [X[:, 0], torch.where(TURN == 0, 2**40, 0)])
def test_labels_that_are_not_listed(y: Tensor) -> None:
    assert labels_of(as_source((X, y))) is None


class Unknown(Source):
    """Targets that only become known by reading them."""

    def __init__(self, y: Tensor) -> None:
        self._y = y
        self.x_shape, self.x_dtype, self.y_shape, self.y_dtype = (2,), X.dtype, (), y.dtype

    def __len__(self) -> int:
        return N

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return X[indices], self._y[indices]


def test_a_source_of_unknown_range() -> None:
    """What is not known is not refused; booleans and floats are judged by a few samples spread over the data."""
    fit(model(0), Unknown(TURN % 2 == 0), nn.BCEWithLogitsLoss(), batch_size=8, lr=0.1, epochs=1, progress=False)
    with pytest.raises(DataError, match="between 0 and 1"):
        fit(model(0), Unknown((TURN >= 12) * 2.0 - 1), nn.BCEWithLogitsLoss(), epochs=1, progress=False)


def test_accuracy_is_over_the_targets_that_count() -> None:
    y = torch.where(TURN < 6, -100, 0)
    network = nn.Linear(2, 2)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.copy_(torch.tensor([1.0, 0.0]))
    found = evaluate(network, F.cross_entropy, as_source((X, y)), torch.device("cpu"))
    assert found["accuracy"] == 1.0
    assert found["loss"] == pytest.approx(float(F.cross_entropy(network(X).detach(), y)))
