"""Thirteen training programs as people write them, for `programs.py`; the first six are those of examples/.

A program is what its author has written: model, optimizer, `DataLoader`, the loss of a batch, and what else happens in
the loop. `validate` is what is compared in the end.
"""

import csv
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from networks import GPT
from problems import DATA
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from rightbatch.data import from_generator, load

EXAMPLES = str(Path(__file__).resolve().parents[1] / "examples")


@dataclass
class Program:
    """One training run, ready to begin.

    Attributes:
        batch_size: that of the plain loop.
        loader: what the plain loop runs through, once an epoch.
        loss: the mean loss of a batch and over how many units it is the mean (None: the samples).
        validate: a loss on new data, or what the program is judged by; less is better.
        train: given to AutoBatch; None is the loader.
        begin_epoch: called before each epoch.
        after_step: called after each step with the number of samples of its batch.
        make_scheduler: makes a scheduler that is stepped after every batch.
        settings: of AutoBatch, that the program needs whatever its batch size.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch_size: int
    epochs: int
    loader: Any
    loss: Callable[[Any], tuple[Tensor, Tensor | None]]
    validate: Callable[[], float]
    train: Any = None
    begin_epoch: Callable[[], None] = lambda: None
    after_step: Callable[[int], None] = lambda samples: None
    make_scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None
    clip_norm: float | None = None
    scaler: torch.amp.GradScaler | None = None
    micro_batch: int | None = None


def example(name: str) -> Any:
    """A program of examples/, as a module."""
    if EXAMPLES not in sys.path:
        sys.path.append(EXAMPLES)
    return importlib.import_module(name)


def evaluated(model: nn.Module, value: Callable[[], Tensor | float]) -> Callable[[], float]:
    """The value with the model in evaluation mode and random numbers of its own."""

    def validate() -> float:
        training = model.training
        model.eval()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(1)
            reached = float(value())
        model.train(training)
        return reached

    return validate


def dict_batches() -> Program:
    """Dictionaries, padded; the loss is a mean over words."""
    m = example("dict_batches")
    train, test = ([m.sentence() for _ in range(n)] for n in (6000, 1000))
    model, padded = m.Tagger(), m.pad(test)
    loader = DataLoader(train, 32, shuffle=True, collate_fn=m.pad)

    def loss(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return model(**batch).loss, (batch["labels"] != -100).sum()

    validate = evaluated(model, lambda: model(**padded).loss)
    return Program(model, torch.optim.AdamW(model.parameters(), lr=5e-3), 32, 6, loader, loss, validate)


def siamese() -> Program:
    """Two inputs and a label; a contrastive loss of each pair."""
    m = example("siamese")
    train, test = m.Pairs(10000), m.Pairs(5000)
    model = nn.Sequential(nn.Linear(m.PIXELS, 64), nn.ReLU(), nn.Linear(64, 16))

    def loss(batch: Any) -> tuple[Tensor, None]:
        (a, b), same = batch
        return m.contrastive(F.pairwise_distance(model(a), model(b)), same), None

    validate = evaluated(model, lambda: loss((test.pictures, test.same))[0])
    loader = DataLoader(train, 64, shuffle=True)
    return Program(model, torch.optim.Adam(model.parameters(), lr=1e-3), 64, 10, loader, loss, validate)


def vae() -> Program:
    """One tensor without targets; random numbers in the loss."""
    m = example("vae")
    train, test = m.data(20000), m.data(5000)
    model = m.VAE()
    loader = DataLoader(train, 64, shuffle=True)
    validate = evaluated(model, lambda: model.bound(test))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    return Program(model, optimizer, 64, 6, loader, lambda x: (model.bound(x), None), validate)


def lstm() -> Program:
    """A text in its order; the state is carried from batch to batch."""
    m = example("lstm")
    train, test = m.pieces(m.text(3000)), m.pieces(m.text(2000)).tensors
    model, state = m.Model(), [None]

    def loss(batch: list[Tensor]) -> tuple[Tensor, None]:
        value, state[0] = model(*batch, state[0])
        return value, None

    def begin_epoch() -> None:
        state[0] = None

    validate = evaluated(model, lambda: model(*test, None)[0])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    loader = DataLoader(train, 8, shuffle=False)
    return Program(model, optimizer, 8, 10, loader, loss, validate, begin_epoch=begin_epoch, micro_batch=8)


def gan() -> Program:
    """A discriminator in the loop, and a generator with an optimizer of its own."""
    m = example("gan")
    generator, discriminator = m.network(m.LATENT, 2), m.network(2, 1)
    judging, forging = (
        torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.5, 0.99)) for model in (discriminator, generator)
    )

    def loss(real: Tensor) -> tuple[Tensor, None]:
        fake = generator(torch.randn(len(real), m.LATENT)).detach()
        return F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake)).mean(), None

    def forge(samples: int) -> None:
        value = F.softplus(-discriminator(generator(torch.randn(samples, m.LATENT)))).mean()
        forging.zero_grad()
        value.backward()
        forging.step()

    def distance() -> Tensor:
        """The energy distance between 2,000 generated and 2,000 real points."""
        real, fake = m.ring(2000), generator(torch.randn(2000, m.LATENT))
        within = torch.cdist(real, real).mean() + torch.cdist(fake, fake).mean()
        return (2 * torch.cdist(real, fake).mean() - within).clamp(min=0).sqrt()

    loader = DataLoader(m.ring(m.SAMPLES), 64, shuffle=True)
    validate = evaluated(generator, distance)
    return Program(discriminator, judging, 64, 14, loader, loss, validate, after_step=forge)


class Rollouts:
    """Batches of episodes that the policy plays when they are needed."""

    def __init__(self, play: Callable[[int], Any], batch_size: int, batches: int) -> None:
        self.play, self.batch_size, self.batches = play, batch_size, batches

    def __iter__(self) -> Iterator[Any]:
        return (self.play(self.batch_size) for _ in range(self.batches))


def reinforce() -> Program:
    """Episodes that the policy plays when they are needed."""
    m = example("reinforce")
    policy, baseline = nn.Linear(m.PLACES, m.GAITS, bias=False), torch.zeros(m.PLACES)
    play = partial(m.play, policy)

    def steps() -> Tensor:
        """How long an episode of this policy takes, its expectation."""
        chances, back = policy(torch.eye(m.PLACES)).softmax(1), (torch.arange(m.PLACES) - 1).clamp(min=0)
        value = torch.zeros(m.PLACES + 1)
        for _ in range(m.LONGEST):
            value[:-1] = (chances * (1 + m.SLIPS * value[back, None] + (1 - m.SLIPS) * value[1:, None])).sum(1)
        return value[0]

    def loss(batch: Any) -> tuple[Tensor, None]:
        return m.reinforce(policy, batch, baseline), None

    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    loader, train = Rollouts(play, 32, 32), from_generator(play, 1024)
    return Program(policy, optimizer, 32, 8, loader, loss, evaluated(policy, steps), train)


@cache
def pictures(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on and to validate on."""
    splits = load(str(DATA / name))
    assert splits.test is not None
    train, test = (source.fetch(torch.arange(n)) for source, n in ((splits.train, 20000), (splits.test, 5000)))
    return *train, *test


def classifier(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], float]:
    """Cross-entropy on validation data, after training."""
    return evaluated(model, lambda: F.cross_entropy(model(x), y))


def pair_loss(model: nn.Module) -> Callable[[Any], tuple[Tensor, None]]:
    return lambda batch: (F.cross_entropy(model(batch[0]), batch[1]), None)


def image_cnn() -> Program:
    """Pairs of image and label for a small convolutional net."""
    x, y, check_x, check_y = pictures("fashion_mnist")
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10)
    )
    loader = DataLoader(TensorDataset(x, y), 64, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return Program(model, optimizer, 64, 3, loader, pair_loss(model), classifier(model, check_x, check_y))


class Shifted(Dataset[tuple[Tensor, Tensor]]):
    """Images, each shifted by up to two pixels whenever it is read."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = F.pad(x, (2, 2, 2, 2)), y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        down, right = torch.randint(0, 5, (2,)).tolist()
        return self.x[i, :, down : down + 28, right : right + 28], self.y[i]


def augmented() -> Program:
    """SGD with momentum, BatchNorm, and a data set that augments what it reads."""
    x, y, check_x, check_y = pictures("mnist")
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))
    loader = DataLoader(Shifted(x, y), 64, shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return Program(model, optimizer, 64, 3, loader, pair_loss(model), classifier(model, check_x, check_y))


@cache
def forests() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of covtype, standardized, of which one in 20 is of class 1 and the others of class 0."""
    with (DATA / "libsvm" / "covtype_20k.npz").open("rb") as file:
        stored = importlib.import_module("numpy").load(file)
        x, y = torch.tensor(stored["X"]).float(), torch.tensor(stored["y"]).long() == 2
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = (x[order] - x.mean(0)) / x.std(0).clamp(min=1e-6), y[order]
    keep = ~y | (y.cumsum(0) % 8 == 0)
    x, y = x[keep], y[keep].long()
    return x[3000:], y[3000:], x[:3000], y[:3000]


def weighted_sampler() -> Program:
    """A rare class, drawn as often as the others by a sampler; judged by both classes alike."""
    x, y, check_x, check_y = forests()
    model = nn.Sequential(nn.Linear(54, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    share = y.float().mean()
    sampler = WeightedRandomSampler(torch.where(y == 1, 0.5 / share, 0.5 / (1 - share)), len(y))
    loader = DataLoader(TensorDataset(x, y), 64, sampler=sampler)
    weight = 1 / torch.bincount(check_y).float()
    validate = evaluated(model, lambda: F.cross_entropy(model(check_x), check_y, weight))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return Program(model, optimizer, 64, 8, loader, pair_loss(model), validate)


@cache
def windows() -> tuple[Tensor, Tensor]:
    """Pieces of 33 characters of Shakespeare, to train on and to validate on."""
    text = torch.frombuffer(bytearray((DATA / "text" / "tinyshakespeare.txt").read_bytes()), dtype=torch.uint8).long()
    pieces = text[: 33 * 33000].view(-1, 33)
    return pieces[:6000], pieces[-1000:]


def transformer() -> Program:
    """A transformer for characters with AdamW, clipping and a cosine schedule."""
    train, check = windows()
    model = GPT(layers=2, width=64, context=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def loss(batch: Tensor) -> tuple[Tensor, None]:
        return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()), None

    make = partial(CosineAnnealingLR, T_max=math.ceil(len(train) / 32))
    loader, validate = DataLoader(train, 32, shuffle=True), evaluated(model, lambda: loss(check)[0])
    return Program(model, optimizer, 32, 1, loader, loss, validate, make_scheduler=make, clip_norm=1.0)


def autocast() -> Program:
    """Mixed precision with a scaler."""
    x, y, check_x, check_y = pictures("mnist")
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))

    def loss(batch: Any) -> tuple[Tensor, None]:
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(model(batch[0]), batch[1]), None

    loader, scaler = DataLoader(TensorDataset(x, y), 64, shuffle=True), torch.amp.GradScaler("cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Program(model, optimizer, 64, 4, loader, loss, classifier(model, check_x, check_y), scaler=scaler)


class Described(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images with their class and their share of ink."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.targets = x, {"class": y, "ink": 5 * x.flatten(1).mean(1)}

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.x[i], {name: target[i] for name, target in self.targets.items()}


def two_heads() -> Program:
    """A dictionary of targets, one loss for each."""
    x, y, check_x, check_y = pictures("fashion_mnist")
    model = nn.ModuleDict({"trunk": nn.Sequential(nn.Flatten(), nn.Linear(784, 96), nn.ReLU())})
    model.update({"class": nn.Linear(96, 10), "ink": nn.Linear(96, 1)})
    train, check = Described(x, y), Described(check_x, check_y)

    def loss(batch: Any) -> tuple[Tensor, None]:
        hidden, targets = model["trunk"](batch[0]), batch[1]
        regression = F.mse_loss(model["ink"](hidden)[:, 0], targets["ink"])
        return F.cross_entropy(model["class"](hidden), targets["class"]) + regression, None

    validate = evaluated(model, lambda: loss((check.x, check.targets))[0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return Program(model, optimizer, 64, 3, DataLoader(train, 64, shuffle=True), loss, validate)


@cache
def houses() -> tuple[Tensor, Tensor, Tensor]:
    """Numbers, the place as a number, and the price of houses, in an order of their own."""
    with (DATA / "regression" / "california_housing.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if all(row)][1:]
    places = sorted({row[-1] for row in rows})
    values = torch.tensor([[float(value) for value in row[:-1]] for row in rows])
    place = torch.tensor([places.index(row[-1]) for row in rows])
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    values = ((values - values.mean(0)) / values.std(0))[order]
    return values[:, :-1], place[order], values[:, -1:]


class Prices(nn.Module):
    """A net for the numbers and an embedding of the place."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Embedding(5, 8)
        self.net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, numbers: Tensor, place: Tensor) -> Tensor:
        return self.net(torch.cat([numbers, self.place(place)], 1))


def two_inputs() -> Program:
    """Regression with numbers and a category."""
    numbers, place, price = houses()
    model = Prices()

    def loss(batch: Any) -> tuple[Tensor, None]:
        return F.mse_loss(model(batch[0], batch[1]), batch[2]), None

    loader = DataLoader(TensorDataset(numbers[3000:], place[3000:], price[3000:]), 64, shuffle=True)
    validate = evaluated(model, lambda: loss((numbers[:3000], place[:3000], price[:3000]))[0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return Program(model, optimizer, 64, 6, loader, loss, validate)


PROGRAMS: dict[str, Callable[[], Program]] = {
    "padded dictionaries, token weights": dict_batches,
    "siamese net": siamese,
    "VAE": vae,
    "LSTM with carried state": lstm,
    "GAN": gan,
    "REINFORCE": reinforce,
    "image CNN": image_cnn,
    "augmentation, BatchNorm, SGD": augmented,
    "weighted sampler": weighted_sampler,
    "transformer, clipping, cosine": transformer,
    "autocast and scaler": autocast,
    "two heads, dictionary of targets": two_heads,
    "regression, two inputs": two_inputs,
}
