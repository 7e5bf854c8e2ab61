"""Per-example norms weighted entry by entry, layer type by layer type, against gradients formed one by one."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch.noise import per_example_gradients
from rightbatch.noise.estimators.grad_hooks import GradHooks
from rightbatch.noise.layers.sharing import joined
from rightbatch.noise.layers.weighted import slot_norms2, weighted_norms2

LAYERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "Linear": lambda: (nn.Linear(6, 5), torch.randn(7, 6)),
    "Linear without bias": lambda: (nn.Linear(6, 5, bias=False), torch.randn(7, 6)),
    "Linear, frozen weight": lambda: (frozen(nn.Linear(6, 5), "weight"), torch.randn(7, 6)),
    "Linear, frozen bias": lambda: (frozen(nn.Linear(6, 5), "bias"), torch.randn(7, 6)),
    "Linear with positions": lambda: (nn.Linear(6, 5), torch.randn(7, 3, 6)),
    "Linear on a map": lambda: (nn.Linear(6, 5), torch.randn(7, 2, 3, 6)),
    "Bilinear": lambda: (Split(nn.Bilinear(3, 3, 4)), torch.randn(7, 6)),
    "Conv1d": lambda: (nn.Conv1d(2, 4, 3, stride=2), torch.randn(7, 2, 9)),
    "Conv2d": lambda: (nn.Conv2d(4, 4, 3, padding=1, groups=2), torch.randn(7, 4, 5, 5)),
    "Conv3d": lambda: (nn.Conv3d(2, 3, 2, dilation=2), torch.randn(7, 2, 4, 4, 4)),
    "ConvTranspose2d": lambda: (nn.ConvTranspose2d(2, 3, 3, stride=2), torch.randn(7, 2, 4, 4)),
    "Embedding": lambda: (nn.Embedding(6, 4, padding_idx=0), torch.randint(0, 6, (7, 5))),
    "Embedding of one token": lambda: (nn.Embedding(6, 4), torch.randint(0, 6, (7,))),
    "EmbeddingBag": lambda: (nn.EmbeddingBag(6, 4, mode="mean", padding_idx=1), torch.randint(0, 6, (7, 5))),
    "LayerNorm": lambda: (nn.LayerNorm(6), torch.randn(7, 3, 6)),
    "RMSNorm": lambda: (nn.RMSNorm(6), torch.randn(7, 6)),
    "GroupNorm": lambda: (nn.GroupNorm(2, 4), torch.randn(7, 4, 5)),
    "InstanceNorm2d": lambda: (nn.InstanceNorm2d(4, affine=True), torch.randn(7, 4, 3, 3)),
    "PReLU": lambda: (nn.PReLU(6), torch.randn(7, 6)),
    "MultiheadAttention": lambda: (Itself(nn.MultiheadAttention(4, 2, batch_first=True)), torch.randn(7, 3, 4)),
    "LSTM": lambda: (First(nn.LSTM(4, 3, batch_first=True)), torch.randn(7, 3, 4)),
    "a module of one's own": lambda: (Own(), torch.randn(7, 6)),
    "used twice": lambda: (Twice(), torch.randn(7, 6)),
    "tied": lambda: (Tied(), torch.randint(0, 6, (7, 5))),
    "tied embeddings": lambda: (TwoTables(), torch.randint(0, 6, (7, 5))),
}


def frozen(layer: nn.Module, name: str) -> nn.Module:
    getattr(layer, name).requires_grad_(False)
    return layer


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class Split(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(*x.chunk(2, 1))


class Itself(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x)[0]


class First(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale).sin() * self.scale


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).tanh())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids).tanh())


class TwoTables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids) * self.table(5 - ids)


def loss(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output.flatten(1).sin(), target[:, : output[0].numel()])


def found(model: nn.Module, x: Tensor, y: Tensor, squares: dict[Tensor, Tensor]) -> Tensor:
    """Σ over the slots, of the batch's own contributions: shape (b,)."""
    hooks = GradHooks(model, keep=True)
    run = hooks.begin(len(x))
    loss(model(x), y).backward()
    hooks.remove()
    hooks.check(run)
    return torch.stack([n for uses in joined(hooks.uses(run)) for n in slot_norms2(uses, squares).values()]).sum(0)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_agrees_with_gradients_formed_one_by_one(name: str, weighted: bool) -> None:
    model, x = LAYERS[name]()
    y = torch.randn(7, 300)
    twin, exact_x = copy.deepcopy(model).double(), x.double() if x.is_floating_point() else x
    for own, given, tolerance in ((twin, exact_x, 1e-10), (model, x, 1e-4)):
        own.zero_grad()
        parameters = [p for p in own.parameters() if p.requires_grad]
        torch.manual_seed(1)
        squares = {p: torch.rand_like(p).add_(0.1) * 100 for p in parameters} if weighted else {}
        torch.manual_seed(1)
        exact_squares = [torch.rand_like(p).add_(0.1) * 100 for p in parameters]
        weights = torch.cat([s.flatten().double() for s in exact_squares]) if weighted else 1.0
        g = per_example_gradients(own, loss, given, y.to(parameters[0].dtype)) / 7
        exact = (g.square() * weights).sum(1)
        torch.testing.assert_close(
            found(own, given, y.to(parameters[0].dtype), squares).double(), exact, rtol=tolerance, atol=0
        )


def test_of_one_use_the_parameters_add_up_and_one_may_be_weighted_alone() -> None:
    layer, x = nn.Linear(6, 5).double(), torch.randn(7, 6).double()
    hooks = GradHooks(layer, keep=True)
    run = hooks.begin(7)
    layer(x).square().sum().backward()
    hooks.remove()
    (use,) = hooks.uses(run)
    squares = {layer.bias: torch.rand(5).double()}
    d = 2 * layer(x).detach()
    exact = d.square().sum(1) * x.square().sum(1) + d.square() @ squares[layer.bias]
    torch.testing.assert_close(weighted_norms2(use, squares), exact)


def test_half_precision_is_widened() -> None:
    layer, x = nn.Linear(6, 5).bfloat16(), torch.randn(7, 6).bfloat16()
    hooks = GradHooks(layer, keep=True)
    run = hooks.begin(7)
    layer(x).sum().backward()
    hooks.remove()
    (use,) = hooks.uses(run)
    norms2 = weighted_norms2(use, {layer.weight: torch.full((5, 6), 1e16), layer.bias: torch.full((5,), 1e16)})
    torch.testing.assert_close(norms2, 1e16 * 5 * (x.float().square().sum(1) + 1))
