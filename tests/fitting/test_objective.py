"""`fit` on batches that are no pairs: objectives, collate functions, nested inputs, loaders, metrics."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, TensorDataset

import rightbatch
from rightbatch.data import as_source
from rightbatch.errors import DataError, InputError
from rightbatch.fitting.batch_loss import ObjectiveLoss
from rightbatch.fitting.evaluation import evaluate
from rightbatch.fitting.losses import objective_kind
from rightbatch.fitting.units import Kind

N = 64
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 3, generator=GENERATOR)
Y = X @ torch.tensor([[1.0], [-2.0], [0.5]])
LABELS = (X.sum(1) > 0).long()
TEXTS = [{"ids": torch.randint(1, 9, (2 + i % 5,), generator=GENERATOR), "row": i} for i in range(N)]


def linear(outputs: int = 1) -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(3, outputs)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def padded(items: list[Any]) -> dict[str, Tensor]:
    ids = pad_sequence([item["ids"] for item in items], batch_first=True)
    return {"ids": ids, "row": torch.tensor([item["row"] for item in items])}


class Tagger(nn.Module):
    """Predicts of each token whether it is odd."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(9, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).transpose(1, 2)


def token_mean(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    targets = torch.where(batch["ids"] > 0, batch["ids"] % 2, -100)
    return F.cross_entropy(model(batch["ids"]), targets), (targets >= 0).sum()


def settings(**more: Any) -> dict[str, Any]:
    return {"batch_size": 16, "lr": 0.05, "optimizer": torch.optim.SGD, "epochs": 3, "progress": False, **more}


def test_an_objective_trains_as_the_loss_does_bit_for_bit() -> None:
    pair, mapping, items = linear(), linear(), linear()
    rightbatch.fit(pair, (X, Y), F.mse_loss, **settings())

    def objective(model: nn.Module, batch: Any) -> Tensor:
        return F.mse_loss(model(batch["x"]), batch["y"])

    rightbatch.fit(mapping, {"x": X, "y": Y}, objective=objective, **settings())
    data = [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)]
    rightbatch.fit(items, data, objective=objective, **settings())
    assert torch.equal(weights(pair), weights(mapping)) and torch.equal(weights(pair), weights(items))


def test_a_weight_may_be_a_number_of_numpy() -> None:
    def trained(weight: Any) -> Tensor:
        model = linear()
        data = {"x": X, "y": Y}
        objective = lambda m, b: (F.mse_loss(m(b["x"]), b["y"]), weight(len(b["x"])))  # noqa: E731
        rightbatch.fit(model, data, objective=objective, **settings())
        return weights(model)

    assert torch.equal(trained(np.int64), trained(int)) and torch.equal(trained(np.float32), trained(float))


def test_weights_make_any_split_the_mean_over_tokens() -> None:
    """In passes of 3 padded texts as in whole batches; float64 at 1e-12."""
    whole, cut = Tagger().double(), Tagger().double()
    rightbatch.fit(whole, TEXTS, collate=padded, objective=token_mean, **settings())
    run = rightbatch.fit(cut, TEXTS, collate=padded, objective=token_mean, **settings(micro_batch=3))
    assert torch.allclose(weights(whole), weights(cut), atol=1e-12)
    rows = [row for row in run.history if "train_loss" in row]
    assert rows and all(row["train_loss"] < 5 for row in rows)


def test_the_loss_of_an_evaluation_is_the_mean_over_all_tokens() -> None:
    model, source = Tagger(), as_source(TEXTS, collate=padded)
    found = evaluate(model, ObjectiveLoss(token_mean), source, torch.device("cpu"))
    total = sum(float(a.detach() * b) for a, b in (token_mean(model, padded([item])) for item in TEXTS))
    assert found == {"loss": pytest.approx(total / sum(len(item["ids"]) for item in TEXTS), rel=1e-5)}


@pytest.mark.parametrize(
    ("data", "forward"),
    [
        (((X, X * 2), Y), lambda self, a, b: self.layer(a + b)),
        (({"a": X, "b": X * 2}, Y), lambda self, b, a: self.layer(a + b)),
        ((X, {"half": Y, "rest": Y}), lambda self, a: self.layer(a)),
    ],
)
def test_several_inputs_and_targets(data: Any, forward: Any) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()

    Model.forward = forward  # type: ignore[method-assign]

    def loss(output: Tensor, target: Any) -> Tensor:
        return F.mse_loss(output, target if isinstance(target, Tensor) else (target["half"] + target["rest"]) / 2)

    model = Model()
    run = rightbatch.fit(model, data, loss, valid=0.25, **settings(epochs=30))
    assert run.best["valid_loss"] < 0.05
    if isinstance(data[1], dict):
        with pytest.raises(InputError, match="No loss is known for targets"):
            rightbatch.fit(model, data, **settings())
    else:
        rightbatch.fit(model, data, **settings())  # the default loss, by the type of the target


def test_metrics_of_an_objective() -> None:
    def objective(model: nn.Module, batch: Any) -> tuple[Tensor, None, tuple[Tensor, Tensor]]:
        output = model(batch["x"])
        return F.cross_entropy(output, batch["label"]), None, (output, batch["label"])

    def correct(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) == targets).float().mean())

    data = {"x": X, "label": LABELS}
    run = rightbatch.fit(
        linear(2), data, objective=objective, valid=0.25, metrics={"right": correct}, **settings(epochs=20)
    )
    assert run.best["right"] == run.best["valid_accuracy"] > 0.8
    with pytest.raises(InputError, match="metrics need outputs and targets"):
        rightbatch.fit(
            linear(2),
            data,
            objective=lambda m, b: F.cross_entropy(m(b["x"]), b["label"]),
            valid=0.25,
            metrics={"right": correct},
            **settings(),
        )


def test_a_loader_as_it_is() -> None:
    loader = DataLoader(TensorDataset(X, LABELS), batch_size=8, shuffle=True)
    other = DataLoader(TensorDataset(X, LABELS), batch_size=5)
    run = rightbatch.fit(linear(2), loader, valid=other, epochs=20, progress=False)
    assert run.best["valid_accuracy"] > 0.9


def coupled(model: nn.Module, batch: Any) -> Tensor:
    output = model(batch["x"])
    return ((output - output.mean(0)) ** 2).mean()


@pytest.mark.parametrize(
    ("objective", "kind"),
    [
        (lambda m, b: F.mse_loss(m(b["x"]), b["y"]), Kind.MEAN),
        (lambda m, b: F.mse_loss(m(b["x"]), b["y"], reduction="sum"), Kind.SUM),
        (coupled, Kind.NEITHER),
        (lambda m, b: F.mse_loss(m(b["x"]), b["y"]) + torch.randn(()) * 1e-2, Kind.MEAN),
        (lambda m, b: F.mse_loss(m(b["x"]), b["y"], reduction="sum") + torch.randn(()) * 1e-2, Kind.SUM),
        (lambda m, b: F.mse_loss(m(F.dropout(b["x"], 0.5)), b["y"]), Kind.MEAN),
    ],
)
def test_what_an_objective_is_over_samples(objective: Any, kind: Kind) -> None:
    model = linear()
    before = torch.get_rng_state()
    assert objective_kind(model, ObjectiveLoss(objective), as_source({"x": X, "y": Y})) is kind
    assert torch.equal(before, torch.get_rng_state())


def test_ragged_means_are_told_from_means_over_tokens() -> None:
    def unweighted(model: nn.Module, batch: Any) -> Tensor:
        return token_mean(model, batch)[0]

    source = as_source(TEXTS, collate=padded)
    assert objective_kind(Tagger(), ObjectiveLoss(token_mean), source) is Kind.MEAN
    assert objective_kind(Tagger(), ObjectiveLoss(unweighted), source) is Kind.NEITHER
    with pytest.warns(UserWarning, match="not cut into micro-batches"):
        rightbatch.fit(Tagger(), TEXTS, collate=padded, objective=unweighted, **settings(epochs=1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": lambda m, b: m(b["x"])}, "objective must return the mean loss"),
        ({"objective": lambda m, b: (m(b["x"]).mean(), "many")}, "must be one number, got a str"),
        ({"objective": lambda m, b: (m(b["x"]).mean(), m(b["x"]))}, "must be one number, got a tensor of shape"),
        ({"objective": lambda m, b: ()}, "got no values"),
        ({"objective": lambda m, b: m(b["z"])}, "objective failed on a batch of x .2, 3. float32, y .* KeyError: 'z'"),
        ({"objective": lambda m, b: m(b["x"]).sum()}, "sum over the samples"),
        ({"objective": nn.Linear(1, 1)}, "must be a function of model and batch"),
        ({"objective": 3}, "must be a function of model and batch"),
        ({"objective": lambda m, b: m(b["x"]).mean(), "loss": F.mse_loss}, "both given"),
        ({}, "is not a pair .input, target.: pass objective="),
        ({"loss": F.mse_loss}, "is not a pair .input, target.: pass objective="),
        ({"objective": lambda m, b: m(b["x"]).mean(), "collate": 3}, "collate must be a function"),
    ],
)
def test_refused_before_anything_is_trained(given: dict[str, Any], message: str) -> None:
    model = linear()
    before = weights(model)
    with pytest.raises((InputError, DataError), match=message):
        rightbatch.fit(model, {"x": X, "y": Y}, **given, **settings())
    assert torch.equal(before, weights(model))


def test_unlabelled_data_is_one_tensor() -> None:
    run = rightbatch.fit(linear(3), X, objective=lambda m, b: F.mse_loss(m(b), b), valid=0.25, **settings(epochs=40))
    assert run.best["valid_loss"] < 0.7


def test_probe_find_lr_and_measure_take_nests() -> None:
    def objective(model: nn.Module, batch: Any) -> Tensor:
        return F.mse_loss(model(batch["x"]), batch["y"])

    data, model = {"x": X, "y": Y}, linear()
    curve = rightbatch.find_lr(model, data, objective=objective, batch_size=16, steps=20)
    same = rightbatch.find_lr(model, (X, Y), F.mse_loss, batch_size=16, steps=20)
    assert curve.losses == same.losses
    found = rightbatch.measure(model, objective, {"x": X, "y": Y})
    exact = rightbatch.measure(model, F.mse_loss, X, Y)
    assert found.variance == pytest.approx(exact.variance, rel=1e-5) and found.method == exact.method
    texts = padded(TEXTS)
    ragged = rightbatch.measure(Tagger(), lambda m, b: token_mean(m, b)[0], texts)
    assert ragged.variance > 0
