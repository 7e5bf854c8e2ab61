"""A siamese net: are two noisy pictures of the same kind? One network sees both.

    pip install rightbatch
    python examples/siamese.py
    python examples/siamese.py --epochs 2

A sample is a pair of pictures and whether they are of one kind: batches are the nest ((first, second), same) that the
DataLoader makes of them. The contrastive loss compares the two pictures of each sample with each other, not with other
samples, so it is a mean over samples as any other.

A kind is a point in an eighth of the dimensions; the others contain only noise, and all are mixed. The distance
between embeddings must ignore the noise. Printed is how often the distance tells pairs of *new* kinds apart, beside
the plain distance between pictures and that of a net that knows the mixing.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import rightbatch

PIXELS, SIGNAL, KINDS, MARGIN = 64, 8, 200, 2.0
MIXING = torch.linalg.qr(torch.randn(PIXELS, PIXELS, generator=torch.Generator().manual_seed(1)))[0]

Sample = tuple[tuple[Tensor, Tensor], Tensor]


class Pairs(Dataset[Sample]):
    """Pairs of pictures, half of them of the same kind."""

    def __init__(self, n: int) -> None:
        kinds = 1.5 * torch.randn(KINDS, SIGNAL)
        first = torch.randint(KINDS, (n,))
        same = torch.arange(n) % 2 == 0
        second = torch.where(same, first, (first + torch.randint(1, KINDS, (n,))) % KINDS)
        self.pictures = [self._pictures(kinds[which]) for which in (first, second)]
        self.same = same.float()

    def _pictures(self, kinds: Tensor) -> Tensor:
        signal = kinds + 0.6 * torch.randn_like(kinds)
        return torch.cat([signal, 2 * torch.randn(len(kinds), PIXELS - SIGNAL)], 1) @ MIXING

    def __len__(self) -> int:
        return len(self.same)

    def __getitem__(self, i: int) -> Sample:
        return (self.pictures[0][i], self.pictures[1][i]), self.same[i]


def accuracy(distance: Tensor, same: Tensor) -> float:
    """Share of pairs told apart by the best threshold."""
    order = distance.argsort()
    hits = same[order].cumsum(0) + (1 - same).sum() - (1 - same[order]).cumsum(0)
    return float(hits.max() / len(same))


def contrastive(distance: Tensor, same: Tensor) -> Tensor:
    """Pulls pictures of one kind together and pushes others apart, up to the margin."""
    return (same * distance.square() + (1 - same) * F.relu(MARGIN - distance).square()).mean()


def main() -> None:
    """Train the net and tell pairs of new kinds apart."""
    parser = argparse.ArgumentParser(description="A siamese net.")
    parser.add_argument("--epochs", type=int, default=15)
    epochs = parser.parse_args().epochs

    torch.manual_seed(0)
    train, test = Pairs(10000), Pairs(2000)
    model = nn.Sequential(nn.Linear(PIXELS, 64), nn.ReLU(), nn.Linear(64, 16))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    (first, second), same = test.pictures, test.same

    auto = rightbatch.AutoBatch(model, optimizer, DataLoader(train, batch_size=64, shuffle=True))
    for epoch in range(epochs):
        for (a, b), alike in auto:
            loss = contrastive(F.pairwise_distance(model(a), model(b)), alike)
            auto.backward(loss)
            auto.step()
        with torch.no_grad():
            right = accuracy(F.pairwise_distance(model(first), model(second)), same)
        print(f"epoch {epoch + 1:2d}  {right:.3f} of the pairs told apart  batch {auto.batch_size}")

    apart = (first - second) @ MIXING.T
    print(f"distance of pictures: {accuracy(apart.norm(dim=1), same):.3f}", end="; ")
    print(f"with the mixing known: {accuracy(apart[:, :SIGNAL].norm(dim=1), same):.3f}")


if __name__ == "__main__":
    main()
