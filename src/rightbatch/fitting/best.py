"""The best iterate so far, by validation."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..loop.distributed.sharding import gather_full, model_state_like
from .stopping import Budget


class BestIterate:
    """Keeps the state of the model at its best evaluation.

    Args:
        budget: whose targets say what is best: the least validation loss, unless something else is the only target.
    """

    def __init__(self, budget: Budget) -> None:
        self._criterion = budget.criterion
        self.row: dict[str, Any] = {}
        self.state: dict[str, Tensor] = {}
        self.worse_evaluations = 0

    def offer(self, row: Mapping[str, Any], model: nn.Module) -> bool:
        """An evaluation was made, the model holding the iterate; whether it is the best."""
        best = not self.row or self._value(row) < self._value(self.row)
        self.worse_evaluations = 0 if best else self.worse_evaluations + 1
        if best:
            self.row = dict(row)
            self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        return best

    def cost(self, found: Mapping[str, float]) -> float:
        """The criterion, less being better, of what `evaluate` has found."""
        return self._criterion.cost(found.get(self._criterion.name.removeprefix("valid_")))

    def _value(self, row: Mapping[str, Any]) -> float:
        return self._criterion.cost(row.get(self._criterion.name))

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs; of a sharded model all processes must ask for it."""
        return {"row": self.row, "state": gather_full(self.state), "worse_evaluations": self.worse_evaluations}

    def load_state_dict(self, state: Mapping[str, Any], model: nn.Module) -> None:
        """Continue from `state`, whose tensors go where the model's are."""
        device = next(model.parameters()).device
        self.row, self.worse_evaluations = dict(state["row"]), state["worse_evaluations"]
        self.state = model_state_like(model, {k: v.to(device) for k, v in state["state"].items()})
