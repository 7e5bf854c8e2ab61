"""REINFORCE: the samples are episodes, and the policy that is trained makes them.

    pip install rightbatch
    python examples/reinforce.py
    python examples/reinforce.py --epochs 2

The data are made on demand: whenever the loop needs episodes, the current policy plays them. Nothing is stored, so an
epoch is only a number of episodes. The gradient of a single episode is mostly noise, which is why the batch size
matters here more than elsewhere: what is left to gain becomes small beside the noise.

The walker on a line gets -1 for each step until it reaches the far end. Each step slips backwards with a probability
that depends on the place and on the gait. Printed is the mean return of new episodes beside the best possible, which
dynamic programming finds.
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rightbatch
from rightbatch.data import from_generator

PLACES, GAITS, LONGEST = 10, 4, 60
SLIPS = 0.05 + 0.7 * torch.rand(PLACES, GAITS, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def play(policy: nn.Module, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Places, gaits and rewards of n episodes, each (n, longest); after the end the place is -1."""
    place, steps = torch.zeros(n, dtype=torch.long), []
    for _ in range(LONGEST):
        going = place < PLACES
        here = place.clamp(max=PLACES - 1)
        chances = policy(F.one_hot(here, PLACES).float()).softmax(1)
        gait = torch.multinomial(chances, 1, generator=generator)[:, 0]
        slipped = torch.rand(n, generator=generator) < SLIPS[here, gait]
        steps.append((torch.where(going, here, -1), gait, -going.float()))
        place = torch.where(going, torch.where(slipped, (here - 1).clamp(min=0), here + 1), place)
    return dict(zip(("places", "gaits", "rewards"), (torch.stack(s, 1) for s in zip(*steps, strict=True)), strict=True))


def reinforce(policy: nn.Module, batch: dict[str, Tensor], baseline: Tensor) -> Tensor:
    """Minus advantage (the return to go, less a baseline of the place) times log-probability; a mean of episodes."""
    going, here = batch["places"] >= 0, batch["places"].clamp(min=0)
    to_go = batch["rewards"].flip(1).cumsum(1).flip(1)
    chances = policy(F.one_hot(here, PLACES).float()).log_softmax(2).gather(2, batch["gaits"][..., None])[..., 0]
    loss = -(going * (to_go - baseline[here]) * chances).sum(1).mean()
    for place in range(PLACES):
        if (there := going & (here == place)).any():
            baseline[place] += 0.1 * (to_go[there].mean() - baseline[place])
    return loss


def best() -> float:
    """The return of the best policy, by dynamic programming backwards from the longest episode."""
    value = torch.zeros(PLACES + 1)
    back = (torch.arange(PLACES) - 1).clamp(min=0)
    for _ in range(LONGEST):
        value[:-1] = (-1 + SLIPS * value[back, None] + (1 - SLIPS) * value[1:, None]).max(1).values
    return float(value[0])


def main() -> None:
    """Train the policy and compare it with the best one."""
    parser = argparse.ArgumentParser(description="REINFORCE.")
    parser.add_argument("--epochs", type=int, default=8)
    epochs = parser.parse_args().epochs

    torch.manual_seed(0)
    policy = nn.Linear(PLACES, GAITS, bias=False)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    baseline = torch.zeros(PLACES)
    print(f"before: {float(play(policy, 2000)['rewards'].sum(1).mean()):.2f}")

    size = "bounded('gradient-noise-scale', min_size=16, max_size=512)"
    auto = rightbatch.AutoBatch(policy, optimizer, from_generator(partial(play, policy), 1024), size)
    for epoch in range(epochs):
        for batch in auto:
            loss = reinforce(policy, batch, baseline)
            auto.backward(loss)
            auto.step()
        reached = float(play(policy, 2000)["rewards"].sum(1).mean())
        print(f"epoch {epoch + 1:2d}  return {reached:.2f}  batch {auto.batch_size}")
    print(f"the best possible: {best():.2f}")


if __name__ == "__main__":
    main()
