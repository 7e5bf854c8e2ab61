"""Which of the iterates is evaluated and shipped: the last one, or an average of the last ones."""

from collections.abc import Callable, Mapping

from ..data import Sample, Source
from ..loop.auto_batch import AutoBatch
from ..loop.update import LAST

CHOICE_SAMPLES = 1024  # of the validation data


class IterateChoice:
    """Chooses by validation, on samples that are always the same.

    Args:
        auto: the loop.
        valid: the validation data.
        evaluated: evaluates the model on data.
        cost: what is to be least, of what was found.
    """

    def __init__(
        self,
        auto: AutoBatch,
        valid: Source | None,
        evaluated: Callable[[Source], dict[str, float]],
        cost: Callable[[Mapping[str, float]], float],
    ) -> None:
        self._auto, self._valid, self._evaluated, self._cost = auto, valid, evaluated, cost
        few = valid is None or len(valid) <= CHOICE_SAMPLES
        self._samples = valid if few else Sample(valid, CHOICE_SAMPLES)  # type: ignore[arg-type]

    def make(self, reports: bool) -> dict[str, float]:
        """Choose, and with `reports` tell the rules the loss of the last iterate.

        Returns:
            What the evaluation of the iterate chosen on all validation data has found; empty if that was not made.
        """
        update = self._auto.update
        if update.averages or self._samples is None:
            return {}
        found = {}
        for name in update.iterates:
            with update.averaged(name):
                found[name] = self._evaluated(self._samples)
        update.shipped = min(found, key=lambda name: self._cost(found[name]))
        if reports:
            self._auto.report_validation(found[LAST]["loss"])
        return found[update.shipped] if self._samples is self._valid else {}
