"""A GAN on points of a ring: two models, two optimizers, one loop; both batch sizes follow the gradient noise.

    pip install rightbatch
    python examples/gan.py
    python examples/gan.py --epochs 80

The discriminator and the generator are each under an `AutoBatch` of their own, with their own data: points of the ring
and latent vectors. Gradients belong to one batch: what the generator's loss leaves in the discriminator is cleared by
the discriminator's next `backward`, and no `zero_grad` is needed. A generator under a plain optimizer, stepped after
`auto.step()`, works as well: see docs/own-loop.md.

Printed is how far generated points are from the ring on average (real ones: 0.04), and how many of 12 equal sectors
of the ring have their share of them, at least half of what they should have.
"""

import argparse
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rightbatch

SAMPLES, LATENT, WIDTH, SECTORS = 8000, 8, 64, 12


def ring(n: int) -> Tensor:
    """Points about the unit circle, with a standard deviation of 0.05."""
    angle = 2 * math.pi * torch.rand(n)
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(n, 2)


def network(inputs: int, outputs: int) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, WIDTH),
        nn.LeakyReLU(0.2),
        nn.Linear(WIDTH, WIDTH),
        nn.LeakyReLU(0.2),
        nn.Linear(WIDTH, outputs),
    )


@torch.no_grad()
def quality(generator: nn.Module) -> tuple[float, int]:
    """Mean distance of 2,000 generated points from the circle, and the number of sectors that have their share."""
    points = generator(torch.randn(2000, LATENT))
    distance = (points.norm(dim=1) - 1).abs().mean()
    sector = ((torch.atan2(points[:, 1], points[:, 0]) / (2 * math.pi) % 1) * SECTORS).long().clamp(max=SECTORS - 1)
    counts = sector.bincount(minlength=SECTORS)
    return float(distance), int((counts >= 2000 / SECTORS / 2).sum())


def main() -> None:
    """Train both models and print what the generator has learned."""
    parser = argparse.ArgumentParser(description="A GAN on points of a ring.")
    parser.add_argument("--epochs", type=int, default=40)
    epochs = parser.parse_args().epochs

    torch.manual_seed(0)
    generator, discriminator = network(LATENT, 2), network(2, 1)
    judging = torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.5, 0.99))
    forging = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.99))
    points, vectors = ring(SAMPLES), torch.randn(SAMPLES, LATENT)

    print("epoch  distance  sectors  batch of discriminator and generator")
    print(f"{0:5d}  {quality(generator)[0]:8.3f}  {quality(generator)[1]:4d}/{SECTORS}")
    size = "bounded('gradient-noise-scale', min_size=64, max_size=512)"
    judge = rightbatch.AutoBatch(discriminator, judging, points, size)
    forger = rightbatch.AutoBatch(generator, forging, vectors, size)
    for epoch in range(epochs):
        for real, latent in zip(judge, forger, strict=False):  # until one of them has used up its epoch
            fake = generator(torch.randn(len(real), LATENT)).detach()
            loss = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake)).mean()
            judge.backward(loss)
            judge.step()

            loss = F.softplus(-discriminator(generator(latent))).mean()
            forger.backward(loss)
            forger.step()
        if (epoch + 1) % max(1, epochs // 8) == 0:
            distance, sectors = quality(generator)
            sizes = f"{judge.batch_size:5d} {forger.batch_size:5d}"
            print(f"{epoch + 1:5d}  {distance:8.3f}  {sectors:4d}/{SECTORS}  {sizes}")

    distance, sectors = quality(generator)
    print(f"after {judge.steps} steps: {distance:.3f} from the ring, {sectors} of {SECTORS} sectors")


if __name__ == "__main__":
    main()
