"""The learning rates of an optimizer's parameter groups, moved together."""

import torch

WORTH_TELLING = 1.1  # by what factor the rate must have changed


class LearningRates:
    """Sets the rate of the first parameter group and keeps the ratios of the others to it.

    Args:
        optimizer: as the caller has set it up.

    Attributes:
        present: the rate of the first group when it was last set or left alone.
        told: the one last told.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self.present = self.told = base = float(optimizer.param_groups[0]["lr"])
        self._ratios = [float(group["lr"]) / base if base else 1.0 for group in optimizer.param_groups]

    def set(self, rate: float | None, cut: float = 1.0) -> None:
        """Set the rate, times `cut`; None leaves it as it is."""
        if rate is not None:
            for group, ratio in zip(self._optimizer.param_groups, self._ratios, strict=True):
                group["lr"] = rate * ratio * cut
        self.present = float(self._optimizer.param_groups[0]["lr"])

    def scale(self, factor: float) -> None:
        """Multiply all rates."""
        for group in self._optimizer.param_groups:
            group["lr"] *= factor
        self.set(None)

    def reread(self) -> None:
        """Take the optimizer's rates as they are."""
        self.set(None)
        self.told = self.present

    @property
    def worth_telling(self) -> bool:
        """Whether the rate has changed by more than 10 % since it was last told."""
        return not self.told / WORTH_TELLING <= self.present <= self.told * WORTH_TELLING
