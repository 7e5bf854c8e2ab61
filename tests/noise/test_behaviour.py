"""What a training loop does around a model: measured exactly, or refused with the reason."""

import os
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rightbatch import UnsupportedError
from rightbatch.noise import PerExampleNorms, squared_norm

B, POSITIONS, WIDTH = 6, 5, 8
Each = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """Positions of its own, attention with dropout, a reused layer, an LSTM."""

    def __init__(self, dropout: float = 0.0, kind: str = "") -> None:
        super().__init__()
        self.kind = kind
        self.positions = Positions()
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 6, dropout, batch_first=True)
        self.reused, self.dropout = nn.Linear(WIDTH, WIDTH), nn.Dropout(dropout)
        self.recurrent, self.head = nn.LSTM(WIDTH, 4, batch_first=True), nn.Linear(4, 3)

    def middle(self, x: Tensor) -> Tensor:
        return self.dropout(self.reused(self.reused(self.block(x)).relu_()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.positions(x)
        x = checkpoint(self.middle, x, use_reentrant=self.kind == "reentrant") if self.kind else self.middle(x)
        return self.head(self.recurrent(x)[0])


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, POSITIONS, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(B, POSITIONS, WIDTH, dtype=dtype)


def one_each(output: Tensor) -> Tensor:
    """A loss for each sample, of all positions."""
    return (output.sin() + output.square()).flatten(1).sum(1)


def both(model: nn.Module, x: Tensor, each: Each = one_each, total: Each = torch.mean) -> tuple[float, float]:
    """V̂ read by hooks, and from one backward pass per example through the same graph, dropout masks and all."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    norms = PerExampleNorms(model)
    norms.arm(B)
    losses = each(model(x))
    norms.disarm()
    loss = total(losses)
    norms.verify(loss)
    weights = torch.autograd.grad(loss, losses, retain_graph=True)[0]
    loss.backward(retain_graph=True)
    found = norms.measurement(squared_norm(p.grad for p in parameters), B).variance
    rows = []
    for i in range(B):
        gradients = torch.autograd.grad(losses[i] * weights[i], parameters, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([g.reshape(-1).double() for g in gradients if g is not None]))
    c = torch.stack(rows) * B
    return found, ((c - c.mean(0)).square().sum() / (B - 1)).item()


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("total", [torch.mean, torch.sum])
def test_dropout_and_reductions(dropout: float, total: Each) -> None:
    found, exact = both(Net(dropout).double(), inputs(), total=total)
    assert found == pytest.approx(exact, rel=1e-10)


def test_weights_of_each_token() -> None:
    weights = torch.rand(B, POSITIONS, dtype=torch.float64) * torch.tensor([1.0, 0.0, 2.0, 1.0, 3.0])
    targets = torch.randint(0, 3, (B, POSITIONS))

    def each(output: Tensor) -> Tensor:
        return (F.cross_entropy(output.mT, targets, reduction="none") * weights).sum(1)

    found, exact = both(Net().double(), inputs(), each, lambda losses: losses.sum() / weights.sum())
    assert found == pytest.approx(exact, rel=1e-10)


FROZEN = [
    ["positions.table"],
    ["reused.weight", "reused.bias"],
    ["block.norm1.weight"],
    ["block.self_attn.in_proj_weight", "block.self_attn.in_proj_bias"],
    ["block.self_attn.out_proj.weight", "block.self_attn.out_proj.bias"],
    ["recurrent.weight_hh_l0", "recurrent.bias_ih_l0"],
]


@pytest.mark.parametrize("names", FROZEN)
def test_frozen_parameters_are_left_out(names: list[str]) -> None:
    model = Net().double()
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    found, exact = both(model, inputs())
    assert found == pytest.approx(exact, rel=1e-10)


def checkpointed(kind: str, dropout: float) -> tuple[float, float]:
    """V̂ read by hooks with checkpoints, and without them."""
    plain, model, x = Net(dropout).double(), Net(dropout, kind).double(), inputs().requires_grad_()
    model.load_state_dict(plain.state_dict())
    norms = PerExampleNorms(model)
    norms.arm(B)
    torch.manual_seed(7)
    one_each(model(x)).mean().backward()
    norms.disarm()
    found = norms.measurement(squared_norm(p.grad for p in model.parameters()), B).variance
    torch.manual_seed(7)
    return found, both(plain, x.detach())[1]


@pytest.mark.parametrize("kind", ["reentrant", "non-reentrant"])
def test_checkpointing(kind: str) -> None:
    found, exact = checkpointed(kind, 0.3)
    assert found == pytest.approx(exact, rel=1e-10)


class InTwo(nn.Module):
    """One layer in two reentrant checkpoints, whose backward passes are apart."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH).double()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = checkpoint(lambda v: self.layer(v).tanh(), x, use_reentrant=True)
        return x


def test_a_layer_in_two_reentrant_checkpoints_is_refused() -> None:
    model = InTwo()
    norms = PerExampleNorms(model)
    norms.arm(B)
    one_each(model(inputs().requires_grad_())).mean().backward()
    with pytest.raises(UnsupportedError, match=r"'layer': was used in several parts .*checkpoints"):
        norms.measurement(1.0, B)


def test_autocast_agrees_to_the_precision_of_bfloat16() -> None:
    # bfloat16 has 8 bits, 4e-3 relative, in every gradient; the exact value is of the same graph
    model = nn.Sequential(Positions(), nn.TransformerEncoderLayer(WIDTH, 2, 6, 0.0, batch_first=True), nn.Linear(8, 3))
    with torch.autocast("cpu", torch.bfloat16):
        found, exact = both(model, inputs(torch.float32), lambda output: one_each(output.float()))
    assert found == pytest.approx(exact, rel=0.02)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_models_are_refused_or_exact() -> None:
    model = Net().double()
    model.reused.compile(backend="eager")
    with pytest.raises(UnsupportedError, match=r"'reused': its weight also acts elsewhere.* compiled"):
        both(model, inputs())
    whole = nn.Sequential(nn.Linear(WIDTH, 3)).double()
    whole.compile(backend="eager")
    with pytest.raises(UnsupportedError, match=r"'0': .* compiled"):
        both(whole, inputs())


@pytest.fixture
def process_group() -> object:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571"}
    dist.init_process_group("gloo", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_data_parallel_wrapper(process_group: object) -> None:
    model = Net(0.3).double()
    wrapped = nn.parallel.DistributedDataParallel(model)
    x = inputs()
    norms = PerExampleNorms(wrapped)
    norms.arm(B)
    torch.manual_seed(3)
    one_each(wrapped(x)).mean().backward()
    norms.disarm()
    found = norms.measurement(squared_norm(p.grad for p in wrapped.parameters()), B).variance
    torch.manual_seed(3)
    assert found == pytest.approx(both(model, x)[1], rel=1e-10)


class Own(nn.Module):
    """Uses of a parameter that a second run cannot repeat, sample by sample."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.use, self.matrix = use, nn.Parameter(torch.randn(WIDTH, WIDTH).double())
        self.kept = torch.randn(B, 1, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        if self.use == "randomness":
            return F.dropout(x @ self.matrix, 0.5)
        if self.use == "control flow":
            return x @ self.matrix if x.sum() > 0 else x.sin() @ self.matrix
        if self.use == "coupling":
            return (x - x.mean(0)) @ self.matrix
        if self.use == "kept tensor":
            return x * self.kept @ self.matrix
        if self.use == "positions first":
            return x.transpose(0, 1) @ self.matrix
        if self.use == "changed in the forward":
            self.matrix.data.mul_(0.5)
        return x @ self.matrix


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("randomness", "one sample at a time .*random"),
        ("control flow", "one sample at a time"),
        ("coupling", "alone is not what it was in the batch"),
        ("kept tensor", "one sample at a time .*shape"),
        ("positions first", "no dimension 0 of 6 samples"),
        ("changed in the forward", "alone is not what it was in the batch|changed before"),
    ],
)
def test_uses_that_cannot_be_repeated_are_refused(use: str, message: str) -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH).double(), Own(use))
    with pytest.raises(UnsupportedError, match=f"'1': .*{message}"):
        both(model, inputs(), lambda output: one_each(output)[:1].expand(B) if len(output) != B else one_each(output))


def test_parameters_changed_before_the_reading_are_noticed() -> None:
    model = nn.Sequential(Own("plain"))
    norms = PerExampleNorms(model)
    norms.arm(B)
    one_each(model(inputs())).mean().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    with pytest.raises(UnsupportedError, match="'0': its parameters or buffers were changed"):
        norms.measurement(1.0, B)


def test_positions_first_is_not_taken_for_samples() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 6, 0.0).double()
    with pytest.raises(UnsupportedError, match=r"not 6 samples second|\(positions, samples, features\) is needed"):
        both(layer, inputs())


def test_offsets_and_maxima_of_bags_are_refused() -> None:
    for bag, call in (
        (nn.EmbeddingBag(9, 3), lambda m: m(torch.arange(B), torch.arange(B))),
        (nn.EmbeddingBag(9, 3, mode="max"), lambda m: m(torch.arange(2 * B).view(B, 2) % 9)),
    ):
        norms = PerExampleNorms(bag)
        norms.arm(B)
        one_each(call(bag)).mean().backward()
        with pytest.raises(UnsupportedError, match=r"offsets|maximum"):
            norms.measurement(1.0, B)


class Gain(nn.Module):
    """A gain per feature, applied in a way that its backward pass reads what was saved."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.gain = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "norm":
            return F.layer_norm(x, (WIDTH,), self.gain)
        return x / self.gain if self.kind == "quotient" else x * torch.sigmoid(self.gain)


class Gained(nn.Module):
    """A gain within a checkpoint, as a module of its own or by a parameter of the model."""

    def __init__(self, kind: str, borrowed: bool, checkpoints: bool) -> None:
        super().__init__()
        self.first, self.scaled, self.checkpoints = nn.Linear(WIDTH, WIDTH), Gain(kind), checkpoints
        self.gain = self.scaled.gain if borrowed else None

    def block(self, x: Tensor) -> Tensor:
        return x * self.gain if self.gain is not None else self.scaled(x.sin())

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return checkpoint(self.block, x, use_reentrant=False) if self.checkpoints else self.block(x)


@pytest.mark.parametrize("kind", ["product", "quotient", "norm"])
def test_a_gain_within_a_checkpoint_is_exact(kind: str) -> None:
    # a checkpoint gives what was saved once, to the backward pass
    plain, model = Gained(kind, False, False).double(), Gained(kind, False, True).double()
    x = inputs()
    model.load_state_dict(plain.state_dict())
    norms = PerExampleNorms(model)
    norms.arm(B)
    one_each(model(x)).mean().backward()
    norms.disarm()
    found = norms.measurement(squared_norm(p.grad for p in model.parameters()), B).variance
    assert found == pytest.approx(both(plain, x)[1], rel=1e-10)


def test_a_gain_that_its_owner_applies_within_a_checkpoint_does_not_end_the_run() -> None:
    model = Gained("product", True, True).double()
    norms = PerExampleNorms(model)
    norms.arm(B)
    one_each(model(inputs())).mean().backward()
    norms.disarm()
    with pytest.raises(UnsupportedError):
        norms.measurement(1.0, B)


class Residual(nn.Module):
    """A layer whose input is changed in place, which autocast's copy allows."""

    def __init__(self, trained: bool) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.layer.weight.requires_grad_(trained)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).float() * 1.0
        x += 2 * self.layer(x)
        output: Tensor = self.last(x)
        return output


def test_an_input_changed_in_place_is_noticed() -> None:
    # its product with the output gradient would be that of another input
    x = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(UnsupportedError, match="'layer': its input was changed in place"):
            both(Residual(True), x, lambda output: one_each(output.float()))
        found, exact = both(Residual(False), x, lambda output: one_each(output.float()))
    assert found == pytest.approx(exact, rel=0.03)


def test_hooks_on_parameters_are_refused() -> None:
    # they may change the gradient, and with it the sum of what the layers show
    model = nn.Sequential(nn.Linear(WIDTH, 3)).double()
    norms = PerExampleNorms(model)
    handle = model[0].weight.register_hook(lambda gradient: gradient * 2)
    with pytest.raises(UnsupportedError, match=r"'0': hooks on its weight may change the gradient"):
        PerExampleNorms(model)
    norms.arm(B)
    one_each(model(inputs())).mean().backward()
    norms.disarm()
    with pytest.raises(UnsupportedError, match="hooks that may change its gradient"):
        norms.measurement(1.0, B)
    handle.remove()
    model[0].bias.register_post_accumulate_grad_hook(lambda parameter: None)
    with pytest.raises(UnsupportedError, match=r"'0': hooks on its bias"):
        PerExampleNorms(model)
