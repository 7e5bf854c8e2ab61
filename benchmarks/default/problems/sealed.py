"""The sealed problems: run once, when the rule is finished, with `--part sealed`, whatever the result."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .. import data, networks
from ..data import Split
from ..pretraining import pretrained
from ..problem import register

Made = tuple[Split, Callable[[], nn.Module]]
PART = "sealed"


@register(PART, "linear", epochs=4, half_performance=370)
def w8a_logistic() -> Made:
    return data.split(*data.sparse_rows("w8a_train.npz"), 16000, 4000, 8000), lambda: networks.mlp((300, 2))


@register(PART, "table", epochs=4, half_performance=540)
def a9a_mlp() -> Made:
    return data.split(*data.sparse_rows("a9a_train.npz"), 14000, 4000, 8000, seed=5), lambda: networks.mlp((123, 64, 2))


@register(PART, "convolutional", epochs=5, half_performance=42)
def mnist_cnn() -> Made:
    return data.images("mnist", 6000, first=30000), lambda: networks.cnn(1, (8, 16, 24), 28)


@register(PART, "recurrent", epochs=4, half_performance=21)
def characters_lstm() -> Made:
    return data.passages(24, 6000, 300, 1000, seed=2), lambda: networks.CharacterRNN(nn.LSTM, hidden=56)


@register(PART, "transformer", epochs=6, half_performance=1500)  # as on an accelerator
def fashion_vit() -> Made:
    return data.images("fashion_mnist", 4000, 600, first=26000), lambda: networks.VisionTransformer(1, 28, 7)


@register(PART, "residual", epochs=8, half_performance=37)
def cifar_residual() -> Made:
    return data.cifar(3500, first=2500), lambda: networks.residual_cnn(3, 16, 2, 32)


@register(PART, "norm and dropout", epochs=4, half_performance=800)
def codrna_batchnorm() -> Made:
    rows = data.dense_rows("cod_rna_scaled.npz")
    return data.split(*rows, 14000, 4000, 8000, seed=5), lambda: networks.mlp((8, 48, 48, 2), norm=nn.BatchNorm1d)


@register(PART, "many classes", epochs=12, half_performance=290)
def pairs_of_digits() -> Made:
    x, y = data.digits()
    generator = torch.Generator().manual_seed(5)
    parts = []
    for (inputs, labels), count in zip(data.split(x, y, 1000, 390, 400, seed=5), (5000, 1500, 2500), strict=True):
        left, right = torch.randint(len(inputs), (2, count), generator=generator)
        parts.append((torch.cat((inputs[left], inputs[right]), 3), 10 * labels[left] + labels[right]))
    return Split(*parts), lambda: networks.mlp((128, 64, 100))


@register(PART, "adapters", epochs=6, half_performance=37)
def vit_adapters() -> Made:
    frozen = pretrained(data.images("mnist", 5000), lambda: networks.VisionTransformer(1, 28, 7))
    return data.images("fashion_mnist", 4000, 600, first=34000), lambda: networks.with_adapters(frozen(), 4)


@register(PART, "imbalance", epochs=5, half_performance=310)
def w8a_mlp() -> Made:
    rows = data.sparse_rows("w8a_train.npz")  # three of a hundred are positive
    return data.split(*rows, 12000, 6000, 12000, seed=5), lambda: networks.mlp((300, 32, 2))


@register(PART, "label noise", epochs=30, half_performance=450)
def digits_noise() -> Made:
    full = data.split(*data.digits(), 1100, 300, 397, seed=5)
    x, y = full.train
    return data.with_train(full, x, data.flipped(y, 0.4, 10)), lambda: networks.mlp((64, 64, 32, 10))


@register(PART, "bad scales", epochs=25, half_performance=64)
def raw_counts() -> Made:
    counts, stimulated = data.cells()  # some cells are dominated by a single gene
    return data.split(counts, stimulated, 1000, 400, 600, seed=5), lambda: networks.mlp((counts.shape[1], 32, 2))


@register(PART, "initialisation", epochs=6, half_performance=180)
def deep_small_init() -> Made:
    sizes = (784, *(48 for _ in range(6)), 10)
    return data.images("mnist", 6000, first=40000), lambda: networks.mlp(sizes, nn.Tanh, scale=0.5)


@register(PART, "target scale", epochs=12, half_performance=840, loss=F.mse_loss)
def song_years() -> Made:
    return data.split(*data.song(), 4400, 1100, 1200, seed=5), lambda: networks.mlp((12, 48, 48, 1))


@register(PART, "rare tokens", epochs=3, half_performance=270)
def neighbouring_words() -> Made:
    found = data.words(3000)[90000:130000]
    middle, neighbour = found[1:-1], found[2:].clamp_max(299)
    return data.split(middle.unsqueeze(1), neighbour, 16000, 2000, 4000), lambda: networks.Bag(3000, 24, 0, 300)


@register(PART, "autoencoder", epochs=6, half_performance=110, loss=F.mse_loss)
def fashion_autoencoder() -> Made:
    pairs = [x.flatten(1) * 0.353 + 0.286 for x, _ in data.images("fashion_mnist", 5000, 800, 1000, first=50000)]
    return Split(*((x, x) for x in pairs)), lambda: networks.mlp((784, 96, 16, 96, 784))


@register(PART, "few samples", epochs=60, half_performance=1000)
def ijcnn_300() -> Made:
    rows = data.dense_rows("ijcnn1_real12_train.npz")
    return data.split(*rows, 300, 1000, 8000, seed=5), lambda: networks.mlp((12, 32, 2))


@register(PART, "long", epochs=64, half_performance=440)
def next_character_long() -> Made:
    parts = data.split(*data.following(4, 200000, 212000), 5000, 1500, 4000)
    return parts, lambda: networks.Tokens(65, 6, 4, (48,), 65)
