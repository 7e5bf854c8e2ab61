"""`rightbatch probe`."""

from dataclasses import dataclass

from .options import option
from .problem import ProblemOptions, device_named, load_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCommand(ProblemOptions):
    """Measure and advise: which batch size, in which range, and which learning rate."""

    seconds: float = option(30.0, "time limit in seconds", type=float, metavar="S")
    plot: str | None = option(
        None, "write a figure of the measurements to this file (default: no figure)", metavar="FILE"
    )

    def run(self) -> int:
        """Probe and print the advice."""
        from ..probing import probe

        source, _, _, model = load_problem(self)
        advice = probe(model.to(device_named(self.device)), source, seconds=self.seconds)
        print(advice)
        if self.plot is not None:
            advice.plot(self.plot)
            print(f"Figure: {self.plot}")
        return 0
