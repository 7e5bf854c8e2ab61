"""Layers and settings whose exact per-example gradient norms are compared with the slow float64 twin."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

B, TOKENS = 7, 11
Case = tuple[Callable[[], nn.Module], Callable[[], Tensor]]


class Called(nn.Module):
    """A module called in some other way than with one tensor, its answer made one."""

    def __init__(self, inner: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.call = inner, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.inner, x)


class Own(nn.Module):
    """Parameters used by a module's forward itself, in the usual ways."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.use = use
        self.positions, self.scale = nn.Parameter(torch.randn(1, 5, 4)), nn.Parameter(torch.randn(4))
        self.token, self.matrix = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(4, 4))
        self.layer = nn.Linear(4, 4)
        for name in ("positions", "scale", "token", "matrix"):
            if name not in use:
                delattr(self, name)

    def forward(self, x: Tensor) -> Tensor:
        if "token" in self.use:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        if "positions" in self.use:
            x = x + self.positions[:, : x.shape[1]]
        x = self.layer(x).tanh()
        if "scale" in self.use:
            x = x * self.scale.sigmoid() + self.scale
        if "matrix" in self.use:
            x = torch.einsum("btd,de->bte", x, self.matrix).sin()
        return x


class Reuse(nn.Module):
    """Layers applied more than once, one after the other, or to parts of the input."""

    def __init__(self, layer: nn.Module, times: int = 3) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.layer(x).sin()
        return x


class Acting(nn.Module):
    """A parameter that is broadcast against activations, between two maps of each position."""

    def __init__(self, act: Callable[[nn.Module, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.act, self.own, self.factor = act, nn.Parameter(torch.randn(shape)), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self, self.factor(x)).tanh()


class Positioned(nn.Module):
    """A table looked up at positions that are the same for all samples; the output layer is tied to the tokens."""

    def __init__(self, leading: bool = False, again: bool = False, mix: bool = False, tie: bool = False) -> None:
        super().__init__()
        self.leading, self.again = leading, again
        self.tokens, self.head = nn.Embedding(TOKENS, 4), nn.Linear(4, TOKENS, bias=False)
        self.table = self.tokens if tie else nn.Embedding(9, 4)
        self.mix = nn.Linear(4, 4) if mix else nn.Identity()
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1])
        table = self.mix(self.table(positions[None] if self.leading else positions))
        x = (self.tokens(ids) + table).tanh()
        return self.head(x * table if self.again else x)


class Tied(nn.Module):
    """Embedding and output layer with one weight."""

    def __init__(self, bias: bool = False, padding_idx: int | None = None, positions: bool = True) -> None:
        super().__init__()
        self.embed, self.hidden = nn.Embedding(TOKENS, 4, padding_idx), nn.Linear(4, 4)
        self.head, self.positions = nn.Linear(4, TOKENS, bias=bias), positions
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        h = self.hidden(self.embed(ids)).tanh()
        return self.head(h if self.positions else h.mean(1))


class TiedPair(nn.Module):
    """Two layers with one weight and each its own bias."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = make(), make()
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def normal(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(B, *shape)


def ids(*shape: int, upto: int = TOKENS) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, upto, (B, *shape))


def frozen(module: nn.Module, *names: str) -> nn.Module:
    for name in names:
        module.get_parameter(name).requires_grad_(False)
    return module


def attention(batch_first: bool, call: Callable[[nn.Module, Tensor], Tensor], **settings: object) -> nn.Module:
    """An attention over (samples, positions, features), whatever its own layout is."""
    inner = nn.MultiheadAttention(8, 2, batch_first=batch_first, **settings)  # type: ignore[arg-type]
    turned = call if batch_first else lambda m, x: call(m, x.transpose(0, 1)).transpose(0, 1)
    return Called(inner, turned)


def turned(inner: nn.Module) -> nn.Module:
    """A module over (positions, samples, features)."""
    return Called(inner, lambda m, x: first(m(x.transpose(0, 1))).transpose(0, 1))


def first(output: object) -> Tensor:
    while isinstance(output, tuple):
        output = output[0]
    assert isinstance(output, Tensor)
    return output


def decoded(inner: nn.Module, batch_first: bool) -> nn.Module:
    def call(m: nn.Module, x: Tensor) -> Tensor:
        memory, x = x[:, :3] * 2, x[:, 2:]
        return m(x, memory) if batch_first else m(x.transpose(0, 1), memory.transpose(0, 1)).transpose(0, 1)

    return Called(inner, call)


def everything(m: nn.Module, x: Tensor) -> Tensor:
    """All results of a recurrent layer, so that its last states count too."""
    output, last = m(x)
    states = last if isinstance(last, tuple) else (last,)
    return torch.cat([output.flatten(1), *(s.transpose(0, 1).flatten(1) * 3 for s in states)], 1)


def unrolled(m: nn.Module, x: Tensor) -> Tensor:
    state = None
    for t in range(x.shape[1]):
        state = m(x[:, t], state)
    return first(state)


def with_state(m: nn.Module, x: Tensor) -> Tensor:
    state = x[:, 0].unsqueeze(0).sin()
    return first(m(x, (state, state * 2) if isinstance(m, nn.LSTM) else state))


SEQUENCE = normal(5, 8)
CASES: dict[str, dict[str, Case]] = {
    "Linear": {
        "no positions": (lambda: nn.Linear(5, 4), normal(5)),
        "no bias": (lambda: nn.Linear(5, 4, bias=False), normal(5)),
        "weight frozen": (lambda: frozen(nn.Linear(5, 4), "weight"), normal(5)),
        "bias frozen": (lambda: frozen(nn.Linear(5, 4), "bias"), normal(5)),
        "positions, formed": (lambda: nn.Linear(5, 4), normal(6, 5)),
        "positions, Gram": (lambda: nn.Linear(20, 30), normal(3, 20)),
        "positions, Gram, no bias": (lambda: nn.Linear(20, 30, bias=False), normal(3, 20)),
        "positions, weight frozen": (lambda: frozen(nn.Linear(5, 4), "weight"), normal(6, 5)),
        "one position": (lambda: nn.Linear(5, 4), normal(1, 5)),
        "4-D input": (lambda: nn.Linear(5, 4), normal(2, 3, 5)),
        "strided input": (lambda: nn.Linear(5, 4), lambda: torch.randn(5, 6, B).permute(2, 1, 0)),
        "used three times": (lambda: Reuse(nn.Linear(4, 4)), normal(4)),
        "used three times, positions": (lambda: Reuse(nn.Linear(4, 4)), normal(3, 4)),
        "tied to another": (lambda: TiedPair(lambda: nn.Linear(4, 4)), normal(3, 4)),
        "tied to another, no bias": (lambda: TiedPair(lambda: nn.Linear(4, 4, bias=False)), normal(4)),
    },
    "Bilinear": {
        "no positions": (lambda: Called(nn.Bilinear(5, 5, 4), lambda m, x: m(x, x.cos())), normal(5)),
        "positions": (lambda: Called(nn.Bilinear(5, 2, 4), lambda m, x: m(x, x[..., :2])), normal(3, 5)),
        "weight frozen": (
            lambda: Called(frozen(nn.Bilinear(5, 5, 4), "weight"), lambda m, x: m(x, x)), normal(3, 5)),
        "no bias": (lambda: Called(nn.Bilinear(5, 5, 4, bias=False), lambda m, x: m(x, x)), normal(3, 5)),
    },
    "Embedding": {
        "positions": (lambda: nn.Embedding(TOKENS, 3), ids(6)),
        "one token": (lambda: nn.Embedding(TOKENS, 3), ids()),
        "all tokens equal": (lambda: nn.Embedding(TOKENS, 3), lambda: torch.full((B, 6), 2)),
        "padding": (lambda: nn.Embedding(TOKENS, 3, padding_idx=0), ids(6, upto=3)),
        "one token, padding": (lambda: nn.Embedding(TOKENS, 3, padding_idx=1), lambda: torch.arange(B) % 3),
        "3-D ids": (lambda: nn.Embedding(TOKENS, 3), ids(2, 4)),
        "used twice": (
            lambda: Called(nn.Embedding(TOKENS, 3), lambda m, x: torch.cat([m(x[:, :4]), m(x[:, 3:]).sin()], 1)),
            ids(6)),
        "tied to the output layer": (Tied, ids(6)),
        "tied to the output layer, bias": (lambda: Tied(bias=True), ids(6)),
        "tied to the output layer, padding": (lambda: Tied(padding_idx=1), ids(6, upto=4)),
        "tied to the output layer, one position": (lambda: Tied(bias=True, positions=False), ids(6)),
    },
    "EmbeddingBag": {
        "mean": (lambda: nn.EmbeddingBag(TOKENS, 3), ids(6)),
        "sum": (lambda: nn.EmbeddingBag(TOKENS, 3, mode="sum"), ids(6, upto=3)),
        "mean, padding": (lambda: nn.EmbeddingBag(TOKENS, 3, padding_idx=1), ids(6, upto=3)),
        "sum, padding": (lambda: nn.EmbeddingBag(TOKENS, 3, mode="sum", padding_idx=1), ids(6, upto=3)),
        "weights of each token": (
            lambda: Called(
                nn.EmbeddingBag(TOKENS, 3, mode="sum"),
                lambda m, x: m(x, per_sample_weights=x.to(m.weight.dtype).cos())),
            ids(6, upto=3)),
    },
    "LayerNorm": {
        "no positions": (lambda: nn.LayerNorm(5), normal(5)),
        "positions": (lambda: nn.LayerNorm(5), normal(4, 5)),
        "two dimensions": (lambda: nn.LayerNorm((4, 5)), normal(3, 4, 5)),
        "no bias": (lambda: nn.LayerNorm(5, bias=False), normal(4, 5)),
        "weight frozen": (lambda: frozen(nn.LayerNorm(5), "weight"), normal(4, 5)),
        "used three times": (lambda: Reuse(nn.LayerNorm(5)), normal(4, 5)),
    },
    "RMSNorm": {
        "no positions": (lambda: nn.RMSNorm(5), normal(5)),
        "positions": (lambda: nn.RMSNorm(5), normal(4, 5)),
        "two dimensions, eps": (lambda: nn.RMSNorm((4, 5), eps=0.1), normal(3, 4, 5)),
    },
    "GroupNorm": {
        "groups": (lambda: nn.GroupNorm(2, 6), normal(6, 4, 4)),
        "one group": (lambda: nn.GroupNorm(1, 6), normal(6, 5)),
        "no positions": (lambda: nn.GroupNorm(2, 6), normal(6)),
        "bias frozen": (lambda: frozen(nn.GroupNorm(3, 6), "bias"), normal(6, 4, 4)),
        "used three times": (lambda: Reuse(nn.GroupNorm(3, 6)), normal(6, 4)),
    },
    "InstanceNorm": {
        "1d": (lambda: nn.InstanceNorm1d(3, affine=True), normal(3, 6)),
        "2d": (lambda: nn.InstanceNorm2d(3, affine=True), normal(3, 4, 5)),
        "3d": (lambda: nn.InstanceNorm3d(3, affine=True), normal(3, 2, 3, 4)),
        "2d, statistics of training": (
            lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True).eval(), normal(3, 4, 5)),
    },
    "BatchNorm, evaluated": {
        "1d": (lambda: nn.BatchNorm1d(3).eval(), normal(3)),
        "1d, positions": (lambda: nn.BatchNorm1d(3).eval(), normal(3, 6)),
        "2d": (lambda: nn.BatchNorm2d(3).eval(), normal(3, 4, 5)),
        "3d": (lambda: nn.BatchNorm3d(3).eval(), normal(3, 2, 3, 4)),
    },
    "PReLU": {
        "one slope": (lambda: nn.PReLU(), normal(4, 5)),
        "a slope for each channel": (lambda: nn.PReLU(4), normal(4, 3, 2)),
        "no positions": (lambda: nn.PReLU(4), normal(4)),
    },
    "Conv1d": {
        "padding": (lambda: nn.Conv1d(3, 5, 3, padding=1), normal(3, 8)),
        "Gram, stride, dilation": (lambda: nn.Conv1d(16, 24, 5, 2, 3, dilation=2), normal(16, 9)),
        "groups": (lambda: nn.Conv1d(4, 6, 3, stride=2, groups=2), normal(4, 9)),
        "same": (lambda: nn.Conv1d(3, 4, 4, padding="same"), normal(3, 8)),
        "reflect": (lambda: nn.Conv1d(3, 4, 3, padding=1, padding_mode="reflect"), normal(3, 6)),
        "used three times": (lambda: Reuse(nn.Conv1d(3, 3, 3, padding=1)), normal(3, 6)),
    },
    "Conv2d": {
        "1x1": (lambda: nn.Conv2d(3, 5, 1), normal(3, 4, 4)),
        "rectangle": (lambda: nn.Conv2d(3, 4, (3, 2), (1, 2), (2, 0), (1, 2)), normal(3, 7, 8)),
        "same": (lambda: nn.Conv2d(3, 4, 4, padding="same"), normal(3, 6, 6)),
        "valid": (lambda: nn.Conv2d(3, 4, 3, padding="valid"), normal(3, 6, 6)),
        "reflect": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), normal(3, 6, 6)),
        "circular": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="circular"), normal(3, 6, 6)),
        "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), normal(4, 6, 6)),
        "bias frozen": (lambda: frozen(nn.Conv2d(3, 4, 3), "bias"), normal(3, 6, 6)),
        "weight frozen": (lambda: frozen(nn.Conv2d(3, 4, 3), "weight"), normal(3, 6, 6)),
        "used three times": (lambda: Reuse(nn.Conv2d(3, 3, 3)), normal(3, 9, 9)),
        "channels last": (
            lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last),
            lambda: torch.randn(B, 3, 6, 6).to(memory_format=torch.channels_last)),
    },
    "Conv3d": {
        "padding": (lambda: nn.Conv3d(2, 3, 3, padding=1), normal(2, 4, 3, 5)),
        "stride, dilation": (lambda: nn.Conv3d(2, 3, (1, 2, 3), (2, 1, 2), dilation=(1, 2, 1)), normal(2, 4, 5, 6)),
        "groups, no bias": (lambda: nn.Conv3d(4, 4, 2, groups=2, bias=False), normal(4, 3, 4, 3)),
        "circular": (lambda: nn.Conv3d(2, 3, 3, padding=1, padding_mode="circular"), normal(2, 4, 3, 5)),
    },
    "ConvTranspose": {
        "1d": (lambda: nn.ConvTranspose1d(3, 4, 3, 2, 1), normal(3, 6)),
        "1d, Gram": (lambda: nn.ConvTranspose1d(16, 24, 5), normal(16, 3)),
        "1d, dilation, output padding": (
            lambda: nn.ConvTranspose1d(3, 4, 3, 1, 3, output_padding=2, dilation=3), normal(3, 6)),
        "2d": (lambda: nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1), normal(3, 4, 5)),
        "2d, Gram": (lambda: nn.ConvTranspose2d(16, 24, 3, 2, 1), normal(16, 2, 3)),
        "2d, groups, dilation": (lambda: nn.ConvTranspose2d(4, 6, (2, 3), dilation=2, groups=2), normal(4, 4, 5)),
        "2d, size asked for": (
            lambda: Called(nn.ConvTranspose2d(3, 4, 3, 3), lambda m, x: m(x, output_size=[14, 15])), normal(3, 4, 5)),
        "2d, weight frozen": (lambda: frozen(nn.ConvTranspose2d(3, 4, 3), "weight"), normal(3, 4, 5)),
        "3d": (lambda: nn.ConvTranspose3d(2, 3, 2, 2, (0, 1, 0), output_padding=1), normal(2, 3, 3, 2)),
        "used three times": (lambda: Reuse(nn.ConvTranspose1d(3, 3, 3, padding=1)), normal(3, 6)),
    },
    "MultiheadAttention": {
        "self, batch first": (lambda: attention(True, lambda m, x: m(x, x, x)[0]), SEQUENCE),
        "self, positions first": (lambda: attention(False, lambda m, x: m(x, x, x)[0]), SEQUENCE),
        "without weights": (lambda: attention(True, lambda m, x: m(x, x, x, need_weights=False)[0]), SEQUENCE),
        "cross": (lambda: attention(True, lambda m, x: m(x, x[:, 1:] * 2, x[:, 1:] * 2)[0]), SEQUENCE),
        "cross, positions first": (lambda: attention(False, lambda m, x: m(x, x[1:], x[1:].sin())[0]), SEQUENCE),
        "causal": (
            lambda: attention(
                True, lambda m, x: m(x, x, x, need_weights=False, attn_mask=torch.ones(5, 5).triu(1).bool())[0]),
            SEQUENCE),
        "its weights in the loss": (
            lambda: attention(True, lambda m, x: torch.cat([t.flatten(1) for t in m(x, x, x)], 1)), SEQUENCE),
        "own widths of keys and values": (
            lambda: attention(True, lambda m, x: m(x, x[..., :4], x[..., :6])[0], kdim=4, vdim=6), SEQUENCE),
        "no bias": (lambda: attention(True, lambda m, x: m(x, x, x)[0], bias=False), SEQUENCE),
        "extra key and value": (lambda: attention(True, lambda m, x: m(x, x, x)[0], add_bias_kv=True), SEQUENCE),
        "extra key and value, positions first": (
            lambda: attention(False, lambda m, x: m(x, x, x)[0], add_bias_kv=True), SEQUENCE),
        "used three times": (lambda: Reuse(attention(True, lambda m, x: m(x, x, x)[0])), SEQUENCE),
        "only the output trained": (
            lambda: frozen(attention(True, lambda m, x: m(x, x, x)[0]), "inner.in_proj_weight", "inner.in_proj_bias"),
            SEQUENCE),
    },
    "Transformer layers": {
        "encoder layer": (lambda: nn.TransformerEncoderLayer(8, 2, 6, 0.0, batch_first=True), SEQUENCE),
        "encoder layer, positions first": (lambda: turned(nn.TransformerEncoderLayer(8, 2, 6, 0.0)), SEQUENCE),
        "encoder, norm first": (
            lambda: nn.TransformerEncoder(
                nn.TransformerEncoderLayer(8, 2, 6, 0.0, batch_first=True, norm_first=True), 2, nn.LayerNorm(8),
                enable_nested_tensor=False),
            SEQUENCE),
        "decoder layer": (
            lambda: decoded(nn.TransformerDecoderLayer(8, 2, 6, 0.0, batch_first=True), True), SEQUENCE),
        "decoder, positions first": (
            lambda: decoded(
                nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 6, 0.0), 2, nn.LayerNorm(8)), False),
            SEQUENCE),
        "encoder layer, evaluated": (
            lambda: nn.TransformerEncoderLayer(8, 2, 6, 0.5, batch_first=True).eval(), SEQUENCE),
    },
    "Parameters of a module's own": {
        "positions": (lambda: Own("positions"), normal(5, 4)),
        "scale and shift": (lambda: Own("scale"), normal(5, 4)),
        "class token, positions": (lambda: Own("token, positions"), normal(4, 4)),
        "matrix": (lambda: Own("matrix"), normal(5, 4)),
        "used three times": (lambda: Reuse(Own("matrix, scale"), 2), normal(5, 4)),
        "gain of a branch": (lambda: Acting(lambda m, x: x + m.own * x.sin(), 4), normal(5, 4)),
        "prompt": (lambda: Acting(lambda m, x: torch.cat([m.own.expand(len(x), -1, -1), x], 1), 3, 4), normal(5, 4)),
        "bias of a map": (lambda: Acting(lambda m, x: x + m.own[:, None, None], 4), normal(4, 3, 3)),
        "mask token": (
            lambda: Acting(lambda m, x: torch.where(x[..., :1].detach() > 0, x, m.own), 4), normal(5, 4)),
        "positions transposed": (lambda: Acting(lambda m, x: x + m.own[:, :5].t(), 4, 9), normal(5, 4)),
        "layer norm by function": (lambda: Acting(lambda m, x: F.layer_norm(x, (4,), m.own, m.own), 4), normal(5, 4)),
    },
    "Tables of positions": {
        "added": (Positioned, ids(6)),
        "as many as samples": (Positioned, ids(B)),
        "with a leading one": (lambda: Positioned(leading=True), ids(6)),
        "used twice": (lambda: Positioned(again=True), ids(6)),
        "through a linear layer": (lambda: Positioned(mix=True), ids(6)),
        "the table of tokens itself": (lambda: Positioned(tie=True), ids(6)),
    },
    "RNN, GRU, LSTM": {
        f"{kind.__name__}, {setting}": (lambda kind=kind, settings=settings, call=call: call(kind, settings), SEQUENCE)
        for kind in (nn.RNN, nn.GRU, nn.LSTM)
        for setting, settings, call in [
            ("output", {"batch_first": True}, lambda k, s: Called(k(8, 4, **s), lambda m, x: m(x)[0])),
            ("last state", {"batch_first": True}, lambda k, s: Called(k(8, 4, **s), lambda m, x: m(x)[1][0][0]
                if k is nn.LSTM else m(x)[1][0])),
            ("positions first", {}, lambda k, s: turned(k(8, 4, **s))),
            ("two levels, both directions, states", {"batch_first": True, "num_layers": 2, "bidirectional": True},
             lambda k, s: Called(k(8, 4, **s), everything)),
            ("no bias", {"batch_first": True, "bias": False}, lambda k, s: Called(k(8, 4, **s), everything)),
            ("state given", {"batch_first": True}, lambda k, s: Called(k(8, 8, **s), with_state)),
        ]
    } | {
        f"{kind.__name__}, unrolled": (lambda kind=kind: Called(kind(8, 4), unrolled), SEQUENCE)
        for kind in (nn.RNNCell, nn.GRUCell, nn.LSTMCell)
    } | {"RNN, relu": (lambda: Called(nn.RNN(8, 4, nonlinearity="relu", batch_first=True), everything), SEQUENCE)},
}  # fmt: skip
for where, side in {"small map": 4, "large map": 9}.items():  # on both sides of the choice between Gram and formed
    CASES["Conv2d"] |= {
        f"padding, {where}": (lambda: nn.Conv2d(16, 24, 3, padding=1), normal(16, side, side)),
        f"no bias, {where}": (lambda: nn.Conv2d(16, 24, 3, bias=False), normal(16, side, side)),
        f"stride, {where}": (lambda: nn.Conv2d(16, 24, 3, stride=2, padding=1), normal(16, side, side)),
        f"dilation, {where}": (lambda: nn.Conv2d(16, 24, 3, dilation=2, padding=2), normal(16, side, side)),
        f"groups, {where}": (lambda: nn.Conv2d(16, 24, 3, groups=2), normal(16, side, side)),
    }


class Squared(nn.Module):
    """Each sample's loss is a fixed random quadratic of its own output, so that no gradient is zero by symmetry."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.reduction = reduction

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.flatten(1).sin() * target.view(-1, 1) + output.flatten(1).square()).sum(1)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        each = self.each(output, target)
        return each.mean() if self.reduction == "mean" else each.sum()


def built(case: Case, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    """Model, inputs and targets of a case, in a precision."""
    torch.manual_seed(1)
    make, given = case
    model, x, y = make().to(dtype), given(), torch.randn(B).to(dtype)
    for parameter in model.parameters():  # no ones and zeros, as normalisation layers start with
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model, x.to(dtype) if x.is_floating_point() else x, y
