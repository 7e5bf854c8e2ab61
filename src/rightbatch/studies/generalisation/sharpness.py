"""How sharp a minimum is: how far the loss can rise close by, and the largest eigenvalue of its Hessian."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import MissingExtraError
from ...ranges import require_number, require_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from ...fitting.units import Loss
    from ...noise.objective import Objective

Vector = NDArray[np.float64]


def keskar_sharpness(
    model: "nn.Module", loss: "Loss", x: "Tensor", y: "Tensor", *, epsilon: float = 1e-3, iterations: int = 10
) -> float:
    """The greatest rise of the loss in a small box about the parameters, in per cent of one plus the loss.

        φ = 100 · (max_{y ∈ C} f(w + y) - f(w)) / (1 + f(w)),   C = {y : |y_i| <= ε(|w_i| + 1)}

    The maximum is approached by L-BFGS-B from y = 0, and the greatest loss met on the way taken. It works in units of
    the box, and of the first gradient's mean there: its first step is as long as the gradient, so that in the units of
    the parameters ten iterations from a flat place would end where they began. Dropout and BatchNorm are as at test.

    | symbol | argument | meaning |
    |---|---|---|
    | f | `loss` of `model` on `x`, `y` | mean loss over all of them |
    | w | the trainable parameters of `model` | where f is looked at |
    | ε | `epsilon` | size of the box |

    Args:
        model: left as it was.
        loss: mean over the samples.
        x: inputs, shape (N, ...).
        y: targets, shape (N, ...).
        epsilon: above 0.
        iterations: of L-BFGS-B, at most.

    Returns:
        φ, at least 0.

    Raises:
        InputError: the loss is not finite, or does not depend on the parameters.
        MissingExtraError: scipy is not installed.

    Reference: N. Keskar, D. Mudigere, J. Nocedal, M. Smelyanskiy, P. Tang, "On large-batch training for deep learning:
    generalization gap and sharp minima" (ICLR 2017), metric 2.1 with A = I. The units of the search are our own.
    """
    require_number("epsilon", epsilon, above=0)
    require_whole("iterations", iterations, least=1)
    require_scipy()
    from scipy.optimize import Bounds, minimize

    from ...noise.reference import flat

    with _at_test(model, loss, x, y) as objective:
        start = flat(tuple(objective.parameters), objective.parameters).numpy()
        box = epsilon * (np.abs(start) + 1)
        values: list[float] = []
        scale = 0.0

        def downhill(z: Vector) -> tuple[float, Vector]:
            nonlocal scale
            _write(objective.parameters, start + box * z)
            value = objective.value()
            slope = box * flat(objective.differentiated(value), objective.parameters).numpy()
            values.append(value.item())
            scale = scale or float(np.abs(slope).mean()) or 1.0
            return -values[-1] / scale, -slope / scale

        options = {"maxiter": iterations, "ftol": 0.0, "gtol": 0.0}
        within = Bounds(np.full(len(start), -1.0), np.full(len(start), 1.0))
        minimize(downhill, 0 * start, jac=True, method="L-BFGS-B", bounds=within, options=options)
        return 100 * (max(values) - values[0]) / (1 + values[0])


def largest_eigenvalue(
    model: "nn.Module",
    loss: "Loss",
    x: "Tensor",
    y: "Tensor",
    *,
    tolerance: float = 1e-3,
    iterations: int = 50,
    seed: int = 0,
) -> float:
    """The largest eigenvalue of the Hessian of the mean loss, from products of the Hessian with vectors.

    Lanczos' method with every new direction made orthogonal to all before: after k products the answer is the largest
    eigenvalue of the Hessian on the space they span, which is never above the true one. It ends as soon as the residual
    ‖Hv - θv‖, within which of θ an eigenvalue lies, is at most `tolerance` times θ. Dropout and BatchNorm are as at
    test.

    Args:
        model: left as it was.
        loss: mean over the samples.
        x: inputs, shape (N, ...).
        y: targets, shape (N, ...).
        tolerance: relative.
        iterations: products at most.
        seed: of the first direction.

    Returns:
        θ.

    Raises:
        InputError: the loss is not finite, or does not depend on the parameters.
        UnsupportedError: neither second derivatives nor differences of gradients can be had.

    Reference: C. Lanczos, "An iteration method for the solution of the eigenvalue problem of linear differential and
    integral operators" (1950); the products after B. Pearlmutter, "Fast exact multiplication by the Hessian" (1994).
    """
    import torch

    from ...noise.curvature import hessian
    from ...noise.reference import flat

    require_number("tolerance", tolerance, above=0)
    require_whole("iterations", iterations, least=1)
    with _at_test(model, loss, x, y) as objective:
        _, product, _, _ = hessian(objective)
        sizes = [p.numel() for p in objective.parameters]
        direction = np.random.default_rng(seed).standard_normal(sum(sizes))
        direction /= np.linalg.norm(direction)
        basis = [direction]
        diagonal: list[float] = []
        beside: list[float] = []
        while True:
            parts = torch.split(torch.from_numpy(basis[-1]), sizes)
            v = [part.view_as(p).to(p) for part, p in zip(parts, objective.parameters, strict=True)]
            image = flat(tuple(product(v)), objective.parameters).numpy()
            diagonal.append(float(basis[-1] @ image))
            for _ in range(2):  # once leaves what rounding brings back
                for one in basis:
                    image -= (one @ image) * one
            rest = float(np.linalg.norm(image))
            ritz, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
            answer, residual = float(ritz[-1]), rest * abs(float(vectors[-1, -1]))
            if residual <= tolerance * abs(answer) or len(basis) >= min(iterations, len(direction)):
                return answer
            beside.append(rest)
            basis.append(image / rest)


def require_scipy() -> None:
    """Keskar's measure is searched for by scipy.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import scipy.optimize  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("scipy", "studies", "the sharpness of minima") from error


@contextmanager
def _at_test(model: "nn.Module", loss: "Loss", x: "Tensor", y: "Tensor") -> "Iterator[Objective]":
    """The objective as at test; parameters and modes are put back."""
    import torch

    from ...noise.isolation import modes_kept
    from ...noise.objective import Objective

    parameters = [p for p in model.parameters() if p.requires_grad]
    saved = [p.detach().clone() for p in parameters]
    try:
        with modes_kept(model), torch.enable_grad():
            yield Objective(model.eval(), loss, x, y, parameters)
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, saved, strict=True):
                p.copy_(old)


def _write(parameters: "Sequence[Tensor]", values: Vector) -> None:
    import torch

    parts = torch.split(torch.from_numpy(values), [p.numel() for p in parameters])
    with torch.no_grad():
        for p, part in zip(parameters, parts, strict=True):
            p.copy_(part.view_as(p))
