"""Curvature of the batch's loss where the gradient points, and the gradient noise weighted by curvature."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import UnsupportedError
from ..measurements import Curvature
from .graph import nodes_of
from .layers.rule import FULL_PRECISION
from .objective import Gradients, Objective
from .parameter_groups import ParameterGroups

OPAQUE = ("torch::autograd::Error", "torch::autograd::NotImplemented")
PROBES = 8
LEAST_EXAMPLES = 8  # fewer split into halves in too few ways for a spread

Vector = Sequence[Tensor]
Product = Callable[[Vector], Vector]


def measure_curvature(
    objective: Objective, groups: ParameterGroups, *, noise: bool = False, probes: int = PROBES, seed: int = 0
) -> Curvature:
    """Curvature along the gradient, and on request the noise scale in which curvature counts: B = tr(HΣ)/(gᵀHg).

    The batch is differentiated twice; where a layer cannot be, H v is the central difference of two gradients of the
    same batch. With the step -ε P g_B on a quadratic loss, 1/`along_gradient` is the best ε without noise and
    1/(1 + B/b) of it the best with noise.

    | symbol | meaning |
    |---|---|
    | H | Hessian of the mean loss of the batch |
    | v = P g_B | where the optimizer would go; P = 1 without one |
    | `along_gradient` | vᵀHv/(g_Bᵀv), which is gᵀHg/‖g‖² for P = 1 |
    | T = tr(H PΣ̂P) | mean of b₁b₂/b · dᵀHd over probes, d = P(g₁ - g₂), g₁ and g₂ the means of random halves |
    | S = vᵀHv - T/b | unbiased for the true gradient's, H given, as ŝ is for ‖g‖² |
    | `noise_scale` | T/S; infinite where S <= 0 < T, nan where T <= 0 |

    Over all ways to split a batch into parts of b₁ and b₂ samples, g₁ - g₂ has mean zero and covariance Σ̂·b/(b₁b₂):
    a probe costs one step on the batch and one product with H, and no sample is differentiated alone. The standard
    error holds the spread over probes, and that over batches as if the g_i were normally distributed about their mean.

    Args:
        objective: the batch.
        groups: gives P.
        noise: whether to measure the noise scale.
        probes: number of random splits, at least 2.
        seed: of their own generator.

    Raises:
        UnsupportedError: the model cannot be differentiated twice and its precision is too low for differences.

    Reference: McCandlish, Kaplan, Amodei, "An empirical model of large-batch training" (2018), section 2.2, for B and
    the best step; Hutchinson, "A stochastic estimator of the trace of the influence matrix" (1989), for random signs,
    here on the samples and as many of each. The correction of the signal and the standard error are our own.
    """
    gradients, product, method, reason = hessian(objective)
    v = groups.scaled(gradients)
    hv = product(v)
    bend, slope = _dot(v, hv), _dot(dense(gradients, objective.parameters), v)
    along = bend / slope if slope > 0 else math.nan
    if not noise:
        return Curvature(along, method=method, reason=reason)
    b = objective.samples
    generator = torch.Generator().manual_seed(seed)
    traces, tilts = [], []  # tr(H PΣ̂P) and vᵀH PΣ̂P Hv by each probe
    for _ in range(probes):
        halves = torch.randperm(b, generator=generator).to(objective.device).tensor_split(2)
        first, second = (groups.scaled(objective.gradients(rows)) for rows in halves)
        d = [one - other for one, other in zip(first, second, strict=True)]
        unit = len(halves[0]) * len(halves[1]) / b
        traces.append(unit * _dot(d, product(d)))
        tilts.append(unit * _dot(d, hv) ** 2)
    scale, error = _noise_scale(bend, traces, tilts, b)
    return Curvature(along, scale, error, method=method, reason=reason)


def _noise_scale(bend: float, traces: list[float], tilts: list[float], b: int) -> tuple[float, float]:
    """T/S and its standard error.

    S is the mean of c_iᵀHc_j over the pairs i != j of b independent vectors c = P g_i, whose variance is
    4 gᵀPHPΣPHPg/b + 2 tr((HPΣP)²)/(b(b-1)); T has variance 2 tr((HPΣP)²)/(b-1) if they are normal; and the variance of
    a probe about T is 2 tr((HPΣP)²) too, which is how that trace is had.
    """
    k = len(traces)
    t = math.fsum(traces) / k
    s = bend - t / b
    if t <= 0 or s <= 0:
        return (math.inf if t > 0 else math.nan), math.nan
    probe = math.fsum((value - t) ** 2 for value in traces) / (k - 1)
    square = probe / 2
    tilt = max(math.fsum(tilts) / k - square / b, 0.0)  # of the true gradient: g_B has noise of its own
    of_s = 4 * tilt / b + 2 * square / (b * (b - 1))
    of_t = 2 * square / (b - 1)
    ratio = t / s
    variance = of_t + ratio**2 * of_s + probe / k * (1 + ratio / b) ** 2  # what T is off, S is off by -1/b of
    return ratio, math.sqrt(variance) / s if b >= LEAST_EXAMPLES else math.nan


def hessian(objective: Objective) -> tuple[Gradients, Product, str, str]:
    """g_B, v -> Hv, and how it is had."""
    before = objective.random_state()
    try:
        gradients, product = by_double_backward(objective)
        product([torch.zeros_like(p) for p in objective.parameters])  # what has no second derivative fails here
        return gradients, product, "Hessian-vector product", ""
    except (UnsupportedError, RuntimeError) as error:
        reason = f"no second derivative: {str(error).strip().splitlines()[0]}"
    low = [p.dtype for p in objective.parameters if p.dtype not in FULL_PRECISION]
    if low:
        raise UnsupportedError(f"{reason}; and differences of gradients need float32, not {low[0]}")
    objective.set_random_state(before)
    return objective.gradients(), by_difference(objective, before), "gradient difference", reason


def dense(gradients: Gradients, like: Vector) -> list[Tensor]:
    """Gradients as plain tensors; None is zero."""
    return [torch.zeros_like(p) if g is None else g.detach().to_dense() for g, p in zip(gradients, like, strict=True)]


def by_double_backward(objective: Objective) -> tuple[Gradients, Product]:
    """The gradient, and v -> Hv as the gradient of ⟨g_B, v⟩, exact but for kinks, where it sees none.

    A custom autograd function whose backward pass hides what it depends on, without `once_differentiable`, is not
    noticed, here or by torch.

    Raises:
        UnsupportedError: a backward pass on the way is marked as not differentiable.
        RuntimeError: torch cannot differentiate one.
    """
    parameters = objective.parameters
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
        value = objective.value()
    gradients = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
    if opaque(gradients):
        # such a node has no inputs and raises only when passed through: a product would leave out what is behind it
        raise UnsupportedError("a backward pass on the way is marked as not differentiable (once_differentiable)")
    curved = [(k, g) for k, g in enumerate(gradients) if g is not None and g.requires_grad]

    def product(v: Vector) -> Vector:
        found: Gradients = (None,) * len(parameters)
        if curved:
            outputs, weights = [g for _, g in curved], [v[k].to(g.dtype) for k, g in curved]
            found = torch.autograd.grad(outputs, parameters, weights, retain_graph=True, allow_unused=True)
        return dense(found, parameters)

    return gradients, product


def opaque(gradients: Gradients) -> bool:
    """Whether anything in the graph of gradients stands for a derivative that does not exist."""
    waiting = nodes_of(gradients)
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name() in OPAQUE:
            return True
        waiting.extend(after for after, _ in node.next_functions if after is not None)
    return False


def by_difference(objective: Objective, states: list[Tensor]) -> Product:
    """Hv as (∇L(w + εv) - ∇L(w - εv))/2ε on the same batch with the same random numbers.

    ε moves the weights by a cube root of the precision of their norm, which balances rounding against third
    derivatives; kinks passed on the way count. The parameters are given back bit for bit.

    Args:
        objective: the batch.
        states: of the random generators, before its pass.
    """
    parameters = objective.parameters

    def product(v: Vector) -> Vector:
        size = math.sqrt(_dot(v, v))
        if size == 0:
            return [torch.zeros_like(p) for p in parameters]
        precision = max(torch.finfo(p.dtype).eps for p in parameters)
        step = precision ** (1 / 3) * max(1.0, math.sqrt(_dot(parameters, parameters))) / size
        # .data: the version counters stay, lest a graph of the caller's that holds the parameters become unusable
        saved = [p.data.clone() for p in parameters]
        sides = []
        try:
            for sign in (1, -1):
                for p, old, direction in zip(parameters, saved, v, strict=True):
                    p.data.copy_(old + sign * step * direction)
                objective.set_random_state(states)
                sides.append(objective.gradients())
        finally:
            for p, old in zip(parameters, saved, strict=True):
                p.data.copy_(old)
        up, down = (dense(side, parameters) for side in sides)
        return [(above - below) / (2 * step) for above, below in zip(up, down, strict=True)]

    return product


def _dot(a: Vector, b: Vector) -> float:
    """⟨a, b⟩, summed in float64."""
    return math.fsum((x.detach().double() * y.detach().double()).sum().item() for x, y in zip(a, b, strict=True))
