"""Your own training loop, three lines changed.

    pip install 'rightbatch[demo]'
    python examples/own_loop.py

Before:

    for epoch in range(30):
        for x, y in DataLoader(TensorDataset(*train), batch_size=64, shuffle=True):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

After:

    auto = rightbatch.AutoBatch(model, optimizer, train, epochs=30)     # instead of the DataLoader
    for x, y in auto:
        loss = F.cross_entropy(model(x), y)
        auto.backward(loss)                                             # instead of loss.backward(): also measures
        auto.step()                                                     # instead of optimizer.step()

The learning rate is the optimizer's; the batch size follows the gradient noise and the speed of this machine.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import rightbatch


def main() -> None:
    """Train a small network on the digits and print what the loop decided."""
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    images, labels = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    order = torch.randperm(len(images))
    images, labels = images[order], labels[order]
    train, test = (images[:1500], labels[:1500]), (images[1500:], labels[1500:])

    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)

    auto = rightbatch.AutoBatch(model, optimizer, train, epochs=30)
    epoch = 0
    for inputs, targets in auto:
        loss = F.cross_entropy(model(inputs), targets)
        auto.backward(loss)
        if auto.step() and int(auto.epoch) > epoch:
            epoch = int(auto.epoch)
            row = auto.last
            scale = f"{row['noise_scale']:8.1f}" if row["noise_scale"] is not None else "not yet measured"
            print(f"epoch {epoch:2d}  loss {row['train_loss']:.4f}  batch {row['batch_size']:4d}  noise scale {scale}")

    with torch.no_grad():
        accuracy = float((model(test[0]).argmax(1) == test[1]).float().mean())
    print(f"{auto.steps} steps in {auto.seconds:.2f} s, test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
