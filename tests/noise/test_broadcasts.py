"""Parameters and tables broadcast along the samples: read where they are broadcast, or left to a second run."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rightbatch import UnsupportedError
from rightbatch.noise import PerExampleNorms, measure, per_example_gradients, squared_norm
from rightbatch.noise.layers import calls

B, T, W, TOKENS = 5, 4, 6, 9


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Quadratic in each sample's output, so that no gradient is zero by symmetry."""
    return ((output.sin() + output.square()).flatten(1).sum(1) * target).mean()


class Vision(nn.Module):
    """A small vision transformer, the root of which owns token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, W, 4, 4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, W)), nn.Parameter(torch.randn(1, 5, W))
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(W, 2, 8, 0.0, batch_first=True) for _ in range(2)])
        self.head = nn.Linear(W, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


class Language(nn.Module):
    """Tokens and positions looked up, the output layer tied to the tokens, positions once more at the end."""

    def __init__(self, ids: Callable[[int], Tensor] = torch.arange, tie: bool = True, again: bool = False) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(TOKENS, W), nn.Embedding(7, W)
        self.block = nn.TransformerEncoderLayer(W, 2, 8, 0.0, batch_first=True)
        self.head = nn.Linear(W, TOKENS, bias=False)
        self.ids, self.again = ids, again
        if tie:
            self.head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        places = self.wpe(self.ids(ids.shape[1]))
        x = self.block(self.wte(ids) + places)
        return self.head(x * places.sigmoid() + self.wpe(self.ids(1)) if self.again else x)


class TiedPlaces(nn.Module):
    """One table for tokens, their positions and the output."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(TOKENS, W), nn.Linear(W, W)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.mix(self.table(ids) + self.table(torch.arange(ids.shape[1]))).tanh()
        return F.linear(x, self.mix.weight.detach())


class Acting(nn.Module):
    """Parameters of a module's own, between two layers."""

    def __init__(self, act: Callable[[nn.Module, Tensor], Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.act, self.before, self.after = act, nn.Linear(W, W), nn.Linear(W, 2)
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.act(self, self.before(x)).tanh())


class ConvBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bias = nn.Conv2d(1, 3, 3, bias=False), nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + self.bias).relu_()


def normal(*shape: int) -> Tensor:
    return torch.randn(B, *shape, dtype=torch.float64)


def read(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """V̂ by hooks."""
    norms = PerExampleNorms(model)
    norms.arm(B)
    value = loss(model(x), y)
    norms.verify(value)
    model.zero_grad()
    value.backward()
    norms.disarm()
    return norms.measurement(squared_norm(p.grad for p in model.parameters()), B).variance


def exact(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """V̂ by the slow twin."""
    g = per_example_gradients(model, loss, x, y)
    return ((g - g.mean(0)).square().sum() / (B - 1)).item()


@pytest.fixture
def no_second_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a module was run again")

    monkeypatch.setattr(calls.CallUse, "gradients", refuse)


def masked(m: nn.Module, x: Tensor) -> Tensor:
    return torch.where(x.detach()[..., :1] > 0, x, m.token)


def relative(m: nn.Module, x: Tensor) -> Tensor:
    """A bias between positions by their distance, as in windowed attention."""
    distance = torch.arange(T)[:, None] - torch.arange(T)[None] + T - 1
    return (torch.bmm(x, x.mT) + m.table[distance.view(-1)].view(T, T, 2).permute(2, 0, 1).sum(0)).softmax(-1) @ x


def factorised(m: nn.Module, x: Tensor) -> Tensor:
    return x.view(len(x), 2, 2, W).add(m.rows[:, None] + m.columns[None], alpha=2).flatten(1, 2) + x


def shifted_and_scaled(m: nn.Module, x: Tensor) -> Tensor:
    scale, shift = m.both.chunk(2)
    return x * scale.exp() - shift


def prompted(m: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([m.prompt.expand(len(x), -1, -1), x], 1)


ACTING = {
    "gain": (lambda m, x: x + m.gamma * x.sin(), {"gamma": (W,)}),
    "gain of one number": (lambda m, x: x * m.gain, {"gain": ()}),
    "divided by": (lambda m, x: x / (m.gain.square() + 1), {"gain": (1, 1, W)}),
    "subtracted from": (lambda m, x: torch.sub(m.shift, x, alpha=2), {"shift": (T, 1)}),
    "subtracted": (lambda m, x: torch.sub(x, m.shift, alpha=2), {"shift": (T, 1)}),
    "prompt": (prompted, {"prompt": (1, 3, W)}),
    "prompt, unsqueezed": (
        lambda m, x: torch.cat([m.prompt.unsqueeze(0).expand(len(x), -1, -1), x], 1), {"prompt": (3, W)}),
    "sliced positions": (lambda m, x: x + m.positions[:, : x.shape[1]], {"positions": (1, T + 3, W)}),
    "sliced, transposed": (lambda m, x: x + m.positions[:, 2 : 2 + T].t(), {"positions": (W, T + 3)}),
    "viewed, selected": (lambda m, x: x + m.positions.view(3, T, W)[1], {"positions": (3 * T * W,)}),
    "twice": (lambda m, x: x * m.gain + m.gain, {"gain": (W,)}),
    "twice, otherwise": (lambda m, x: x * m.gain.sigmoid() + m.gain[:, :1].tanh(), {"gain": (T, W)}),
    "squared": (lambda m, x: x * (m.gain * m.gain), {"gain": (W,)}),
    "in two parts": (shifted_and_scaled, {"both": (2 * W,)}),
    "factorised": (factorised, {"rows": (2, W), "columns": (2, W)}),
    "relative": (relative, {"table": (2 * T - 1, 2)}),
    "masked": (masked, {"token": (W,)}),
    "softmax of layers": (lambda m, x: x * m.mix.softmax(0)[0] + x.sin() * m.mix.softmax(0)[1], {"mix": (2,)}),
    "layer norm by function": (
        lambda m, x: F.layer_norm(x, (W,), m.scale, m.shift), {"scale": (W,), "shift": (W,)}),
    "layer norm by function, no shift": (lambda m, x: F.layer_norm(x, (W,), m.scale), {"scale": (W,)}),
    "in place": (lambda m, x: x.mul(2).add_(m.shift).mul_(m.shift), {"shift": (W,)}),
    "dropout after": (lambda m, x: F.dropout(x + m.shift, 0.0), {"shift": (W,)}),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTING)
def test_parameters_that_act_by_broadcasting(name: str, no_second_run: None) -> None:
    act, shapes = ACTING[name]
    model, x, y = Acting(act, **shapes).double(), normal(T, W), normal()
    assert read(model, x, y) == pytest.approx(exact(model, x, y), rel=1e-10)
    assert measure(model, loss, x, y, method="per-example").reason == "all samples in one backward pass"


MODELS = {
    "vision": (Vision, lambda: normal(1, 8, 8)),
    "bias of a convolution": (ConvBias, lambda: normal(1, 5, 5)),
    "language, tied": (Language, lambda: torch.randint(0, TOKENS, (B, T))),
    "language": (lambda: Language(tie=False), lambda: torch.randint(0, TOKENS, (B, T))),
    "positions with a leading one": (
        lambda: Language(lambda n: torch.arange(n).unsqueeze(0)), lambda: torch.randint(0, TOKENS, (B, T))),
    "positions as many as samples": (Language, lambda: torch.randint(0, TOKENS, (B, B))),
    "positions equal": (lambda: Language(lambda n: torch.arange(n) // 2), lambda: torch.randint(0, TOKENS, (B, T))),
    "positions used again": (lambda: Language(again=True), lambda: torch.randint(0, TOKENS, (B, T))),
    "positions from the table of tokens": (TiedPlaces, lambda: torch.randint(0, TOKENS, (B, T))),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, no_second_run: None) -> None:
    make, given = MODELS[name]
    model, x, y = make().double(), given(), normal()
    assert read(model, x, y) == pytest.approx(exact(model, x, y), rel=1e-10)
    found = measure(model, loss, x, y, method="per-example")
    assert found.reason == "all samples in one backward pass"
    assert found.variance == pytest.approx(exact(model, x, y), rel=1e-10)


SECOND_RUN = {
    "matrix": (lambda m, x: x @ m.matrix, {"matrix": (W, W)}),
    "matrix and gain": (lambda m, x: x @ m.matrix * m.gain, {"matrix": (W, W), "gain": (W,)}),
    "gain that is also a matrix": (lambda m, x: x @ m.matrix + m.matrix[0], {"matrix": (W, W)}),
    "written into a part": (lambda m, x: x.index_add(1, torch.tensor([0]), m.token.expand(len(x), 1, -1) * 1), {
        "token": (1, 1, W)}),
    "not used": (lambda m, x: x + m.shift, {"shift": (W,), "other": (W,)}),
}  # fmt: skip


@pytest.mark.parametrize("name", SECOND_RUN)
def test_anything_else_is_run_again_or_read(name: str) -> None:
    act, shapes = SECOND_RUN[name]
    model, x, y = Acting(act, **shapes).double(), normal(T, W), normal()
    g = torch.stack([
        torch.cat([torch.zeros_like(p).view(-1) if c is None else c.view(-1)
                   for p, c in zip(model.parameters(), torch.autograd.grad(
                       loss(model(x[i : i + 1]), y[i : i + 1]), model.parameters(), allow_unused=True), strict=True)])
        for i in range(B)
    ])  # fmt: skip
    assert read(model, x, y) == pytest.approx(((g - g.mean(0)).square().sum() / (B - 1)).item(), rel=1e-10)


REFUSED = {
    "coupled": (lambda m, x: (x - x.mean(0, keepdim=True)) * m.gain, "couples them"),
    "a row for each sample": (lambda m, x: x + m.rows[:, None], "one sample"),
    "positions first": (lambda m, x: x.transpose(0, 1) * m.gain, "no dimension 0 of 5 samples"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_broadcast_along_samples_is_refused(name: str) -> None:
    act, message = REFUSED[name]
    inner = Acting(act, **({"rows": (B, W)} if name == "a row for each sample" else {"gain": (W,)}))
    inner.after = nn.Identity()
    with pytest.raises(UnsupportedError, match=message):
        read(nn.Sequential(nn.Linear(W, W), inner).double(), normal(T, W), torch.ones(()))


class Latents(nn.Module):
    """Latents, or positions, that pass through layers of their own before they meet the samples."""

    def __init__(self, count: int, table: bool) -> None:
        super().__init__()
        self.latents = nn.Embedding(count, W) if table else nn.Parameter(torch.randn(count, W))
        self.norm, self.query, self.key = nn.LayerNorm(W), nn.Linear(W, W), nn.Linear(W, W)

    def forward(self, x: Tensor) -> Tensor:
        count = len(self.latents.weight if isinstance(self.latents, nn.Embedding) else self.latents)
        latents = self.latents(torch.arange(count)) if isinstance(self.latents, nn.Embedding) else self.latents
        query, key = self.query(self.norm(latents)).expand(len(x), -1, -1), self.key(x)
        return (query @ key.mT).softmax(-1) @ key + query


@pytest.mark.parametrize("table", [False, True])
def test_layers_on_as_many_positions_as_samples_are_not_misread(table: bool) -> None:
    x, y = normal(T, W), normal()
    model = Latents(B + 1, table).double()
    assert read(model, x, y) == pytest.approx(exact(model, x, y), rel=1e-10)
    with pytest.raises(UnsupportedError, match="as many positions as there are samples"):
        read(Latents(B, table).double(), x, y)


class Penalised(Language):
    """Positions that come back in a penalty, or are not broadcast at all."""

    def __init__(self, use: str) -> None:
        super().__init__(tie=False)
        self.use = use

    def forward(self, ids: Tensor) -> Tensor:
        if self.use == "not broadcast":
            return self.head(self.wte(ids) + torch.stack([self.wpe(torch.arange(T))] * len(ids)))
        self.places = self.wpe(torch.arange(T))
        return self.head(self.wte(ids) + self.places)


def test_a_table_that_is_not_broadcast_is_refused() -> None:
    model = Penalised("not broadcast").double()
    model.block = nn.Identity()
    with pytest.raises(UnsupportedError, match=r"'wpe': has input of shape \(4,\), not 5 samples first"):
        read(model, torch.randint(0, TOKENS, (B, T)), normal())


def test_penalties_on_what_is_broadcast_are_found() -> None:
    table = Penalised("penalty").double()
    table.block = nn.Identity()
    gain = Acting(lambda m, x: x * m.gain, gain=(W,)).double()
    tied = TiedPlaces().double()
    for model, x, penalty in (
        (tied, torch.randint(0, TOKENS, (B, T)), lambda: tied.table.weight.square().sum()),
        (table, torch.randint(0, TOKENS, (B, T)), lambda: table.places.square().sum()),
        (gain, normal(T, W), lambda: gain.gain.square().sum()),
    ):
        norms = PerExampleNorms(model)
        norms.arm(B)
        with pytest.raises(UnsupportedError, match=r"(weight|gain) also acts elsewhere"):
            norms.verify(loss(model(x), normal()) + penalty())
        norms.disarm()


@pytest.mark.parametrize("make", [Vision, Language])
def test_micro_batches_of_one_sample(make: Callable[[], nn.Module]) -> None:
    model, y = make().double(), normal()
    x = normal(1, 8, 8) if make is Vision else torch.randint(0, TOKENS, (B, T))
    norms = PerExampleNorms(model)
    for rows in ([0, 1, 2], [3], [4]):
        norms.arm(len(rows))
        (loss(model(x[rows]), y[rows]) * len(rows) / B).backward()
    norms.disarm()
    found = norms.measurement(squared_norm(p.grad for p in model.parameters()), B).variance
    assert found == pytest.approx(exact(model, x, y), rel=1e-10)


class Checkpointed(Language):
    """Everything after the embedding, or all of it, in a checkpoint."""

    def __init__(self, everything: bool, reentrant: bool) -> None:
        super().__init__()
        self.everything, self.reentrant = everything, reentrant

    def inner(self, x: Tensor) -> Tensor:
        return self.block(x)

    def forward(self, ids: Tensor) -> Tensor:
        run = super().forward if self.everything else self.inner
        x = ids if self.everything else self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        x = checkpoint(run, x, use_reentrant=self.reentrant)
        return x if self.everything else self.head(x)


@pytest.mark.parametrize(("everything", "reentrant"), [(False, True), (False, False), (True, False)])
def test_checkpoints(everything: bool, reentrant: bool) -> None:
    model, x, y = Checkpointed(everything, reentrant).double(), torch.randint(0, TOKENS, (B, T)), normal()
    plain = Language().double()
    plain.load_state_dict(model.state_dict())
    assert read(model, x, y) == pytest.approx(exact(plain, x, y), rel=1e-10)


def test_a_reentrant_checkpoint_may_hide_uses_of_a_parameter() -> None:
    def act(m: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(lambda v: v * m.gain, x + m.gain, use_reentrant=True)

    model = Acting(act, gain=(W,)).double()
    with pytest.raises(UnsupportedError, match="the model itself"):
        read(model, normal(T, W), normal())


def test_autocast_agrees_to_the_precision_of_bfloat16() -> None:
    # bfloat16 has 8 bits, 4e-3 relative, in every gradient
    model, x, y = Vision(), normal(1, 8, 8), normal()
    norms = PerExampleNorms(model)
    norms.arm(B)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x.float())
    loss(output.float(), y.float()).backward()
    norms.disarm()
    found = norms.measurement(squared_norm(p.grad for p in model.parameters()), B).variance
    assert found == pytest.approx(exact(model.double(), x, y), rel=0.05)
