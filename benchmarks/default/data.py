"""The data of the arena's problems: real sets read from a folder, a few drawn from a seed, each split in three."""

import csv
import gzip
import lzma
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
Pair = tuple[Tensor, Tensor]


class Split(NamedTuple):
    """Inputs and targets to train on, to validate on and to test on; no sample is in two of them."""

    train: Pair
    valid: Pair
    test: Pair


def split(x: Tensor, y: Tensor, train: int, valid: int, test: int, seed: int = 0) -> Split:
    """So many samples for each use, drawn without replacement."""
    if train + valid + test > len(x):
        raise ValueError(f"{train} + {valid} + {test} samples asked for, there are {len(x)}.")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    parts = order[: train + valid + test].split([train, valid, test])
    return Split(*((x[part].contiguous(), y[part].contiguous()) for part in parts))


def with_train(data: Split, x: Tensor, y: Tensor) -> Split:
    """The same with other training samples."""
    return Split((x.contiguous(), y.contiguous()), data.valid, data.test)


def standardized(x: Tensor) -> Tensor:
    """Columns of mean 0 and standard deviation 1; constant ones are 0."""
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-8)


@cache
def sparse_rows(name: str) -> Pair:
    """Dense rows and classes 0, 1 of a LIBSVM file in CSR form."""
    from scipy.sparse import load_npz

    path = DATA / "libsvm" / name
    labels = np.load(path)["y"]
    return torch.from_numpy(load_npz(path).toarray()).float(), torch.from_numpy(labels > 0).long()


@cache
def dense_rows(name: str) -> Pair:
    """Rows and classes 0, 1 of a LIBSVM file in dense form."""
    arrays = np.load(DATA / "libsvm" / name)
    return torch.from_numpy(arrays["X"]).float(), torch.from_numpy(arrays["y"] > 0).long()


@cache
def covtype() -> Pair:
    """20,000 rows of Covertype in seven classes, the ten measured columns standardised."""
    arrays = np.load(DATA / "libsvm" / "covtype_20k.npz")
    x = torch.from_numpy(arrays["X"].astype(np.float32))
    x[:, :10] = standardized(x[:, :10])
    return x, torch.from_numpy(arrays["y"].astype(np.int64)) - 1


@cache
def rcv1() -> tuple[Pair, Pair]:
    """Documents to train on and to evaluate on, of the words that occur in the first."""
    (x, y), (other_x, other_y) = sparse_rows("rcv1_small_train.npz"), sparse_rows("rcv1_small_test.npz")
    used = (x != 0).any(0)
    return (x[:, used].contiguous(), y), (other_x[:, used].contiguous(), other_y)


@cache
def _idx(folder: str, name: str) -> Tensor:
    content = gzip.decompress((DATA / folder / name).read_bytes())
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, 4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy())


def images(folder: str, train: int, valid: int = 1000, test: int = 2000, first: int = 0) -> Split:
    """MNIST or Fashion-MNIST, standardised, one channel; validation and test samples are of the official test set."""
    spread = {"mnist": (0.131, 0.308), "fashion_mnist": (0.286, 0.353)}[folder]

    def of(kind: str, begin: int, count: int) -> Pair:
        x = _idx(folder, f"{kind}-images-idx3-ubyte.gz")[begin : begin + count]
        y = _idx(folder, f"{kind}-labels-idx1-ubyte.gz")[begin : begin + count]
        return x.float().div(255).sub(spread[0]).div(spread[1]).unsqueeze(1), y.long()

    return Split(of("train", first, train), of("t10k", 0, valid), of("t10k", valid, test))


@cache
def _cifar(use: str) -> Pair:
    with lzma.open(DATA / "cifar10" / f"cifar10_x_{use}.npy.xz") as file:
        pixels = torch.from_numpy(np.load(file)[:6000])
    labels = np.load(DATA / "cifar10" / "cifar10_labels.npz")[f"y_{use}"][:6000]
    return pixels.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels.astype(np.int64))


def cifar(train: int, valid: int = 600, first: int = 0) -> Split:
    """CIFAR-10, at most 6,000 images of it to train on; tested on 1,000 official test images."""
    parts = []
    for use, begin, count in (("train", first, train), ("val", 0, valid), ("test", 0, 1000)):
        x, y = _cifar(use)
        parts.append((x[begin : begin + count].float().div(255).sub(0.47).div(0.25), y[begin : begin + count]))
    return Split(*parts)


@cache
def digits() -> Pair:
    """1,797 digits of 8 x 8 pixels, of values 0 to 1, one channel."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.from_numpy(found.images).float().unsqueeze(1) / 16, torch.from_numpy(found.target).long()


@cache
def song() -> Pair:
    """Twelve features of 6,724 songs, standardised, and the year less 1900."""
    arrays = np.load(DATA / "regression" / "millionsong_6724.npz")
    years = torch.from_numpy(arrays["year"].astype(np.float32)).unsqueeze(1) - 1900
    return standardized(torch.from_numpy(arrays["X"]).float()), years


@cache
def housing() -> Pair:
    """Eight numbers of 20,433 Californian districts, in their own units, and median house values in 1,000 dollars."""
    with (DATA / "regression" / "california_housing.csv").open(newline="") as file:
        rows = [[float(cell) for cell in row[:9]] for row in list(csv.reader(file))[1:] if all(row[:9])]
    table = torch.tensor(rows)
    return table[:, :8].contiguous(), table[:, 8:] / 1000


@cache
def temperatures() -> Tensor:
    """Mean temperatures of 1,462 days in Delhi, degrees Celsius."""
    with (DATA / "timeseries" / "DailyDelhiClimateTrain.csv").open(newline="") as file:
        return torch.tensor([float(row["meantemp"]) for row in csv.DictReader(file)])


def days_before(days: int) -> Pair:
    """Temperatures of so many days and of the day after, in standard deviations from the mean."""
    windows = ((temperatures() - 25.5) / 7.35).unfold(0, days + 1, 1)
    return windows[:, :days].contiguous(), windows[:, days:].contiguous()


@cache
def cells() -> tuple[Tensor, Tensor]:
    """Counts of the genes seen in more than 60 of 2,000 blood cells, and which cells were stimulated."""
    from scipy.sparse import load_npz

    parts = [load_npz(DATA / "pbmc" / f"pbmc_{kind}_1000x9015.npz").toarray() for kind in ("ctrl", "stim")]
    counts = torch.from_numpy(np.vstack(parts).astype(np.float32))
    return counts[:, (counts > 0).sum(0) > 60].contiguous(), torch.arange(2000) // 1000


@cache
def text() -> str:
    """Tiny Shakespeare."""
    return (DATA / "text" / "tinyshakespeare.txt").read_text()


@cache
def characters() -> Tensor:
    """Tiny Shakespeare as numbers 0 to 64."""
    numbers = {character: number for number, character in enumerate(sorted(set(text())))}
    return torch.tensor([numbers[character] for character in text()])


def passages(length: int, train: int, valid: int, test: int, seed: int = 0) -> Split:
    """Pieces of the text and the characters that follow each of theirs; no two pieces overlap."""
    pieces = characters()[: len(characters()) // (length + 1) * (length + 1)].view(-1, length + 1)
    return split(pieces[:, :length], pieces[:, 1:], train, valid, test, seed)


def following(length: int, begin: int, end: int) -> Pair:
    """`length` characters and the one after, at every place of a piece of the text."""
    windows = characters()[begin:end].unfold(0, length + 1, 1)
    return windows[:, :length].contiguous(), windows[:, length].contiguous()


@cache
def words(vocabulary: int) -> Tensor:
    """The words of the text by their rank in frequency; all beyond the vocabulary share its last number."""
    found = "".join(c if c.isalpha() else " " for c in text().lower()).split()
    counts: dict[str, int] = {}
    for word in found:
        counts[word] = counts.get(word, 0) + 1
    ranks = {word: rank for rank, word in enumerate(sorted(counts, key=lambda word: (-counts[word], word)))}
    return torch.tensor([min(ranks[word], vocabulary - 1) for word in found])


def mixture(classes: int, inputs: int, samples: int, spread: float, seed: int = 0) -> Pair:
    """Points around three centres for each of many classes, `spread` times as wide as the centres are apart."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3 * classes, inputs, generator=generator)
    which = torch.randint(3 * classes, (samples,), generator=generator)
    x = centres[which] + spread * torch.randn(samples, inputs, generator=generator)
    return x, which % classes


def flipped(y: Tensor, share: float, classes: int, seed: int = 0) -> Tensor:
    """Labels of which a share is drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(classes, y.shape, generator=generator)
    return torch.where(torch.rand(y.shape, generator=generator) < share, drawn, y)


def thinned(pair: Pair, shares: Sequence[float]) -> Pair:
    """Of each class so large a share, the first of its samples."""
    x, y = pair
    found = [torch.nonzero(y == label).flatten() for label in range(len(shares))]
    index = torch.cat([rows[: int(share * len(rows))] for rows, share in zip(found, shares, strict=True)])
    return x[index], y[index]
