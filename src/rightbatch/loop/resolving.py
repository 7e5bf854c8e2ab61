"""From what a caller gives ("auto", 128, "armijo", a rule) to rules that fit each other and the optimizer."""

from dataclasses import replace

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..decision import BatchSizeRule, ForkingRule, LRRule, Needs
from ..errors import InputError, UnsupportedError
from ..noise import Noise, noise_settings
from ..rule_text import rule_name, write_rule
from ..rules.batch_size import Fixed, Horizon, SweetSpot, batch_size_rule
from ..rules.lr import Constant, MomentumSchedule, Tournament, WarmUp, lr_rule
from ..rules.recipes import RECIPES, Recipe
from ..rules.wrappers.batch_size_wrapper import UNWRAPPED, BatchSizeWrapper
from .optimizer_settings import averages_itself, require_plain_steps

# Averaging removes most of the noise that is measured where the gradient is taken, so B_noise says less here. Three
# half-performance batches run at 3/4 of the peak speed and eight at 8/9: beyond, hardly anything is to be gained.
SWEET_SPOT_WHEN_AVERAGING = SweetSpot(floor=3.0, ceiling=8.0)


def resolve(batch_size: object, lr: object, initial: int | None = None) -> tuple[BatchSizeRule, LRRule]:
    """The two rules meant by what a caller gives for the batch size and the learning rate.

    Args:
        batch_size: "auto" (`Horizon` beside lr="auto", else `SweetSpot`, with the bounds that suit averaging where the
            lr rule averages; also inside a wrapper around nothing), a number, the name of a rule, a rule or a recipe.
        lr: None (the optimizer's own learning rate), "auto" (`Tournament`), a number, the name of a rule or a
            rule. Beside a recipe, which brings its own lr rule, None and "auto" are the base rate of the recipe or of
            the optimizer, a number is the base rate, and a warm-up or a momentum schedule goes around the recipe's.
        initial: the batch size that "auto" starts with; None is the rule's own.

    Raises:
        InputError: one of them names no rule; a recipe beside another lr rule.
    """
    _refuse_recipe(lr)
    size = None if isinstance(batch_size, str) and batch_size == "auto" else batch_size_rule(batch_size)
    recipe = _recipe_in(size)
    if recipe is not None:
        assert size is not None
        return size, _lr_of(recipe, Constant() if lr == "auto" else lr_rule(lr))
    rate = Tournament() if isinstance(lr, str) and lr == "auto" else lr_rule(lr)
    if size is None:
        auto = _auto(rate)
        if isinstance(auto, SweetSpot) and initial is not None:
            auto = replace(auto, initial=initial)
        return auto, rate
    return _around(size, _auto(rate)), rate


def _auto(rate: LRRule) -> BatchSizeRule:
    """What "auto" means for the batch size beside an lr rule."""
    if isinstance(rate, ForkingRule):
        return Horizon()
    return SWEET_SPOT_WHEN_AVERAGING if rate.averages else SweetSpot()


def _refuse_recipe(spec: object) -> None:
    """Refuse a recipe, which decides batch size and learning rate, given for the learning rate."""
    name = rule_name(spec) if isinstance(spec, str) else spec.name if isinstance(spec, Recipe) else None
    if name in RECIPES:
        raise InputError(
            f"lr={spec!r} is a recipe, which sets batch size and learning rate: give it as batch_size=, and only the "
            "base learning rate as lr=."
        )


def _recipe_in(rule: BatchSizeRule | None) -> Recipe | None:
    while isinstance(rule, BatchSizeWrapper):
        rule = rule.within
    return rule if isinstance(rule, Recipe) else None


def _lr_of(recipe: Recipe, given: LRRule) -> LRRule:
    """The recipe's lr rule, with the base rate and inside the wrappers that `given` consists of."""
    if isinstance(given, Constant):
        return (recipe if given.lr is None else recipe.with_lr(given.lr)).lr_rule
    if isinstance(given, WarmUp | MomentumSchedule):
        return replace(given, rule=_lr_of(recipe, given.within))
    if given == recipe.lr_rule:
        return given
    raise InputError(
        f"lr={write_rule(given)!r} is given beside batch_size={write_rule(recipe)!r}, a recipe, which sets the "
        "learning rate itself: leave lr out, give a number (the base rate) or 'warm-up', or choose another rule."
    )


def _around(rule: BatchSizeRule, auto: BatchSizeRule) -> BatchSizeRule:
    """A wrapper that was given no rule goes around what "auto" means."""
    if not isinstance(rule, BatchSizeWrapper):
        return rule
    # By identity: a sweet spot that the caller gives is not changed.
    within = auto if rule.rule is UNWRAPPED else _around(rule.within, auto)
    return rule if within is rule.rule else replace(rule, rule=within)


def require_no_scheduler(lr: object) -> None:
    """Raise for a torch scheduler given as the learning rate.

    Raises:
        InputError: it is one; names `per_sample`.
    """
    if isinstance(lr, LRScheduler | ReduceLROnPlateau):
        raise InputError(
            f"lr={type(lr).__name__} is a scheduler that counts steps, whose size changes here: give "
            "lr=rightbatch.per_sample(lambda optimizer: "
            f"{type(lr).__name__}(optimizer, ...), samples=...), which counts samples."
        )


def require_compatible(rate: LRRule, optimizer: torch.optim.Optimizer | None) -> None:
    """Refuse, before anything runs, rules that cannot work together or over this optimizer."""
    if optimizer is not None:
        require_plain_steps(optimizer)
    if rate.searches and optimizer is not None and not isinstance(optimizer, torch.optim.SGD):
        raise UnsupportedError(
            f"The lr rule '{rate.name}' searches along the gradient, but {type(optimizer).__name__} moves in another "
            "direction: use torch.optim.SGD (momentum allowed) or another lr rule."
        )
    if rate.searches and optimizer is not None:
        groups = optimizer.param_groups
        if any(group["maximize"] or group["lr"] != groups[0]["lr"] for group in groups):
            raise UnsupportedError(
                f"The lr rule '{rate.name}' tries one step along the gradient for all parameters; give the optimizer "
                "one learning rate for all its groups, and no maximize, or choose another lr rule."
            )
    if rate.averages and optimizer is not None and averages_itself(optimizer):
        raise UnsupportedError(
            f"The lr rule '{rate.name}' averages the iterates, and so does {type(optimizer).__name__}: give it a "
            "plain optimizer, or choose another lr rule."
        )


def require_enough(size: BatchSizeRule, train_samples: int) -> None:
    """Refuse a fixed batch of more samples than there are."""
    if isinstance(size, Fixed) and size.batch_size > train_samples:
        raise InputError(
            f"The batch size is {size.batch_size}, but there are only {train_samples} samples: give at most as many."
        )


def resolve_noise(noise: object, size: BatchSizeRule, rate: LRRule) -> Noise | None:
    """The noise measurement: the one given, or with None the default one if a rule needs any.

    Raises:
        InputError: unreadable, or not the measurement that the rules need.
        UnsupportedError: the optimizer's metric, if the optimizer steps other tensors than the model's.
    """
    settings = None if noise is None else noise_settings(noise)
    if settings is not None and settings.preconditioned and rate.averages:
        raise UnsupportedError(
            f"preconditioned=True uses the optimizer's state for the model's parameters, but under the lr rule "
            f"'{rate.name}' it steps averaged ones: choose another lr rule, or drop preconditioned=True."
        )
    always = [rule.name for rule in (size, rate) if Needs.EVERY_BATCH in rule.needs]
    if not always:
        return settings or (Noise() if Needs.NOISE in size.needs | rate.needs else None)
    if settings is not None and settings.every not in (None, 1):
        raise InputError(
            f"noise={str(settings)!r} measures every {settings.every} steps, but the rule '{always[0]}' needs a "
            "measurement of every batch: drop `every`."
        )
    return replace(settings or Noise(), every=1)
