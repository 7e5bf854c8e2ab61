"""`rightbatch bench`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .options import option


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCommand:
    """Measure this machine: `bench scale`, training in several processes, measured here and simulated beyond."""

    what: str = field(metadata={"help": "scale", "metavar": "WHAT", "choices": ("scale",), "positional": True})
    processes: Sequence[int] = option((1, 2), "numbers of processes to measure here", type=int, nargs="+", metavar="N")
    simulate: Sequence[int] = option(
        (4, 16, 64, 256, 1024), "numbers of processes to simulate", type=int, nargs="*", metavar="N"
    )
    seconds: float = option(3.0, "approximate time of each measurement, in seconds", type=float, metavar="S")
    seed: int = option(0, "random seed of the simulations", type=int, metavar="N")

    def run(self) -> int:
        """Measure, simulate and print; exit code 1 if the processes decided differently."""
        from ..scaling import table_of_measured, table_of_simulated

        agree, text = table_of_measured(self.processes, self.seconds)
        print(text)
        if self.simulate:
            print(f"\n{table_of_simulated(self.simulate, self.seed)}")
        return 0 if agree else 1
