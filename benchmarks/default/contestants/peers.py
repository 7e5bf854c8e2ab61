"""Other methods, at the settings that their authors recommend where nothing is tuned.

Each trains in batches of 32 where the epochs are given, so that it takes many steps, and of 128 where the time is.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import nn

from ..problem import Problem
from .contestant import Method, batches, constant, cosine, linear, trained

BATCH_NORM_BATCHES, BATCH_NORM_SIZE = 50, 32


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} is not installed"


@contextmanager
def _averages(model: nn.Module, optimizers: list[torch.optim.Optimizer], problem: Problem) -> Iterator[None]:
    """The averaged iterate of schedule-free methods; statistics of BatchNorm are taken anew, as their authors ask."""
    for optimizer in optimizers:
        optimizer.eval()
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        x = problem.data.train[0]
        with torch.no_grad():
            for index, _ in zip(batches(len(x), BATCH_NORM_SIZE, 0), range(BATCH_NORM_BATCHES), strict=False):
                model(x[index])
    yield
    for optimizer in optimizers:
        optimizer.train()


def _schedule_free(kind: str) -> Method:
    def make(model: nn.Module, steps: int) -> list[torch.optim.Optimizer]:
        optimizer = getattr(importlib.import_module("schedulefree"), f"{kind}ScheduleFree")(trained(model))
        optimizer.train()
        return [optimizer]

    return Method(f"Schedule-Free {kind}", make, constant, evaluated=_averages, version=_version("schedulefree"))


def _prodigy(model: nn.Module, steps: int) -> list[torch.optim.Optimizer]:
    return [importlib.import_module("prodigyopt").Prodigy(trained(model))]


def _ademamix(model: nn.Module, steps: int) -> list[torch.optim.Optimizer]:
    """Its mixing and its slow momentum are brought up over the whole run, as the paper does."""
    return [importlib.import_module("pytorch_optimizer").AdEMAMix(trained(model), lr=1e-3, t_alpha_beta3=steps)]


def _nadamw(model: nn.Module, steps: int) -> list[torch.optim.Optimizer]:
    return [torch.optim.NAdam(trained(model), weight_decay=0.01, decoupled_weight_decay=True)]


def _muon(model: nn.Module, steps: int) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between input and head, AdamW for all else, rates as in github.com/KellerJordan/Muon."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    parameters = trained(model)
    matrices = [p for p in parameters if p.ndim == 2 and id(p) not in embeddings][:-1]
    others = [p for p in parameters if all(p is not matrix for matrix in matrices)]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=3e-4, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.01, fused=True)
    ]
    if matrices:
        made.append(torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01))
    return made


PEERS = [
    _schedule_free("SGD"),
    _schedule_free("AdamW"),
    Method("Prodigy", _prodigy, cosine, version=_version("prodigyopt")),  # the schedule that its page recommends
    Method("AdEMAMix", _ademamix, linear, version=_version("pytorch_optimizer")),
    Method("NAdamW", _nadamw, linear),
    Method("Muon + AdamW", _muon, linear),
]
