"""A variational autoencoder: data without targets, a loss that draws random numbers of its own.

    pip install rightbatch
    python examples/vae.py
    python examples/vae.py --epochs 2

The data are one tensor, and so are the batches. The noise drawn by the reparametrization is part of the gradient noise
that decides the batch size: more samples average it out, as they do the noise of the data.

The data are Gaussian with 3 latent dimensions in 16, so the negative evidence lower bound cannot fall below the entropy
of that Gaussian, and a decoder and an encoder that are linear can reach it. Printed are the bound on new data and this
entropy.
"""

import argparse
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import rightbatch

PIXELS, LATENT, SPREAD = 16, 3, 0.5
LOADINGS = torch.randn(PIXELS, LATENT, generator=torch.Generator().manual_seed(1))


def data(n: int) -> Tensor:
    """Samples of the Gaussian."""
    return torch.randn(n, LATENT) @ LOADINGS.T + SPREAD * torch.randn(n, PIXELS)


def entropy() -> float:
    """In nats per sample: what no model can fall below."""
    covariance = LOADINGS @ LOADINGS.T + SPREAD**2 * torch.eye(PIXELS)
    return float(0.5 * torch.logdet(2 * math.pi * math.e * covariance))


class VAE(nn.Module):
    """Gaussian encoder and decoder, the decoder with one learned variance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(PIXELS, 2 * LATENT), nn.Linear(LATENT, PIXELS)
        self.log_variance = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return self.decoder(z), mean, log_variance

    def bound(self, x: Tensor) -> Tensor:
        """The negative evidence lower bound, the mean over samples."""
        decoded, mean, log_variance = self(x)
        variance = self.log_variance.exp().expand_as(x)
        reconstruction = F.gaussian_nll_loss(decoded, x, variance, full=True, reduction="none").sum(1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return (reconstruction + divergence).mean()


def main() -> None:
    """Train the model and compare its bound with the entropy of the data."""
    parser = argparse.ArgumentParser(description="A variational autoencoder.")
    parser.add_argument("--epochs", type=int, default=15)
    epochs = parser.parse_args().epochs

    torch.manual_seed(0)
    train, test = data(20000), data(5000)
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    auto = rightbatch.AutoBatch(model, optimizer, DataLoader(train, batch_size=64, shuffle=True))
    for epoch in range(epochs):
        for x in auto:
            loss = model.bound(x)
            auto.backward(loss)
            auto.step()
        with torch.no_grad():
            bound = float(model.bound(test))
        print(f"epoch {epoch + 1:2d}  bound {bound:.3f}  batch {auto.batch_size}")
    print(f"entropy of the data: {entropy():.3f}")


if __name__ == "__main__":
    main()
