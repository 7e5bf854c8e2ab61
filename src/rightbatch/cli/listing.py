"""`rightbatch list`."""

from dataclasses import dataclass

from .options import option, print_section, summary
from .problem import DATA
from .train import OPTIMIZERS

TITLES = {"batch-size": "--batch-size", "lr": "--lr", "part": "parts of lr rules"}  # of the catalogue's kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class ListCommand:
    """List the built-in data, models, rules and optimizers; `list rules` describes the rules in detail."""

    what: str = option(
        "all",
        "all: a line each; rules: what each does and measures, and its paper",
        positional=True,
        nargs="?",
        choices=("all", "rules"),
        metavar="WHAT",
    )

    def run(self) -> int:
        """Print each with one line, or the rules with a few."""
        from ..rules.catalogue import catalogue

        if self.what == "rules":
            for kind, entries in catalogue().items():
                print(TITLES[kind], *entries, sep="\n")
            return 0

        from ..models import MODELS
        from ..noise.methods import METHODS

        automatic = {
            "batch-size": {"auto": "horizon beside the lr rule auto, else sweet-spot"},
            "lr": {"auto": "tournament: nothing to tune"},
        }
        print_section("--data", DATA)
        print_section("--model", {name: summary(model) for name, model in MODELS.items()})
        for kind, entries in catalogue().items():
            print_section(TITLES[kind], automatic.get(kind, {}) | {entry.name: entry.line for entry in entries})
        auto_noise = {"auto": "the first of these that the model permits, by default for 3 % of the time"}
        print_section("--noise", auto_noise | {name: method.summary for name, method in METHODS.items()})
        print_section(
            "--optimizer",
            {
                name: ", ".join([f"torch.optim.{cls}", *(f"{k} {v}" for k, v in settings.items())])
                for name, (cls, settings) in OPTIMIZERS.items()
            },
        )
        return 0
