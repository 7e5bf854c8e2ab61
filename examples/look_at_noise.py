"""Look closely at one gradient: how noisy is it, and how many samples does it take to trust it?

    pip install 'rightbatch[demo]'
    python examples/look_at_noise.py

Measured at four stages of a training run, each time on all 1797 samples:

    variance      tr(Σ): how much the gradients of single samples differ
    signal        |g|²: squared length of the gradient that all of them share
    noise scale   variance / signal, in samples. A batch of this size has as much noise as signal: much smaller batches
                  point in mostly random directions, much larger ones add little

Early on the samples agree and the noise scale is small; as the model fits, the common signal vanishes faster than the
differences, and the noise scale grows. That is why the best batch size at the start is not the best one later.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import rightbatch


def main() -> None:
    """Measure the noise at four stages of a plain training run."""
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    images, labels = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)

    print("after steps    loss   variance     signal   noise scale   its error   method")
    done = 0
    for steps in (0, 20, 100, 500):
        while done < steps:
            index = torch.randint(0, len(images), (64,))
            optimizer.zero_grad()
            F.cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()
            done += 1
        m = rightbatch.measure(model, F.cross_entropy, images, labels)
        loss = float(F.cross_entropy(model(images), labels).detach())
        print(
            f"{steps:11d}  {loss:6.4f}  {m.variance:9.4g}  {m.signal:9.3g}  {m.noise_scale:12.1f}"
            f"  {m.standard_error.noise_scale:10.1f}   {m.method}"
        )

    kappa = 64 / m.noise_scale
    print(
        f"A batch of 64 holds {kappa:.2g} noise scales here: the squared length of its gradient is "
        f"{kappa / (1 + kappa):.0%} signal, the rest is noise."
    )


if __name__ == "__main__":
    main()
