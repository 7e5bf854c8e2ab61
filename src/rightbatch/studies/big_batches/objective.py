"""The whole objective of a subject: what a run minimises, how far it still is, and where its minimum lies."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ...errors import InputError
from ...models import build_model
from ..subject import Subject, everything

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...fitting.losses import Loss

CHUNK_SAMPLES = 4096
POWER_STEPS = 50
MOST_SEARCHES = 2000  # iterations of L-BFGS


class Look(NamedTuple):
    """ℓ, ‖∇ℓ‖ and, of classes, the share told rightly, over all training samples."""

    value: float
    norm: float
    accuracy: float


@dataclass(frozen=True)
class Objective:
    """ℓ(w) = mean loss over the training samples + λ/2·‖w‖², the penalty for models linear in their parameters.

    A linear model, which has one minimum, is taken in double precision.

    Args:
        x, y: training samples.
        test_x, test_y: test samples.
        loss: mean over a batch, without the penalty.
        model: a name for `build_model`.
        outputs: of the model.
        penalty: λ; 0 for models that are not linear.
        linear: whether the model is.
    """

    x: "Tensor"
    y: "Tensor"
    test_x: "Tensor"
    test_y: "Tensor"
    loss: "Loss"
    model: str
    outputs: int
    penalty: float
    linear: bool

    @classmethod
    def of(cls, subject: Subject, penalty: float, most_samples: int | None, against_rest: int | None) -> "Objective":
        """Of a subject; columns of a table that leave [-1, 1], and quantities to predict, are centred and scaled.

        Args:
            subject: data and model.
            penalty: λ, where the model is linear.
            most_samples: at most, to train on and to test on, drawn at random; None takes all.
            against_rest: the class to tell from all others; None takes the classes as they are.

        Raises:
            InputError: no such class, or data that the model cannot be trained on.
        """
        import torch

        from ...data import Order, as_source
        from ...fitting.losses import default_loss, require_fitting

        train, test = subject.sources()
        (x, y), (test_x, test_y) = everything(train), everything(test)
        if most_samples is not None:
            some, few = (
                torch.from_numpy(Order(len(t), 0).indices(0, 0, min(most_samples, len(t)))) for t in (x, test_x)
            )
            x, y, test_x, test_y = x[some], y[some], test_x[few], test_y[few]
        if not y.is_floating_point() and y.dim() > 1:
            raise InputError(f"The targets of {subject.data} have shape {train.y_shape}: one class a sample is needed.")
        if against_rest is not None:
            if y.is_floating_point() or not (y == against_rest).any():
                raise InputError(
                    f"against_rest is {against_rest}, but the targets of {subject.data} hold no such class; give one "
                    "that they hold, or None."
                )
            y, test_y = ((t == against_rest).long() for t in (y, test_y))
            outputs = 2
        elif y.is_floating_point():
            outputs = prod(train.y_shape)
            y, test_y = _scaled(y, test_y)
        elif train.classes is None:
            raise InputError(
                f"The classes of {subject.data} are not numbered from 0: renumber them, or give against_rest, the "
                "class to tell from all others."
            )
        else:
            outputs = train.classes
        if x.dim() == 2 and x.is_floating_point():
            wide = x.abs().amax(0) > 1
            if wide.any():
                x, test_x = x.clone(), test_x.clone()
                x[:, wide], test_x[:, wide] = _scaled(x[:, wide], test_x[:, wide])
        model = build_model(subject.model, tuple(x.shape[1:]), outputs)
        require_fitting(model, default_loss(train), as_source((x[:2], y[:2])))
        linear = _is_linear(model)
        if linear:
            x, test_x = x.double(), test_x.double()
            y, test_y = (t.double() if t.is_floating_point() else t for t in (y, test_y))
        return cls(
            x, y, test_x, test_y, default_loss(train), subject.model, outputs, penalty if linear else 0.0, linear
        )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def classifies(self) -> bool:
        """Whether there is an accuracy."""
        return not self.y.is_floating_point()

    def network(self, seed: int) -> "nn.Module":
        """A model with the initial parameters of this seed."""
        model = build_model(self.model, tuple(self.x.shape[1:]), self.outputs, seed)
        return model.double() if self.linear else model

    def of_batches(self, model: "nn.Module") -> "Loss":
        """The loss of a batch, with the penalty on the parameters of `model`."""
        if not self.penalty:
            return self.loss
        parameters = list(model.parameters())

        def penalised(output: "Tensor", target: "Tensor") -> "Tensor":
            norms = sum(p.square().sum() for p in parameters)
            return self.loss(output, target) + self.penalty / 2 * norms

        return penalised

    def look(self, model: "nn.Module") -> "Look":
        """Compute ℓ, ‖∇ℓ‖ and the training accuracy; the gradients that the parameters hold are left alone."""
        import torch

        parameters = [p for p in model.parameters() if p.requires_grad]
        total, right, sums = 0.0, 0, [torch.zeros_like(p) for p in parameters]
        loss = self.of_batches(model)
        model.eval()
        for x, y in self._chunks(self.x, self.y):
            output, share = model(x), len(x) / len(self.x)
            value = loss(output, y)
            for sum_, gradient in zip(sums, torch.autograd.grad(value, parameters, allow_unused=True), strict=True):
                if gradient is not None:
                    sum_ += share * gradient
            total += share * value.item()
            right += int((output.argmax(1) == y).sum()) if self.classifies else 0
        model.train()
        norm = float(torch.stack([g.square().sum() for g in sums]).sum().sqrt())
        return Look(total, norm, right / len(self.x))

    def test_accuracy(self, model: "nn.Module") -> float:
        """Share of the test samples told rightly."""
        import torch

        model.eval()
        with torch.no_grad():
            right = sum(int((model(x).argmax(1) == y).sum()) for x, y in self._chunks(self.test_x, self.test_y))
        model.train()
        return right / len(self.test_x)

    def _chunks(self, x: "Tensor", y: "Tensor") -> "Iterator[tuple[Tensor, Tensor]]":
        return ((x[i : i + CHUNK_SAMPLES], y[i : i + CHUNK_SAMPLES]) for i in range(0, len(x), CHUNK_SAMPLES))

    def smoothness(self) -> float:
        """A bound on the largest curvature of a linear model's objective: c·λ_max(XᵀX/N) + λ, a 1 added to each x.

        c is 1/2 for cross-entropy (the Hessian of log-sum-exp is at most half the identity) and 2 over the outputs for
        the mean squared error.
        """
        import torch

        x = torch.cat([self.x.flatten(1), self.x.new_ones(len(self.x), 1)], 1)
        v, largest = x.mean(0), 0.0
        for _ in range(POWER_STEPS):
            v = x.T @ (x @ (v / v.norm())) / len(x)
            largest = float(v.norm())
        return largest * (0.5 if self.classifies else 2 / self.outputs) + self.penalty

    def least(self) -> float:
        """ℓ*, of a linear model by L-BFGS to the precision of doubles; 0, a bound, of any other."""
        import torch

        if not self.linear:
            return 0.0
        model = self.network(0)
        for p in model.parameters():
            torch.nn.init.zeros_(p)
        loss = self.of_batches(model)
        optimizer = torch.optim.LBFGS(
            model.parameters(),
            max_iter=MOST_SEARCHES,
            history_size=30,
            tolerance_grad=1e-10,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure() -> "Tensor":
            optimizer.zero_grad()
            value = loss(model(self.x), self.y)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return self.look(model).value


@cache
def known_objective(
    subject: Subject, penalty: float, most_samples: int | None, against_rest: int | None
) -> tuple[Objective, float]:
    """The objective and its ℓ*, worked out once in a process."""
    objective = Objective.of(subject, penalty, most_samples, against_rest)
    return objective, objective.least()


def _scaled(values: "Tensor", others: "Tensor") -> "tuple[Tensor, Tensor]":
    """Both with the mean and deviation of the first taken out, column by column; a constant one is only centred."""
    mean, deviation = values.mean(0), values.std(0)
    deviation = deviation.where(deviation > 0, deviation.new_ones(()))
    return (values - mean) / deviation, (others - mean) / deviation


def _is_linear(model: "nn.Module") -> bool:
    from torch import nn

    leaves = [module for module in model.modules() if not list(module.children())]
    linears = [module for module in leaves if type(module) is nn.Linear]
    return len(linears) == 1 and all(
        type(module) in (nn.Linear, nn.Flatten, nn.Unflatten, nn.Identity) for module in leaves
    )
