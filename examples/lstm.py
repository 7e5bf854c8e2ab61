"""An LSTM language model whose state is carried from batch to batch through a long text.

    pip install rightbatch
    python examples/lstm.py
    python examples/lstm.py --epochs 2

The text is cut into lanes that are read side by side, and each lane into pieces. Sample t of the data is piece t of
every lane, and the DataLoader keeps the order, so that each batch continues where the last one ended. The batch size
therefore counts *pieces of time*: a larger batch averages over a longer stretch of all lanes. `micro_batch=` is how far
gradients reach back. The state is detached after each pass, and starts anew with the epoch.

The text switches between two Markov chains, about every 150 characters; to know which one is active takes more context
than one piece. Printed are the loss on new text with the state carried and reset at every piece, and that of the exact
filter, which knows both chains.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import rightbatch

LETTERS, SWITCH, LANES, PIECE = 6, 1 / 150, 32, 10
CHAINS = (1.3 * torch.randn(2, LETTERS, LETTERS, generator=torch.Generator().manual_seed(1))).softmax(2)
State = tuple[Tensor, Tensor] | None


def text(length: int) -> Tensor:
    """Letters of every lane, shape (lanes, length + 1)."""
    chain, letters = torch.randint(2, (LANES,)), [torch.randint(LETTERS, (LANES,))]
    for _ in range(length):
        letters.append(torch.multinomial(CHAINS[chain, letters[-1]], 1)[:, 0])
        chain = torch.where(torch.rand(LANES) < SWITCH, 1 - chain, chain)
    return torch.stack(letters, 1)


def pieces(letters: Tensor) -> TensorDataset:
    """Inputs and targets, both (pieces, lanes, length)."""
    return TensorDataset(*(t.unflatten(1, (-1, PIECE)).transpose(0, 1) for t in (letters[:, :-1], letters[:, 1:])))


class Model(nn.Module):
    """The loss of a stretch of text, and the state at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(LETTERS, 16), nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, LETTERS)

    def forward(self, x: Tensor, y: Tensor, state: State) -> tuple[Tensor, State]:
        x, y = (t.transpose(0, 1).flatten(1) for t in (x, y))  # (lanes, time)
        hidden, (h, c) = self.lstm(self.embed(x), state)
        return F.cross_entropy(self.head(hidden).transpose(1, 2), y), (h.detach(), c.detach())


def exact(letters: Tensor) -> float:
    """The loss of the filter that knows the chains."""
    belief, losses = torch.full((LANES, 2), 0.5), []
    for now, following in zip(letters.T[:-1], letters.T[1:], strict=True):
        joint = belief * CHAINS[:, now, following].T
        losses.append(-joint.sum(1).log())
        belief = joint / joint.sum(1, keepdim=True)
        belief = (1 - SWITCH) * belief + SWITCH * belief.flip(1)
    return float(torch.stack(losses).mean())


def main() -> None:
    """Train the model and compare it with the exact filter."""
    parser = argparse.ArgumentParser(description="An LSTM with carried state.")
    parser.add_argument("--epochs", type=int, default=12)
    epochs = parser.parse_args().epochs

    torch.manual_seed(0)
    train, new = pieces(text(3000)), text(2000)
    test = pieces(new).tensors
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    auto = rightbatch.AutoBatch(model, optimizer, DataLoader(train, batch_size=8, shuffle=False), micro_batch=8)
    for epoch in range(epochs):
        state = None
        for x, y in auto:
            loss, state = model(x, y, state)
            auto.backward(loss)
            auto.step()
        with torch.no_grad():
            carried = float(model(*test, None)[0])
            reset = sum(float(model(x[None], y[None], None)[0]) for x, y in zip(*test, strict=True)) / len(test[0])
        print(f"epoch {epoch + 1:2d}  carried {carried:.3f}  reset {reset:.3f}  batch {auto.batch_size} pieces")
    print(f"the exact filter: {exact(new):.3f}")


if __name__ == "__main__":
    main()
