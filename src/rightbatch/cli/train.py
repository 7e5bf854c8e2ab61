"""`rightbatch train`."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .options import option
from .problem import ProblemOptions, device_named, load_problem

if TYPE_CHECKING:
    import torch

OPTIMIZERS: dict[str, tuple[str, dict[str, float]]] = {
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "rmsprop": ("RMSprop", {}),
    "adam": ("Adam", {}),
    "adamw": ("AdamW", {}),
}
INTERRUPTED = 130  # exit code of a run that Ctrl-C ended


def aim(text: str) -> tuple[str, float]:
    """Read NAME=VALUE."""
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, as in valid_loss=0.3") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCommand(ProblemOptions):
    """Train a model and write the run folder with its report."""

    batch_size: str = option(
        "auto", "auto, a number, a rule such as 'big-batch(theta=0.5)', or a recipe such as seesaw", metavar="RULE"
    )
    lr: str = option(
        "auto", "learning rate: auto, a number, or a rule such as armijo or 'cosine(lr=0.1)'", metavar="RULE"
    )
    optimizer: str | None = option(None, "torch optimizer (default: matches the lr rule)", choices=tuple(OPTIMIZERS))
    noise: str | None = option(
        None,
        "how to measure gradient noise, such as 'auto(budget=0.01)' or micro-batch (default: only if a rule needs it)",
        metavar="METHOD",
    )
    epochs: int | None = option(
        None, "maximum number of passes over the data (default: no limit)", type=int, metavar="N"
    )
    seconds: float | None = option(None, "time limit in seconds (default: no limit)", type=float, metavar="S")
    stop_at: Sequence[tuple[str, float]] | None = option(
        None,
        "stop when reached, such as valid_loss=0.3 or valid_accuracy=0.97 (default: never)",
        type=aim,
        nargs="+",
        metavar="NAME=VALUE",
    )
    patience: int | None = option(
        None, "stop after N evaluations without a better validation loss (default: never)", type=int, metavar="N"
    )
    valid: float = option(
        0.1, "validation fraction, selects the best weights; 0 for none", type=float, metavar="FRACTION"
    )
    eval_every: float = option(1.0, "epochs between evaluations", type=float, metavar="EPOCHS")
    micro_batch: int | None = option(
        None,
        "maximum number of samples in one forward pass, to save memory (default: automatic)",
        type=int,
        metavar="N",
    )
    run_dir: str | None = option(None, "run folder (default: runs/<date>-<time>-<data>-<model>)", metavar="FOLDER")
    resume: bool = option(False, "resume the run in --run-dir")
    checkpoint_every: float = option(600.0, "maximum seconds between checkpoints", type=float, metavar="S")
    quiet: bool = option(False, "no progress, only the result")

    def run(self) -> int:
        """Train, and print the result and where the report is."""
        from ..noise import noise_settings
        from ..rules.batch_size import batch_size_rule
        from ..rules.lr import lr_rule

        if self.resume and self.run_dir is None:
            raise InputError("--resume needs --run-dir, the folder of the run to resume.")
        batch_size = self.batch_size if self.batch_size == "auto" else batch_size_rule(self.batch_size)
        lr = self.lr if self.lr == "auto" else lr_rule(self.lr)
        noise = None if self.noise is None else noise_settings(self.noise)

        from ..fitting import fit

        train, test, name, model = load_problem(self)
        run = fit(
            model,
            train,
            valid=self.valid or None,
            test=test,
            batch_size=batch_size,
            lr=lr,
            optimizer=self._optimizer(),
            epochs=self.epochs,
            seconds=self.seconds,
            stop_at=dict(self.stop_at) if self.stop_at else None,
            patience=self.patience,
            eval_every=self.eval_every,
            seed=self.seed,
            device=device_named(self.device),
            micro_batch=self.micro_batch,
            run_dir=self.run_dir or new_folder(name, self.model),
            resume=self.resume,
            checkpoint_every=self.checkpoint_every,
            progress=False if self.quiet else None,
            noise=noise,
        )
        if self.quiet:
            print(f"Stopped: {run.stopped}")
            print(f"Run folder: {run.folder}")
        return INTERRUPTED if run.stopped == "interrupted" else 0

    def _optimizer(self) -> "Callable[[Any], torch.optim.Optimizer] | None":
        if self.optimizer is None:
            return None
        import torch

        name, settings = OPTIMIZERS[self.optimizer]
        return partial(getattr(torch.optim, name), **settings)


def new_folder(data: str, model: str) -> Path:
    """A run folder that does not exist yet, named for the time, the data and the model."""
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{data}-{model.replace(':', '-')}"
    names = chain([name], (f"{name}-{number}" for number in count(2)))  # two in one second, or a clock set back
    return next(path for path in map(Path("runs").joinpath, names) if not path.exists())
