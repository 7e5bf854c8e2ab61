"""A recipe: a batch-size rule that brings the learning rate that its paper uses with it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

from ...citation import Citation
from ...decision import LRRule
from ...errors import InputError
from ...ranges import require_number, require_whole
from ..batch_size.schedule import BatchSizeSchedule
from ..lr.schedule import LRSchedule
from ..stages import RunPosition


@dataclass(frozen=True, slots=True)
class Recipe(ABC):
    """One object that gives both halves of a method: it is the batch-size rule, and `lr_rule` is the learning rate.

    Both read the same fields, so that their settings cannot disagree. `lr_rule` alone, beside another batch-size rule,
    is the learning rate without the batch sizes.
    """

    name: ClassVar[str]
    read: ClassVar[Callable[[Any], Any]]  # a recipe by its text; set by the registry, which imports this module

    @property
    @abstractmethod
    def lr_rule(self) -> LRRule:
        """The learning-rate rule that belongs to these batch sizes."""

    @abstractmethod
    def with_lr(self, lr: float) -> Self:
        """The same recipe with `lr` as its base learning rate.

        Raises:
            InputError: the recipe has a base learning rate already, or computes the learning rate itself.
        """


@dataclass(frozen=True, slots=True)
class ScheduleRecipe(BatchSizeSchedule, Recipe):
    """A recipe whose batch size and learning rate are functions of the samples consumed.

    A subclass gives the batch size in `_size` and the learning rate, relative to the base rate, in `lr_share`.

    Args:
        initial: first batch size.
        factor: growth of the batch size at each stage, above 1.
        lr: base learning rate; None takes the optimizer's own at the start.

    Raises:
        InputError: a setting out of its range; when a run starts, no learning rate.
    """

    initial: int = 128
    factor: float = 2.0
    lr: float | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        who = type(self).__name__
        require_whole(f"{who}.initial", self.initial, least=1)
        require_number(f"{who}.factor", self.factor, above=1)
        if self.lr is not None:
            require_number(f"{who}.lr", self.lr, above=0)

    @property
    def lr_rule(self) -> LRRule:
        """The learning-rate rule that belongs to these batch sizes."""
        return PairedLR(recipe=self)

    def with_lr(self, lr: float) -> Self:
        """The same recipe with `lr` as its base learning rate."""
        if self.lr not in (None, lr):
            raise InputError(
                f"lr={lr:g} is the base learning rate of {type(self).__name__}, which has lr={self.lr:g}: give one."
            )
        return replace(self, lr=lr)

    @abstractmethod
    def lr_share(self, at: RunPosition) -> float:
        """The learning rate at a position of the run, relative to the base rate."""


@dataclass(frozen=True, slots=True)
class PairedLR(LRSchedule):
    """The learning rate of a recipe, as a rule.

    Args:
        lr: the recipe's base learning rate, whatever is given.
        recipe: the recipe, or its text.

    Raises:
        InputError: `recipe` is no recipe with a schedule.
    """

    recipe: ScheduleRecipe | str = ""

    name: ClassVar[str] = "paired-lr"
    reference: ClassVar[Citation | None] = None

    def __post_init__(self) -> None:
        """Build the recipe from its text."""
        recipe = Recipe.read(self.recipe)
        if not isinstance(recipe, ScheduleRecipe):
            raise InputError(f"PairedLR.recipe is {self.recipe!r}: give a recipe with a schedule, such as Seesaw().")
        object.__setattr__(self, "recipe", recipe)
        object.__setattr__(self, "lr", recipe.lr)

    def _title(self) -> str:
        return type(self.recipe).__name__

    def _share(self, at: RunPosition) -> float:
        return cast(ScheduleRecipe, self.recipe).lr_share(at)
