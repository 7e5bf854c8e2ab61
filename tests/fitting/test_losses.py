"""The default losses, and everything a model, a loss and data are refused for before training."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import DataError, InputError
from rightbatch.data import Source, as_source, blobs
from rightbatch.fitting.losses import default_loss, require_fitting
from rightbatch.fitting.torch_losses import mean_squared_error


def floats(*shape: int, dtype: torch.dtype = torch.float32) -> Source:
    return as_source((torch.randn(6, 2, dtype=dtype), torch.randn(6, *shape, dtype=dtype)))


def classes(low: int, high: int) -> Source:
    return as_source((torch.randn(6, 2), torch.arange(6) % (high - low + 1) + low))


def test_the_loss_follows_the_targets() -> None:
    assert default_loss(classes(0, 2)) is F.cross_entropy
    assert default_loss(floats()) is mean_squared_error


def test_mean_squared_error_of_columns_and_plain_targets() -> None:
    """Torch would compare (b, 1) with (b,) all with all; and any other shapes are compared as they are."""
    output, target = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 0.0, 1.0])
    assert mean_squared_error(output, target).item() == pytest.approx((0 + 4 + 9) / 3)
    assert mean_squared_error(output[:, 0], target[:, None]).item() == pytest.approx((0 + 4 + 9) / 3)
    two = torch.randn(3, 2)
    assert mean_squared_error(two, two + 2.0).item() == pytest.approx(4.0)


class Returning(nn.Module):
    def __init__(self, what: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.what = nn.Linear(2, 3), what

    def forward(self, x: Tensor) -> Any:
        return self.what(self.layer(x))


REFUSED: dict[str, tuple[nn.Module, Any, Source, type[InputError], str]] = {
    "dtype": (
        nn.Linear(2, 3),
        F.cross_entropy,
        as_source((torch.randn(6, 2).double(), torch.zeros(6).long())),
        InputError,
        r"parameters are torch.float32, the train inputs torch.float64; convert.*model.to\(torch.float64\)",
    ),
    "cross-entropy of floats": (
        nn.Linear(2, 3),
        F.cross_entropy,
        floats(),
        DataError,
        r"needs integer class targets \(int64\), the train targets are torch.float32; convert them with .long\(\)",
    ),
    "cross-entropy module of floats": (nn.Linear(2, 3), nn.CrossEntropyLoss(), floats(), DataError, "integer class"),
    "classes too high": (
        nn.Linear(2, 3),
        F.cross_entropy,
        classes(0, 4),
        DataError,
        "run from 0 to 4, but the model has 3 outputs: classes must be 0 to 2. Give the model 5 outputs or renumber",
    ),
    "classes below 0": (nn.Linear(2, 3), nn.CrossEntropyLoss(), classes(-1, 1), DataError, "run from -1 to 1"),
    "tuple": (
        Returning(lambda o: (o, o)),
        F.cross_entropy,
        classes(0, 2),
        InputError,
        "returns a tuple, of which the loss needs one tensor",
    ),
    "dict": (Returning(lambda o: {"o": o}), F.cross_entropy, classes(0, 2), InputError, "returns a dict"),
    "input shape": (
        nn.Linear(5, 3),
        F.cross_entropy,
        classes(0, 2),
        InputError,
        r"cannot take inputs of shape \(2, 2\): mat1 and mat2",
    ),
    "loss and shapes": (
        nn.Linear(2, 3),
        F.l1_loss,
        as_source((torch.randn(6, 2), torch.randn(6, 4))),
        InputError,
        r"cannot compare the model's output \(2, 3\) with targets \(2, 4\)",
    ),
    "loss not one number": (
        nn.Linear(2, 3),
        nn.CrossEntropyLoss(reduction="none"),
        classes(0, 2),
        InputError,
        r"must return one number, the mean over the samples; it returned a tensor of shape \(2,\)",
    ),
    "loss no tensor": (nn.Linear(2, 3), lambda o, y: 0.5, classes(0, 2), InputError, "it returned float"),
}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    model, loss, source, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        require_fitting(model, loss, source)


def test_the_message_names_the_data() -> None:
    with pytest.raises(DataError, match="The valid targets run from 0 to 4"):
        require_fitting(nn.Linear(2, 3), F.cross_entropy, classes(0, 4), "valid")


FITTING: dict[str, tuple[nn.Module, Any, Source]] = {
    "classes": (nn.Linear(2, 3), F.cross_entropy, blobs(20)),
    "probabilities": (
        nn.Linear(2, 3),
        F.cross_entropy,
        as_source((torch.randn(6, 2), torch.softmax(torch.randn(6, 3), 1))),
    ),
    "column": (nn.Linear(2, 1), mean_squared_error, floats()),
    "float64": (nn.Linear(2, 1).double(), mean_squared_error, floats(dtype=torch.float64)),
    "own loss": (Returning(lambda o: (o, o)[0]), lambda o, y: (o.mean() - y.float().mean()) ** 2, classes(-3, 9)),
    "no parameters": (nn.Identity(), mean_squared_error, floats(2)),
    "shape one": (nn.Linear(2, 3), lambda o, y: F.cross_entropy(o, y).reshape(1), blobs(20)),
}


@pytest.mark.parametrize("name", FITTING)
def test_what_fits(name: str) -> None:
    require_fitting(*FITTING[name])


def test_the_trial_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    model[1].eval()
    before = deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    require_fitting(model, F.cross_entropy, blobs(20))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())
