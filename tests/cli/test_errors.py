"""Bad input: one sentence on stderr, exit code 2, no traceback, nothing written."""

import subprocess
import sys
from pathlib import Path

import pytest

from rightbatch import cli
from rightbatch.errors import InputError
from rightbatch.models import build_model


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command line, which must refuse; return the sentence."""
    try:
        code = cli.main(arguments)
    except SystemExit as end:  # argparse's way
        assert isinstance(end.code, int)
        code = end.code
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.startswith("rightbatch")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "COMMAND"),
        ("paint", "paint"),
        ("train --epoch 3", "--epoch 3"),
        ("train --epochs three", "--epochs"),
        ("train --optimizer lion", "sgd"),
        ("train --stop-at valid_loss", "valid_loss=0.3"),
        ("train --stop-at valid_loss=low", "valid_loss=0.3"),
        ("train --text keep", "drop"),
        ("train --resume", "--run-dir"),
        ("train --learning-rate 0.1", "--learning-rate 0.1"),
        ("train --batch-size bigbatch", "big-batch"),
        ("train --batch-size 0", "0"),
        ("train --batch-size -4", "-4"),
        ("train --batch-size 2.5", "2.5"),
        ("train --batch-size big-batch(theta=2)", "theta"),
        ("train --lr armjo", "armijo"),
        ("train --lr 0", "0"),
        ("train --lr nan", "nan"),
        ("train --data nowhere.csv", "nowhere.csv"),
        ("train --data blobs --model cnn", "cnn expects images"),
        ("train --data blobs --model own", "module:factory"),
        ("train --data blobs --model own:net", "own"),
        ("train --data blobs --device warp", "warp"),
        ("train --data blobs --seconds 0", "seconds"),
        ("train --data blobs --epochs -1", "epochs"),
        ("train --data blobs --eval-every 0", "eval_every"),
        ("train --data blobs --valid 1.5", "1.5"),
        ("train --data blobs --valid 0 --stop-at valid_loss=0.1", "valid"),
        ("train --data blobs --stop-at test_loss=0.1", "valid_accuracy"),
        ("train --data blobs --batch-size 100000", "100000"),
        ("train --data blobs --micro-batch 0", "micro_batch"),
        ("train --data blobs --optimizer adam --lr armijo", "SGD"),
        ("train --data blobs --optimizer sgd --lr -1", "-1"),
        ("probe --data blobs --seconds 0", "seconds"),
        ("verify", "RUN"),
        ("verify nowhere", "nowhere does not exist"),
        ("verify .", "no run"),
    ],
)
def test_refusal(
    arguments: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *arguments.split())
    assert not list(tmp_path.iterdir()), "a refusal leaves nothing behind"


def test_run_folder_that_is_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    assert "taken" in refused(capsys, "train", "--data", "blobs", "--run-dir", str(tmp_path / "taken"))
    assert (tmp_path / "taken").read_text() == "mine"


def test_damaged_ledger(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"train_samples": 10}')
    (tmp_path / "ledger.txt").write_text("0 0 0 ten\n")
    assert "line 1 is damaged" in refused(capsys, "verify", str(tmp_path))


def test_config_without_the_number_of_samples(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "train_samples" in refused(capsys, "verify", str(tmp_path))


@pytest.mark.parametrize(
    ("ledger", "code", "says"),
    [
        ("0 0 0 10\n1 1 0 4\n", 0, "proved: 1 complete epoch of 10 samples and the first 4"),
        ("0 0 0 6\n1 0 5 10\n", 1, "not proved"),
        ("0 0 0 6\n1 0 7 10\n", 1, "not proved"),
        ("", 1, "not proved"),
    ],
)
def test_verdict_of_a_ledger(
    ledger: str, code: int, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"train_samples": 10}')
    (tmp_path / "ledger.txt").write_text(ledger)
    assert cli.main(["verify", str(tmp_path)]) == code
    assert says in capsys.readouterr().out


def test_foreign_error_is_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the disk is on fire\nand more lines")

    monkeypatch.setattr("rightbatch.models.build_model", fail)
    assert "RuntimeError: the disk is on fire (" in refused(capsys, "probe", "--data", "blobs")
    monkeypatch.setenv("RIGHTBATCH_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="disk"):
        cli.main(["probe", "--data", "blobs"])


def test_interruption_has_its_own_code(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rightbatch.models.build_model", interrupt)
    assert cli.main(["probe", "--data", "blobs"]) == 130
    assert capsys.readouterr().err == "rightbatch: interrupted\n"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    program = "import sys; from rightbatch.cli import main; sys.exit(main(['list']))"
    command = [sys.executable, "-c", program]
    environment = {"PYTHONPATH": str(Path(cli.__file__).parents[2]), "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_letters_the_terminal_lacks_are_no_error() -> None:
    program = "import sys; from rightbatch.cli import main; sys.exit(main(['list']))"
    environment = {"PYTHONPATH": str(Path(cli.__file__).parents[2]), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment)
    assert b"sweet-spot" in done.stdout


def test_model_errors_are_input_errors() -> None:
    with pytest.raises(InputError):
        build_model("", (2,), 2)
