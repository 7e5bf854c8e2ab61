"""`rightbatch study`."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, MissingExtraError
from .options import option, print_section
from .train import INTERRUPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCommand:
    """Run an experiment on what batch size does, on its classic problem or on your own, and write its page."""

    name: str = option("list", "the experiment, all, or list to print them", positional=True, nargs="?", metavar="NAME")
    data: str | None = option(None, "as for train (default: the classic problem of the study)", metavar="DATA")
    model: str | None = option(None, "as for train (default: the model of the classic problem)", metavar="NAME")
    target_column: str | None = option(
        None, "the column (table) or key (.npz) to predict (default: as for train)", metavar="NAME"
    )
    budget: str | None = option(
        None, "time limit, such as 90s, 5m or 1h; runs fewer trials (default: no limit)", metavar="TIME"
    )
    folder: str | None = option(
        None, "output folder; rerun to resume (default: studies/<experiment>-<data>-<model>)", metavar="DIR"
    )
    processes: int | None = option(None, "number of parallel processes (default: one per core)", type=int, metavar="N")

    def run(self) -> int:
        """Study, or print what there is to study."""
        from dataclasses import replace

        from ..studies import EXPERIMENTS, study

        if self.name == "list":
            print_section("study", {name: experiment.question for name, experiment in EXPERIMENTS.items()})
            return 0
        if self.name != "all" and self.name not in EXPERIMENTS:
            raise InputError(f"There is no experiment {self.name!r}: give {', '.join(EXPERIMENTS)}, all or list.")
        budget_s = None if self.budget is None else _seconds(self.budget)
        chosen = list(EXPERIMENTS) if self.name == "all" else [self.name]
        started = time.monotonic()
        for place, name in enumerate(chosen):
            experiment = EXPERIMENTS[name]()
            subject = experiment.classic
            if self.data is not None:
                subject = replace(subject, data=self.data, target=self.target_column)
            if self.model is not None:
                subject = replace(subject, model=self.model)
            folder = self.folder if self.folder is None or len(chosen) == 1 else Path(self.folder) / name
            share = None
            if budget_s is not None:  # an even part of the remaining time
                share = max(0.0, (budget_s - (time.monotonic() - started)) / (len(chosen) - place))
            try:
                done = study(experiment, subject, folder=folder, budget_s=share, processes=self.processes)
            except (InputError, MissingExtraError) as error:
                if len(chosen) == 1:
                    raise
                print(f"{name} is skipped: {error}", file=sys.stderr)  # it does not suit this data or model
                continue
            if done.stopped.startswith("stopped"):
                return INTERRUPTED
        return 0


def _seconds(text: str) -> float:
    """Seconds in a text such as 90, 90s, 5m or 1h."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        return float(number) * unit
    except ValueError:
        raise InputError(
            f"--budget {text!r} is not a valid duration: give seconds, or a number with s, m or h, as in 5m."
        ) from None
