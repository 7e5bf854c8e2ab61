"""The networks of the arena: small ones of many kinds, torch's own initialisation unless said otherwise."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(
    sizes: Sequence[int],
    activation: type[nn.Module] = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = None,
    dropout: float = 0.0,
    scale: float = 1.0,
) -> nn.Module:
    """Linear layers of these sizes; a linear model if there are two. `scale` multiplies the initial parameters."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes[:-1]):
        layers.append(nn.Linear(inputs, outputs))
        if norm is not None:
            layers.append(norm(outputs))
        layers.append(activation())
        if dropout:
            layers.append(nn.Dropout(dropout))
    model = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))
    if scale != 1:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
    return model


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group": lambda channels: nn.GroupNorm(4, channels),
    "batch": nn.BatchNorm2d,
    "none": lambda channels: nn.Identity(),
}


def cnn(inputs: int, channels: Sequence[int], side: int, classes: int = 10, norm: str = "none") -> nn.Module:
    """3 x 3 convolutions, each of which halves the sides of the image, and a linear layer."""
    layers: list[nn.Module] = []
    for outputs in channels:
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), NORMS[norm](outputs), nn.ReLU()]
        inputs, side = outputs, (side + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * side * side, classes))


class Shortcut(nn.Module):
    """What a branch adds to its input."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def residual_mlp(inputs: int, width: int, blocks: int, outputs: int) -> nn.Module:
    """Blocks of LayerNorm and two linear layers, each beside a shortcut."""
    body = [
        Shortcut(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        for _ in range(blocks)
    ]
    return nn.Sequential(nn.Linear(inputs, width), *body, nn.LayerNorm(width), nn.Linear(width, outputs))


def residual_cnn(inputs: int, width: int, blocks: int, side: int, classes: int = 10, norm: str = "batch") -> nn.Module:
    """A convolution of stride 4 and blocks of two 3 x 3 convolutions beside a shortcut."""

    def block() -> nn.Module:
        first, second = (nn.Conv2d(width, width, 3, padding=1, bias=norm == "none") for _ in range(2))
        return Shortcut(first, NORMS[norm](width), nn.ReLU(), second, NORMS[norm](width))

    stem = [nn.Conv2d(inputs, width, 4, stride=4), NORMS[norm](width), nn.ReLU()]
    return nn.Sequential(
        *stem, *(block() for _ in range(blocks)), nn.Flatten(), nn.Linear(width * (side // 4) ** 2, classes)
    )


class SelfAttention(nn.Module):
    """Self-attention of two heads."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.project_in, self.project_out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.project_in(x).chunk(3, -1))
        return self.project_out(
            F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2)
        )


def transformer(width: int, layers: int, causal: bool) -> nn.Module:
    """Blocks of attention and a two-layer network, each after a LayerNorm, and a last LayerNorm."""
    blocks: list[nn.Module] = []
    for _ in range(layers):
        blocks.append(Shortcut(nn.LayerNorm(width), SelfAttention(width, causal)))
        feed = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        blocks.append(Shortcut(nn.LayerNorm(width), *feed))
    return nn.Sequential(*blocks, nn.LayerNorm(width))


class CharacterGPT(nn.Module):
    """A small GPT over characters; its outputs are (samples, characters, places)."""

    def __init__(self, width: int = 32, context: int = 32, layers: int = 2, characters: int = 65) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(characters, width), nn.Parameter(torch.zeros(context, width))
        nn.init.normal_(self.embed.weight, 0, 0.02)
        nn.init.normal_(self.place, 0, 0.02)
        self.body, self.head = transformer(width, layers, causal=True), nn.Linear(width, characters)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self.embed(ids) + self.place)).transpose(1, 2)


class VisionTransformer(nn.Module):
    """A small ViT: patches, a learned place for each, blocks of a transformer, the mean over the patches."""

    def __init__(self, inputs: int, side: int, patch: int, width: int = 32, layers: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(inputs, width, patch, stride=patch)
        self.place = nn.Parameter(0.02 * torch.randn((side // patch) ** 2, width))
        self.body, self.head = transformer(width, layers, causal=False), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.patches(x).flatten(2).transpose(1, 2) + self.place).mean(1))


class CharacterRNN(nn.Module):
    """A GRU or an LSTM over characters; its outputs are (samples, characters, places)."""

    def __init__(self, kind: type[nn.RNNBase], hidden: int = 64, width: int = 24, characters: int = 65) -> None:
        super().__init__()
        self.embed, self.cells = nn.Embedding(characters, width), kind(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, characters)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.cells(self.embed(ids))[0]).transpose(1, 2)


class SequenceRNN(nn.Module):
    """A recurrent net over a sequence of numbers, (samples, places) or (samples, places, inputs); the last state."""

    def __init__(self, kind: type[nn.RNNBase], inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.cells, self.head = kind(inputs, hidden, batch_first=True), nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x.view(len(x), x.shape[1], -1))[0][:, -1])


class Bag(nn.Module):
    """The mean of the embeddings of some tokens, and a two-layer network; linear where `hidden` is 0."""

    def __init__(self, tokens: int, width: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(tokens, width)
        sizes = (width, hidden, outputs) if hidden else (width, outputs)
        self.head = mlp(sizes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


class Tokens(nn.Module):
    """The embeddings of some tokens side by side, and linear layers."""

    def __init__(self, tokens: int, width: int, places: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(tokens, width), mlp((places * width, *hidden, outputs))

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


class Adapter(nn.Module):
    """A frozen linear layer and a product of low rank beside it, at first 0 (LoRA, arXiv:2106.09685, eq. 3)."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def with_adapters(model: nn.Module, rank: int) -> nn.Module:
    """Freeze a model in place and put adapters around its linear layers."""
    model.requires_grad_(False)
    for name, child in list(model.named_children()):
        if isinstance(child, nn.Linear):
            setattr(model, name, Adapter(child, rank))
        else:
            with_adapters(child, rank)
    return model
