"""What an experiment is done on: data and a model, named so that another process can load them."""

from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING

from ..data import Source, hold_out, load
from ..errors import InputError
from ..models import build_model

if TYPE_CHECKING:
    from torch import Tensor, nn

HELD_OUT = 0.2


@dataclass(frozen=True, slots=True)
class Subject:
    """Data and a model by name.

    Args:
        data: a built-in name or a path, as for `rightbatch train`.
        model: a built-in name or `module:factory`.
        target: the column or key to predict, for tables.
    """

    data: str
    model: str
    target: str | None = None

    def sources(self) -> tuple[Source, Source]:
        """Training and test data; without test data of their own a fifth is held out.

        Raises:
            InputError: unusable data.
        """
        return _sources(self)

    def network(self, seed: int) -> "nn.Module":
        """A model with the initial parameters of this seed."""
        train, _ = self.sources()
        outputs = prod(train.y_shape) if train.y_dtype.is_floating_point else train.classes
        if outputs is None:
            raise InputError(f"The classes of {self.data} are not numbered from 0; renumber them.")
        return build_model(self.model, train.x_shape, outputs, seed)

    def __str__(self) -> str:
        return f"{self.model} on {self.data}"


@cache
def _sources(subject: Subject) -> tuple[Source, Source]:
    splits = load(subject.data, target=subject.target)
    if splits.test is not None:
        return splits.train, splits.test
    train, test = hold_out(splits.train, HELD_OUT, seed=0)
    return train, test


def everything(source: Source) -> "tuple[Tensor, Tensor]":
    """All samples of a source at once."""
    import torch

    x, y = source.fetch(torch.arange(len(source)))
    return x, y
