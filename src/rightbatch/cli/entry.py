"""The commands by name, their parser, and the entry point."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from io import TextIOWrapper

from .._version import __version__
from ..errors import RightbatchError
from ..wording import command_line
from .bench import BenchCommand
from .listing import ListCommand
from .options import Parser, add_argument, summary
from .predict import PredictCommand
from .probe import ProbeCommand
from .study import StudyCommand
from .train import INTERRUPTED, TrainCommand
from .verify import VerifyCommand

Command = ProbeCommand | TrainCommand | PredictCommand | VerifyCommand | ListCommand | StudyCommand | BenchCommand
COMMANDS: dict[str, Callable[..., Command]] = {
    "probe": ProbeCommand,
    "train": TrainCommand,
    "predict": PredictCommand,
    "study": StudyCommand,
    "list": ListCommand,
    "verify": VerifyCommand,
    "bench": BenchCommand,
}


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
        about = summary(command)
        sub = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        for item in fields(command):  # type: ignore[arg-type]  # every command is a dataclass
            add_argument(sub, item)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    0 is success, 1 a failed proof, 2 an error, printed in one sentence, 130 an interruption. Other errors than
    Rightbatch's own are also printed in one sentence; with RIGHTBATCH_TRACEBACK=1 in the environment they are raised.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Greek letters gets question marks, not an error
    values = vars(build_parser().parse_args(arguments))
    command = COMMANDS[values.pop("command")]
    try:
        with command_line():
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
