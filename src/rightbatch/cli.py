"""The command line. Flags are the fields of the dataclasses below; torch is imported once a command needs it."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import datetime
from functools import partial
from io import TextIOWrapper
from itertools import chain, count
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ._version import __version__
from .errors import InputError, MissingExtraError, RightbatchError, RunFolderError

if TYPE_CHECKING:
    import torch

    from .data import Source

DATA = {
    "digits": "1,797 handwritten digits of 8 x 8 pixels, 10 classes",
    "blobs": "1,000 points in the plane around 3 centres",
    "three-blobs": "500 and 500 points in the plane around 3 centres that overlap, of a published experiment",
    "quadratic": "a quadratic loss in 10 dimensions whose gradient noise is known",
}
OPTIMIZERS: dict[str, tuple[str, dict[str, float]]] = {
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "rmsprop": ("RMSprop", {}),
    "adam": ("Adam", {}),
    "adamw": ("AdamW", {}),
}
INTERRUPTED = 130


def option(default: Any, help: str, **argument: Any) -> Any:
    """A field that is a flag: its default, its help and what else `argparse` should know of it."""
    return field(default=default, metadata={"help": help, **argument})


def aim(text: str) -> tuple[str, float]:
    """Read NAME=VALUE."""
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, as in valid_loss=0.3") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What both training and probing need to know."""

    data: str = option("digits", f"{', '.join(DATA)}, or a path: .npz, .csv, .parquet, .arrow, a folder (docs/data.md)")
    target_column: str | None = option(None, "the column (table) or key (.npz) to predict", metavar="NAME")
    text: str = option("error", "text columns of a table", choices=("error", "drop", "ordinal"))
    missing: str = option("error", "missing values of a table", choices=("error", "drop", "mean"))
    model: str = option("mlp", "linear, mlp, cnn, or module:factory", metavar="NAME")
    seed: int = option(0, "random seed: initialization, splits, shuffling", type=int, metavar="N")
    device: str | None = option(None, "cpu, cuda, cuda:1 or mps (default: a GPU if there is one)", metavar="NAME")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe(Problem):
    """Measure and advise: which batch size, in which range, and which learning rate."""

    seconds: float = option(30.0, "time limit in seconds", type=float, metavar="S")
    plot: str | None = option(None, "write a figure of the measurements to this file", metavar="FILE")

    def run(self) -> int:
        """Probe and print the advice."""
        from .probing import probe

        source, _, _, model = _load(self)
        advice = probe(model.to(_device(self.device)), source, seconds=self.seconds)
        print(advice)
        if self.plot is not None:
            advice.plot(self.plot)
            print(f"Drawn in {self.plot}")
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Train(Problem):
    """Train a model and write the run folder with its report."""

    batch_size: str = option(
        "auto", "auto, a number, or a rule such as sweet-spot or 'big-batch(theta=0.5)'", metavar="RULE"
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
    epochs: int | None = option(None, "maximum number of passes over the data", type=int, metavar="N")
    seconds: float | None = option(None, "time limit in seconds", type=float, metavar="S")
    stop_at: Sequence[tuple[str, float]] | None = option(
        None,
        "stop when reached, such as valid_loss=0.3 or valid_accuracy=0.97",
        type=aim,
        nargs="+",
        metavar="NAME=VALUE",
    )
    patience: int | None = option(
        None, "stop after N evaluations without a better validation loss", type=int, metavar="N"
    )
    valid: float = option(
        0.1, "validation fraction, selects the best weights; 0 for none", type=float, metavar="FRACTION"
    )
    eval_every: float = option(1.0, "epochs between evaluations", type=float, metavar="EPOCHS")
    micro_batch: int | None = option(
        None, "maximum number of samples in one forward pass, to save memory", type=int, metavar="N"
    )
    run_dir: str | None = option(None, "run folder (default: runs/<date>-<time>-<data>-<model>)", metavar="FOLDER")
    resume: bool = option(False, "resume the run in --run-dir")
    checkpoint_every: float = option(600.0, "maximum seconds between checkpoints", type=float, metavar="S")
    quiet: bool = option(False, "no progress, only the result")

    def run(self) -> int:
        """Train, and print the result and where the report is."""
        from .noise import noise_settings
        from .rules.batch_size import batch_size_rule
        from .rules.lr import lr_rule

        if self.resume and self.run_dir is None:
            raise InputError("--resume needs --run-dir, the folder of the run to resume.")
        batch_size = self.batch_size if self.batch_size == "auto" else batch_size_rule(self.batch_size)
        lr = self.lr if self.lr == "auto" else lr_rule(self.lr)
        noise = None if self.noise is None else noise_settings(self.noise)

        from .fitting import fit

        train, test, name, model = _load(self)
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
            device=_device(self.device),
            micro_batch=self.micro_batch,
            run_dir=self.run_dir or _new_folder(name, self.model),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """Prove that each sample was consumed exactly once per epoch and the checkpoints are whole; exit code 1 if not."""

    folder: str = field(metadata={"help": "the run folder", "metavar": "RUN", "positional": True})

    def run(self) -> int:
        """Read the ledger and the checkpoints and print what they prove."""
        from .record import RunFolder, verify_ledger
        from .record.checksum import open_verified

        folder = RunFolder.open(self.folder)
        samples = folder.read_config().get("train_samples")
        if not isinstance(samples, int):
            raise RunFolderError(f"{folder.config} does not say train_samples, the number of training samples.")
        report = verify_ledger(folder.ledger, samples)
        proved = report.ok and report.entries > 0
        print(f"{self.folder}: {'proved' if proved else 'not proved'}: {report}")
        for file in (folder.checkpoint, folder.previous_checkpoint):
            if file.exists():
                try:
                    with open_verified(file):
                        print(f"{file}: agrees with its SHA-256 digest")
                except RunFolderError as error:
                    print(error)
                    proved = False
        return 0 if proved else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """List the built-in data, models, rules and optimizers; `list rules` says more of the rules."""

    what: str = option(
        "all",
        "all, a line each; or rules: what each does and measures, and the paper it is from",
        positional=True,
        nargs="?",
        choices=("all", "rules"),
        metavar="WHAT",
    )

    def run(self) -> int:
        """Print each with one line, or the rules with a few."""
        if self.what == "rules":
            from .rules.catalogue import catalogue

            for flag, entries in catalogue().items():
                print(f"--{flag}", *entries, sep="\n")
            return 0

        from .models import MODELS
        from .noise.methods import METHODS
        from .rules.batch_size import BATCH_SIZE_RULES
        from .rules.lr import LR_RULES

        auto_batch_size = {"auto": "sweet-spot, within bounds that suit the lr rule"}
        auto_lr = {"auto": "averaged-distance: nothing to tune"}
        _print_section("data", DATA)
        _print_section("model", {name: _summary(model) for name, model in MODELS.items()})
        _print_section(
            "batch-size", auto_batch_size | {name: _summary(rule) for name, rule in BATCH_SIZE_RULES.items()}
        )
        _print_section("lr", auto_lr | {name: _summary(rule) for name, rule in LR_RULES.items()})
        auto_noise = {"auto": "the first of these that the model permits, by default for 3 % of the time"}
        _print_section("noise", auto_noise | {name: method.summary for name, method in METHODS.items()})
        _print_section(
            "optimizer",
            {
                name: ", ".join([f"torch.optim.{cls}", *(f"{k} {v}" for k, v in settings.items())])
                for name, (cls, settings) in OPTIMIZERS.items()
            },
        )
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Run an experiment on what batch size does, on its classic problem or on your own, and write its page."""

    name: str = option("list", "the experiment, all, or list to print them", positional=True, nargs="?", metavar="NAME")
    data: str | None = option(None, "as for train (default: the classic problem of the study)", metavar="DATA")
    model: str | None = option(None, "as for train (default: the model of the classic problem)", metavar="NAME")
    target_column: str | None = option(None, "the column (table) or key (.npz) to predict", metavar="NAME")
    budget: str | None = option(None, "time limit, such as 90s, 5m or 1h; runs fewer trials", metavar="TIME")
    folder: str | None = option(None, "output folder; rerun to resume", metavar="DIR")
    processes: int | None = option(None, "number of parallel processes (default: one per core)", type=int, metavar="N")

    def run(self) -> int:
        """Study, or print what there is to study."""
        from dataclasses import replace

        from .studies import EXPERIMENTS, study

        if self.name == "list":
            _print_section("study", {name: experiment.question for name, experiment in EXPERIMENTS.items()})
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
            if budget_s is not None:  # an even part of what is left: what one took too long, the others go without
                share = max(0.0, (budget_s - (time.monotonic() - started)) / (len(chosen) - place))
            try:
                done = study(experiment, subject, folder=folder, budget_s=share, processes=self.processes)
            except (InputError, MissingExtraError) as error:
                if len(chosen) == 1:
                    raise
                print(f"{name} is left out: {error}", file=sys.stderr)  # it does not suit this data or model
                continue
            if done.stopped.startswith("stopped"):
                return INTERRUPTED
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Measure this machine: `bench scale`, training in several processes, measured here and simulated beyond."""

    what: str = field(metadata={"help": "scale", "metavar": "WHAT", "choices": ("scale",), "positional": True})
    processes: Sequence[int] = option((1, 2), "to measure here", type=int, nargs="+", metavar="N")
    simulate: Sequence[int] = option((4, 16, 64, 256, 1024), "to simulate", type=int, nargs="*", metavar="N")
    seconds: float = option(3.0, "for each measurement, about", type=float, metavar="S")
    seed: int = option(0, "of the simulations", type=int, metavar="N")

    def run(self) -> int:
        """Measure, simulate and print; exit code 1 if processes have not decided alike."""
        from .scaling import table_of_measured, table_of_simulated

        agree, text = table_of_measured(self.processes, self.seconds)
        print(text)
        if self.simulate:
            print(f"\n{table_of_simulated(self.simulate, self.seed)}")
        return 0 if agree else 1


Command = Probe | Train | Verify | List | Study | Bench
COMMANDS: dict[str, Callable[..., Command]] = {
    "probe": Probe,
    "train": Train,
    "study": Study,
    "list": List,
    "verify": Verify,
    "bench": Bench,
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with exit code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> Parser:
    """The parser of all commands, built from their fields."""
    parser = Parser(
        prog="rightbatch",
        description="Mini-batch size and learning rate from measured gradient noise and measured speed.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rightbatch {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        summary = _summary(command)
        sub = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        for item in fields(command):  # type: ignore[arg-type]  # every command is a dataclass
            _add_argument(sub, item)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    0 is success, 1 a ledger that proves nothing, 2 an error, said in one sentence, 130 an interruption. An error that
    is not Rightbatch's own is said in one sentence too; with RIGHTBATCH_TRACEBACK=1 in the environment it is raised.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Greek letters gets question marks, not an error
    values = vars(build_parser().parse_args(arguments))
    command = COMMANDS[values.pop("command")]
    try:
        code = command(**values).run()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("rightbatch: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone, as with `rightbatch list | head -1`; nothing more may be flushed to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RightbatchError as error:
        print(f"rightbatch: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if os.environ.get("RIGHTBATCH_TRACEBACK"):
            raise
        first_line = (str(error).strip() or "no message").splitlines()[0]
        print(f"rightbatch: {type(error).__name__}: {first_line} (RIGHTBATCH_TRACEBACK=1 shows where)", file=sys.stderr)
        return 2


def _add_argument(parser: argparse.ArgumentParser, item: Field[Any]) -> None:
    argument: dict[str, Any] = dict(item.metadata)
    if argument.pop("positional", False):
        if item.default is not MISSING:
            argument["default"] = item.default
        parser.add_argument(item.name, **argument)
        return
    if item.default is False:
        argument["action"] = "store_true"
    elif item.default is not None:
        argument["help"] += f" (default: {item.default})"
    parser.add_argument("--" + item.name.replace("_", "-"), default=item.default, **argument)


def _load(problem: Problem) -> "tuple[Source, Source | None, str, torch.nn.Module]":
    """Training data, test data where there are such, the data's name, and the model."""
    from .data import load
    from .models import build_model

    splits = load(
        problem.data,
        target=problem.target_column,
        seed=problem.seed,
        text=problem.text,  # type: ignore[arg-type]  # argparse has checked the choice
        missing=problem.missing,  # type: ignore[arg-type]
    )
    source = splits.train
    outputs = prod(source.y_shape) if source.y_dtype.is_floating_point else source.classes
    if outputs is None:
        raise InputError(f"The classes of {problem.data} are not numbered from 0 ({source.describe()}); renumber them.")
    return source, splits.test, splits.name, build_model(problem.model, source.x_shape, outputs, problem.seed)


def _device(name: str | None) -> str:
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return name


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


def _new_folder(data: str, model: str) -> Path:
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{data}-{model.replace(':', '-')}"
    names = chain([name], (f"{name}-{number}" for number in count(2)))  # of the same second, or a clock that went back
    return next(path for path in map(Path("runs").joinpath, names) if not path.exists())


def _summary(described: Any) -> str:
    return (described.__doc__ or "").strip().partition("\n")[0].rstrip(".")


def _print_section(flag: str, entries: dict[str, str]) -> None:
    print(f"--{flag}")
    for name, line in entries.items():
        print(f"  {name:<20}{line}")
