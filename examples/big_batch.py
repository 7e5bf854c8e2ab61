"""Big Batch by name: the batch grows until its gradient exceeds its noise, and no learning rate is given.

    pip install 'rightbatch[demo]'
    python examples/big_batch.py
    python examples/big_batch.py --lr barzilai-borwein
    python examples/big_batch.py --batch-size "big-batch(theta=0.5)"

Logistic regression on the digits: is it a 0 to 4, or a 5 to 9? As the gradient shrinks, the noise of a small batch
hides it, and the rule draws more samples for the same step. The last column is the norm of the gradient over all the
data.
"""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import rightbatch


def main() -> None:
    """Run one of the published variants and print batch size, learning rate and gradient norm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", default="big-batch")
    parser.add_argument("--lr", default="armijo", help="armijo, barzilai-borwein or a number")
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()

    x, y = load_digits(return_X_y=True)
    inputs = torch.tensor(x / 16, dtype=torch.float32)
    targets = torch.tensor(y > 4, dtype=torch.float32).unsqueeze(1)
    model = nn.Linear(64, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)

    def true_gradient_norm() -> float:
        gradients = torch.autograd.grad(
            F.binary_cross_entropy_with_logits(model(inputs), targets), list(model.parameters())
        )
        return float(torch.cat([g.flatten() for g in gradients]).norm())

    # None: plain SGD. The rules decide how far it moves and over how many samples.
    auto = rightbatch.AutoBatch(
        model, None, (inputs, targets), batch_size=options.batch_size, lr=_lr(options.lr), epochs=100_000
    )
    print(" step   passes   batch    step size     loss   true gradient")
    for batch_x, batch_y in auto:
        loss = F.binary_cross_entropy_with_logits(model(batch_x), batch_y)
        auto.backward(loss)
        if not auto.step():
            continue  # more samples, or a trial step, are wanted first
        if auto.steps % 10 == 0:
            row = auto.last
            print(
                f"{auto.steps:5d}  {auto.epoch:7.2f}  {row['batch_size']:6d}  {auto.lr:11.4g}"
                f"  {row['train_loss']:7.4f}  {true_gradient_norm():14.6f}"
            )
        if auto.steps >= options.steps:
            break
    print(auto.stopped or f"{auto.steps} steps are done")


def _lr(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
