"""Help, version and list: complete, and without loading torch."""

import os
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

import rightbatch
from rightbatch import cli
from rightbatch.cli.problem import DATA
from rightbatch.cli.train import OPTIMIZERS, TrainCommand
from rightbatch.data import opening
from rightbatch.rules.batch_size import BATCH_SIZE_RULES
from rightbatch.rules.lr import LR_RULES
from rightbatch.rules.recipes import RECIPES

SOURCE = Path(cli.__file__).parents[2]


def run_and_list_modules(*arguments: str) -> tuple[str, set[str]]:
    """Run the command line in a fresh process; return what it printed and the modules it had loaded at its end."""
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('LOADED', *sys.modules))\n"
        "from rightbatch.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONIOENCODING": "utf-8"},
    )
    printed, _, loaded = done.stdout.rpartition("LOADED")
    return printed, set(loaded.split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["list"], ["list", "rules"], *([name, "--help"] for name in cli.COMMANDS)]
)
def test_answers_without_torch(arguments: list[str]) -> None:
    printed, loaded = run_and_list_modules(*arguments)
    assert printed
    assert not {"torch", "pandas", "matplotlib"} & loaded


def test_importing_the_package_loads_no_torch() -> None:
    program = "import sys, rightbatch; dir(rightbatch); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": str(SOURCE)})


def test_every_public_name_is_there() -> None:
    for name in rightbatch.__all__:
        assert getattr(rightbatch, name) is not None
    assert set(rightbatch.__all__) <= set(dir(rightbatch))


def test_probe_stays_the_function_after_its_module_is_imported() -> None:
    import rightbatch.probing

    assert callable(rightbatch.probe)
    assert rightbatch.probe is rightbatch.probing.probe


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = rightbatch.nonsense


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_field_is_a_flag_with_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    for item in fields(cli.COMMANDS[name]):
        flag = item.metadata["metavar"] if item.metadata.get("positional") else "--" + item.name.replace("_", "-")
        assert flag in printed
        assert item.metadata["help"]
    stated = " ".join(printed.split()).count("(default: ")
    assert stated == sum(
        item.default is not MISSING and item.default is not False for item in fields(cli.COMMANDS[name])
    )


def test_flags_and_fields_have_the_same_defaults() -> None:
    values = vars(cli.build_parser().parse_args(["train"]))
    assert values.pop("command") == "train"
    assert TrainCommand(**values) == TrainCommand()


def test_list_names_everything_built_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    entries = [re.fullmatch(r"  (\S+)  +(\S.*)", line) for line in lines if line.startswith("  ")]
    assert all(entries), "a name, at least two spaces, a text"
    names = {entry[1] for entry in entries if entry}
    assert names >= {*opening.BUILT_IN, "linear", "mlp", "cnn", "auto", "fixed", "big-batch", "sweet-spot"}
    assert names >= {"constant", "armijo", "barzilai-borwein", "noise-scaled", *OPTIMIZERS}
    assert names >= {*BATCH_SIZE_RULES, *LR_RULES, "range-test"}
    recipes = {entry[1] for entry in entries if entry and "sets lr too" in entry[2]}
    assert recipes == set(RECIPES)


def test_built_in_data_are_those_that_can_be_loaded() -> None:
    assert tuple(DATA) == opening.BUILT_IN
