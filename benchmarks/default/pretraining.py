"""Bases for adapters: networks trained once in a process, on other data."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .data import Split

BATCH, STEPS, LR = 64, 400, 0.002


def pretrained(data: Split, build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Train a network for 400 steps of Adam and return a function that makes copies of it."""
    x, y = data.train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
        optimizer = torch.optim.Adam(model.parameters(), lr=LR)
        for step in range(STEPS):
            index = torch.randint(len(x), (BATCH,))
            optimizer.param_groups[0]["lr"] = LR * (1 - step / STEPS)
            optimizer.zero_grad()
            F.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
    return lambda: copy.deepcopy(model)
