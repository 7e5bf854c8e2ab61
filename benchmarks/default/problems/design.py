"""The problems that rules are developed on."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .. import data, networks
from ..data import Split
from ..pretraining import pretrained
from ..problem import register

Made = tuple[Split, Callable[[], nn.Module]]
PART = "design"


@register(PART, "linear", epochs=4, half_performance=610)
def a9a_logistic() -> Made:
    return data.split(*data.sparse_rows("a9a_train.npz"), 16000, 4000, 8000), lambda: networks.mlp((123, 2))


@register(PART, "linear", epochs=20, half_performance=19)
def rcv1_logistic() -> Made:
    train, (x, y) = data.rcv1()
    return Split(train, (x[:250], y[:250]), (x[250:], y[250:])), lambda: networks.mlp((train[0].shape[1], 2))


@register(PART, "table", epochs=6, half_performance=310)
def covtype_mlp() -> Made:
    return data.split(*data.covtype(), 9000, 2000, 4000), lambda: networks.mlp((54, 96, 96, 7))


@register(PART, "images", epochs=5, half_performance=100)
def fashion_mlp() -> Made:
    return data.images("fashion_mnist", 9000), lambda: networks.mlp((784, 128, 64, 10))


@register(PART, "regression", epochs=12, half_performance=520, loss=F.mse_loss)
def song_tanh() -> Made:
    x, years = data.song()
    return data.split(x, data.standardized(years), 4400, 1100, 1200), lambda: networks.mlp((12, 64, 64, 1), nn.Tanh)


@register(PART, "convolutional", epochs=8, half_performance=24)
def cifar_groupnorm() -> Made:
    return data.cifar(4000), lambda: networks.cnn(3, (12, 24, 32), 32, norm="group")


@register(PART, "few samples", epochs=30, half_performance=210)
def digits_cnn() -> Made:
    return data.split(*data.digits(), 1100, 300, 397), lambda: networks.cnn(1, (16, 32), 8)


@register(PART, "transformer", epochs=3, half_performance=15)
def characters_gpt() -> Made:
    return data.passages(32, 6400, 200, 1000), networks.CharacterGPT


@register(PART, "few samples", epochs=40, half_performance=610)
def mushrooms_mlp() -> Made:
    return data.split(*data.sparse_rows("mushrooms.npz"), 500, 2000, 4000), lambda: networks.mlp((112, 32, 2))


@register(PART, "bad scales", epochs=5, half_performance=390)
def covtype_times_100() -> Made:
    x, y = data.covtype()
    return data.split(100 * x, y, 9000, 2000, 4000), lambda: networks.mlp((54, 64, 64, 7))


@register(PART, "few samples", epochs=20, half_performance=77)
def cells_mlp() -> Made:
    counts, stimulated = data.cells()
    x = torch.log1p(1000 * counts / counts.sum(1, keepdim=True))
    x = x[:, x.var(0).argsort(descending=True)[60:]]  # without the genes that tell at a glance
    return data.split(x, stimulated, 1000, 400, 600), lambda: networks.mlp((x.shape[1], 32, 2))


@register(PART, "many classes", epochs=8, half_performance=530)
def mixture_of_60() -> Made:
    return data.split(*data.mixture(60, 20, 9000, 0.9), 5000, 1500, 2500), lambda: networks.mlp((20, 48, 60))


@register(PART, "recurrent", epochs=40, half_performance=260, loss=F.mse_loss)
def days_gru() -> Made:
    return data.split(*data.days_before(10), 600, 300, 500), lambda: networks.SequenceRNN(nn.GRU, 1, 24, 1)


@register(PART, "norm and dropout", epochs=6, half_performance=2000)  # as on an accelerator
def mnist_dropout() -> Made:
    return data.images("mnist", 7000), lambda: networks.mlp((784, 96, 64, 10), norm=nn.LayerNorm, dropout=0.2)


@register(PART, "adapters", epochs=5, half_performance=150)
def mnist_to_fashion_adapters() -> Made:
    base = data.images("mnist", 6000, first=20000)
    frozen = pretrained(base, lambda: networks.mlp((784, 128, 64, 10)))
    return data.images("fashion_mnist", 6000, first=20000), lambda: networks.with_adapters(frozen(), 4)


@register(PART, "target scale", epochs=8, half_performance=750, loss=F.mse_loss)
def housing_in_thousands() -> Made:
    x, value = data.housing()
    return data.split(data.standardized(x), value, 8000, 2000, 4000), lambda: networks.mlp((8, 64, 64, 1))


@register(PART, "rare tokens", epochs=3, half_performance=270)
def words_bag() -> Made:
    windows = data.words(4000)[:40000].unfold(0, 5, 1)
    return data.split(windows[:, :4], windows[:, 4].clamp_max(499), 16000, 2000, 4000), lambda: networks.Bag(
        4000, 32, 0, 500
    )


@register(PART, "imbalance", epochs=5, half_performance=150)
def fashion_imbalanced() -> Made:
    full = data.images("fashion_mnist", 24000, first=30000)
    x, y = data.thinned(full.train, [0.7**label for label in range(10)])
    return data.with_train(full, x, y), lambda: networks.mlp((784, 96, 64, 10))


@register(PART, "long", epochs=64, half_performance=860)
def covtype_long() -> Made:
    return data.split(*data.covtype(), 5000, 1500, 4000, seed=3), lambda: networks.mlp((54, 32, 7))
