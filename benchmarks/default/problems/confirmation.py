"""The problems on which a rule is confirmed: looked at seldom, never developed on."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .. import data, networks
from ..data import Split
from ..pretraining import pretrained
from ..problem import register

Made = tuple[Split, Callable[[], nn.Module]]
PART = "confirmation"


@register(PART, "linear", epochs=3, half_performance=1000)
def codrna_logistic() -> Made:
    return data.split(*data.dense_rows("cod_rna_scaled.npz"), 20000, 4000, 8000), lambda: networks.mlp((8, 2))


@register(PART, "linear", epochs=6, half_performance=470)
def covtype_softmax() -> Made:
    return data.split(*data.covtype(), 10000, 3000, 4000, seed=1), lambda: networks.mlp((54, 7))


@register(PART, "table", epochs=4, half_performance=400)
def ijcnn_mlp() -> Made:
    rows = data.dense_rows("ijcnn1_real12_train.npz")
    return data.split(*rows, 16000, 4000, 8000), lambda: networks.mlp((12, 64, 64, 2))


@register(PART, "label noise", epochs=5, half_performance=140)
def fashion_noise() -> Made:
    full = data.images("fashion_mnist", 9000, first=9000)
    x, y = full.train
    return data.with_train(full, x, data.flipped(y, 0.4, 10)), lambda: networks.mlp((784, 128, 64, 10))


@register(PART, "convolutional", epochs=6, half_performance=1500)  # as on an accelerator
def fashion_cnn() -> Made:
    return data.images("fashion_mnist", 6000, first=18000), lambda: networks.cnn(1, (8, 16), 28)


@register(PART, "convolutional", epochs=8, half_performance=21)
def cifar_batchnorm() -> Made:
    return data.cifar(4000, first=2000), lambda: networks.cnn(3, (12, 24, 32), 32, norm="batch")


@register(PART, "recurrent", epochs=4, half_performance=59)
def characters_gru() -> Made:
    return data.passages(32, 5000, 300, 1000, seed=1), lambda: networks.CharacterRNN(nn.GRU)


@register(PART, "rare tokens", epochs=4, half_performance=640)
def hashed_bag() -> Made:
    x, y = data.following(3, 0, 24000)
    powers = torch.tensor([[1, 0, 0], [67, 1, 0], [4489, 67, 1]])
    hashed = (x.flip(1) @ powers.T + torch.tensor([0, 101, 997])) % 4096
    return data.split(hashed, y, 16000, 2500, 5000), lambda: networks.Bag(4096, 32, 64, 65)


@register(PART, "initialisation", epochs=5, half_performance=110)
def fashion_init_times_3() -> Made:
    return data.images("fashion_mnist", 8000, first=44000), lambda: networks.mlp((784, 96, 64, 10), scale=3)


@register(PART, "autoencoder", epochs=6, half_performance=98, loss=F.mse_loss)
def mnist_autoencoder() -> Made:
    pairs = [x.flatten(1) * 0.308 + 0.131 for x, _ in data.images("mnist", 6000, 800, 1000, first=6000)]
    return Split(*((x, x) for x in pairs)), lambda: networks.mlp((784, 96, 24, 96, 784))


@register(PART, "few samples", epochs=30, half_performance=1000, loss=F.mse_loss)
def days_mlp() -> Made:
    return data.split(*data.days_before(14), 800, 300, 340, seed=1), lambda: networks.mlp((14, 32, 32, 1), nn.Tanh)


@register(PART, "transformer", epochs=6, half_performance=26)
def cifar_vit() -> Made:
    return data.cifar(3000, 400, first=1000), lambda: networks.VisionTransformer(3, 32, 8)


@register(PART, "residual", epochs=6, half_performance=510)
def covtype_residual() -> Made:
    return data.split(*data.covtype(), 7000, 2000, 4000, seed=2), lambda: networks.residual_mlp(54, 48, 4, 7)


@register(PART, "many classes", epochs=3, half_performance=160)
def next_word() -> Made:
    windows = data.words(600)[40000:62000].unfold(0, 3, 1)
    parts = data.split(windows[:, :2], windows[:, 2], 16000, 2000, 3500)
    return parts, lambda: networks.Tokens(600, 16, 2, (48,), 600)


@register(PART, "adapters", epochs=6, half_performance=250)
def other_digits_adapters() -> Made:
    base = _flat(data.images("fashion_mnist", 6000))
    frozen = pretrained(base, lambda: networks.residual_mlp(784, 64, 2, 10))
    return _flat(data.images("mnist", 5000, first=50000)), lambda: networks.with_adapters(frozen(), 2)


@register(PART, "bad scales", epochs=8, half_performance=1000, loss=F.mse_loss)
def housing_raw() -> Made:
    x, value = data.housing()  # incomes of some units beside populations of tens of thousands
    return data.split(x, data.standardized(value), 8000, 2000, 4000, seed=1), lambda: networks.mlp((8, 64, 1))


@register(PART, "long", epochs=80, half_performance=1000, loss=F.mse_loss)
def song_long() -> Made:
    x, years = data.song()
    return data.split(x, data.standardized(years), 4000, 1200, 1500, seed=1), lambda: networks.mlp((12, 24, 1), nn.Tanh)


def _flat(parts: Split) -> Split:
    return Split(*((x.flatten(1), y) for x, y in parts))
