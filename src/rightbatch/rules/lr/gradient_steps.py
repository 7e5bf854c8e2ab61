"""Step sizes that mean something for steps along the gradient only."""

from ...decision import Plan
from ...errors import UnsupportedError


def require_gradient_steps(name: str, plan: Plan) -> None:
    """Refuse an optimizer that does not step along the gradient; one that is not known passes.

    Raises:
        UnsupportedError: its class is not SGD, nor one of its kin by its name; Schedule-Free SGD averages.
    """
    name_of = plan.optimizer.upper()
    if name_of and ("SGD" not in name_of or "SCHEDULEFREE" in name_of):
        raise UnsupportedError(
            f"The step rule '{name}' works out the length of a step along the gradient, but {plan.optimizer} moves in "
            "another direction; use torch.optim.SGD (momentum allowed) or another step rule."
        )
