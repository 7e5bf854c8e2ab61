"""How a run measures its gradient noise: by which method, and how much of its time that may take."""

from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..ranges import require_choice, require_number, require_whole
from ..rule_text import read_rule, write_rule
from .methods import METHODS


@dataclass(frozen=True, slots=True)
class Noise:
    """The settings of the measurement.

    A budget is a share of the run's time: the run times its own steps, with and without a measurement, and measures as
    often as the budget allows. How often that is depends on the machine; `every` fixes it instead, so that two runs
    measure the same steps.

    Args:
        method: "auto", the best that the model permits, or one of `METHODS`. A method named is refused where the model
            does not permit it; "auto" goes on to the next and records why.
        budget: share of the run's time that measuring may add.
        every: steps between measurements, in place of the budget; 1 measures every step.
        audit_every: measurements between two audits, in which an estimate is held against exact norms; 0 for none.
        preconditioned: measure the noise of P g_i, P the optimizer's own diagonal preconditioner, in place of g_i.
        groups: micro-batches compared by "micro-batch".
        probes: random signs drawn for each sample by "sketch".
        subset: samples looked at by "subset".

    Raises:
        InputError: a setting out of its range.
    """

    method: str = "auto"
    budget: float = 0.03
    every: int | None = None
    audit_every: int = 0
    preconditioned: bool = False
    groups: int = 4
    probes: int = 1
    subset: int = 32

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_choice("Noise.method", self.method, ("auto", *METHODS))
        require_number("Noise.budget", self.budget, above=0, most=1)
        if self.every is not None:
            require_whole("Noise.every", self.every, least=1)
        require_whole("Noise.audit_every", self.audit_every, least=0)
        if not isinstance(self.preconditioned, bool):
            raise InputError(f"Noise.preconditioned is {self.preconditioned!r}: give True or False.")
        require_whole("Noise.groups", self.groups, least=2)
        require_whole("Noise.probes", self.probes, least=1)
        require_whole("Noise.subset", self.subset, least=2)

    def __str__(self) -> str:
        """The text that `noise_settings` reads."""
        return write_rule(self, named="method")


def noise_settings(spec: Any) -> Noise:
    """The settings that `spec` means.

    Args:
        spec: the name of a method, "auto" among them, or a name with settings such as "auto(budget=0.01)" or
            "micro-batch(groups=8, every=1)", or `Noise`, which is returned as it is.

    Raises:
        InputError: it means none; names the methods there are.
    """
    if isinstance(spec, Noise):
        return spec
    names = dict.fromkeys(("auto", *METHODS), Noise)
    if isinstance(spec, str):
        return read_rule(spec, names, "noise", named="method")
    raise InputError(
        f"noise={spec!r} is no way to measure: give one of {', '.join(map(repr, names))}, with settings as in "
        "'auto(budget=0.01)', or Noise(...)."
    )
