"""The problems the benchmarks train on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rightbatch.data import load
from rightbatch.models import build_model

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Problem:
    """A model and its data, in memory.

    `x`, `y` are trained on and `check_x`, `check_y` evaluated on: the training set itself for convex problems, whose
    optimum is known, held-out data for networks. `floor` is the least loss there is, 0 where it is unknown.
    """

    name: str
    x: Tensor
    y: Tensor
    check_x: Tensor
    check_y: Tensor
    make: Callable[[int], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    epochs: int
    convex: bool
    floor: float = 0.0

    def check(self, model: nn.Module) -> float:
        """Mean loss of `model` on the data to check on."""
        n = len(self.check_x)
        with torch.no_grad():
            return (
                sum(
                    float(self.loss(model(self.check_x[i : i + 8192]), self.check_y[i : i + 8192])) * min(8192, n - i)
                    for i in range(0, n, 8192)
                )
                / n
            )


def logistic(name: str, path: Path, epochs: int, floor: bool) -> Problem:
    """Logistic regression without regularisation, from zero weights; its optimum by L-BFGS in double precision."""
    source = load(str(path)).train
    x, y = source.fetch(torch.arange(len(source)))
    target = y.float().unsqueeze(1)

    def make(seed: int) -> nn.Module:
        model = nn.Linear(x.shape[1], 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        return model

    loss = nn.functional.binary_cross_entropy_with_logits
    least = _optimum(x.double(), target.double()) if floor else 0.0
    return Problem(name, x, target, x, target, make, loss, epochs, True, least)


def _optimum(x: Tensor, y: Tensor) -> float:
    model = nn.Linear(x.shape[1], 1).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=3000,
        history_size=50,
        tolerance_grad=1e-10,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        value.backward()
        return value

    optimizer.step(closure)
    return float(closure().detach())


def fashion(model: str, epochs: int) -> Problem:
    """Fashion-MNIST, checked on its test images."""
    splits = load(str(DATA / "fashion_mnist"))
    assert splits.test is not None
    x, y = splits.train.fetch(torch.arange(len(splits.train)))
    check_x, check_y = splits.test.fetch(torch.arange(len(splits.test)))
    shape = splits.train.x_shape

    def make(seed: int) -> nn.Module:
        return build_model(model, shape, 10, seed)

    name = f"Fashion-MNIST {model.upper()}"
    return Problem(name, x, y, check_x, check_y, make, nn.functional.cross_entropy, epochs, False)


def problems(names: list[str], floors: bool = True) -> list[Problem]:
    """The problems named: a9a, cod-rna, fashion-mlp, fashion-cnn; without `floors` no optimum is looked for."""
    known: dict[str, Callable[[], Problem]] = {
        "a9a": lambda: logistic("a9a logistic", DATA / "libsvm" / "a9a_train.npz", 10, floors),
        "cod-rna": lambda: logistic("cod-rna logistic", DATA / "libsvm" / "cod_rna_scaled.npz", 5, floors),
        "fashion-mlp": lambda: fashion("mlp", 5),
        "fashion-cnn": lambda: fashion("cnn", 2),
    }
    return [known[name]() for name in names]
