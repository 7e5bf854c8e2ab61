"""From what a caller writes ("auto", 128, "armijo", a rule) to rules that fit each other and the optimizer."""

from dataclasses import replace

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..decision import BatchSizeRule, LRRule, Needs
from ..errors import InputError, UnsupportedError
from ..noise import Noise, noise_settings
from ..rules.batch_size import Fixed, SweetSpot, batch_size_rule
from ..rules.lr import AveragedDistance, Constant, lr_rule
from ..rules.wrappers.batch_size_wrapper import UNWRAPPED, Wrapper
from .optimizer_settings import averages_itself

# Averaging removes most of the noise that is measured where the gradient is taken, so B_noise says less here. Three
# half-performance batches run at 3/4 of the peak speed and eight at 8/9: beyond, hardly anything is to be gained.
SWEET_SPOT_WHEN_AVERAGING = SweetSpot(floor=3.0, ceiling=8.0)


def resolve_step(step: object) -> LRRule:
    """The step rule meant: "auto" is `AveragedDistance`, None leaves the optimizer's own learning rate alone."""
    if step is None:
        return Constant()
    if isinstance(step, str) and step == "auto":
        return AveragedDistance()
    return lr_rule(step)


def resolve_batch(batch: object, step: LRRule) -> BatchSizeRule:
    """The batch rule meant: "auto" is `SweetSpot`, with the bounds that suit averaging where `step` averages.

    A rule around a rule that was given none goes around the same.
    """
    if isinstance(batch, str) and batch == "auto":
        return SWEET_SPOT_WHEN_AVERAGING if step.averages else SweetSpot()
    rule = batch_size_rule(batch)
    return _around_what_suits_averaging(rule) if step.averages else rule


def _around_what_suits_averaging(rule: BatchSizeRule) -> BatchSizeRule:
    if not isinstance(rule, Wrapper):
        return rule
    # By identity: a sweet spot that the caller has written down is left as it is.
    within = SWEET_SPOT_WHEN_AVERAGING if rule.rule is UNWRAPPED else _around_what_suits_averaging(rule.within)
    return rule if within is rule.rule else replace(rule, rule=within)


def resolve(batch_size: object, lr: object) -> tuple[BatchSizeRule, LRRule]:
    """The rules meant for the batch size and the learning rate."""
    lr_rule = resolve_step(lr)
    return resolve_batch(batch_size, lr_rule), lr_rule


def require_no_scheduler(lr: object) -> None:
    """Raise for a torch scheduler given as the learning rate.

    Raises:
        InputError: it is one; names `per_sample`.
    """
    if isinstance(lr, LRScheduler | ReduceLROnPlateau):
        raise InputError(
            f"lr={type(lr).__name__} is a scheduler that counts steps, whose size changes here: give "
            "lr=rightbatch.loop.per_sample(lambda optimizer: "
            f"{type(lr).__name__}(optimizer, ...), samples=...), which counts samples."
        )


def require_compatible(step: LRRule, optimizer: torch.optim.Optimizer | None) -> None:
    """Refuse, before anything runs, rules that cannot work together or over this optimizer."""
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"optimizer must be a torch.optim.Optimizer, got {optimizer!r}.")
    if step.searches and optimizer is not None and not isinstance(optimizer, torch.optim.SGD):
        raise UnsupportedError(
            f"The step rule '{step.name}' searches along the gradient, but {type(optimizer).__name__} moves in another "
            "direction; use torch.optim.SGD (momentum allowed) or another step rule."
        )
    if step.searches and optimizer is not None:
        groups = optimizer.param_groups
        if any(group["maximize"] or group["lr"] != groups[0]["lr"] for group in groups):
            raise UnsupportedError(
                f"The step rule '{step.name}' tries one step along the gradient for all parameters; give the optimizer "
                "one learning rate for all its groups, and no maximize, or choose another step rule."
            )
    if step.averages and optimizer is not None and averages_itself(optimizer):
        raise UnsupportedError(
            f"The step rule '{step.name}' averages the iterates, and so does {type(optimizer).__name__}: give it a "
            "plain optimizer, or choose another step rule."
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UnsupportedError("torch.optim.LBFGS evaluates the loss itself; use SGD with lr='armijo' instead.")


def require_enough(size: BatchSizeRule, train_samples: int) -> None:
    """Refuse a fixed batch of more samples than there are."""
    if isinstance(size, Fixed) and size.batch_size > train_samples:
        raise InputError(f"A batch of {size.batch_size} was asked for, but there are only {train_samples} samples.")


def resolve_noise(noise: object, size: BatchSizeRule, step: LRRule) -> Noise | None:
    """The measurement meant: None brings one where a rule needs it, and one that is given is always made.

    Raises:
        InputError: no way to measure, or not the one that the rules need.
        UnsupportedError: the optimizer's metric, where the optimizer steps other tensors than the model's.
    """
    settings = None if noise is None else noise_settings(noise)
    if settings is not None and settings.preconditioned and step.averages:
        raise UnsupportedError(
            f"preconditioned=True looks at the optimizer's state for the model's parameters, but the step rule "
            f"'{step.name}' has it step others, which it averages; choose another step rule, or leave it out."
        )
    always = [rule.name for rule in (size, step) if Needs.EVERY_BATCH in rule.needs]
    if not always:
        return settings or (Noise() if Needs.NOISE in size.needs | step.needs else None)
    if settings is not None and settings.every not in (None, 1):
        raise InputError(
            f"noise={str(settings)!r} measures every {settings.every} steps, but the rule '{always[0]}' needs a "
            "measurement of every batch: leave `every` out."
        )
    return replace(settings or Noise(), every=1)
