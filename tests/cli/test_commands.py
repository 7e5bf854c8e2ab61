"""The commands from end to end, on small data."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from rightbatch import cli
from rightbatch.cli import train as train_command
from rightbatch.record import RunFolder, RunLock


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(*arguments: str) -> int:
    return cli.main(["train", "--quiet", "--run-dir", "run", *arguments])


def steps(folder: str = "run") -> list[dict[str, object]]:
    events = Path(folder, "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, events) if event["kind"] == "step"]


def test_train_then_verify_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--data", "digits", "--model", "mlp", "--epochs", "3") == 0
    printed = capsys.readouterr()
    assert "3 epochs" in printed.out
    assert "run" in printed.out
    assert printed.err == ""
    folder = RunFolder.open("run")
    for file in (folder.config, folder.events, folder.ledger, folder.checkpoint, folder.model, folder.report):
        assert file.stat().st_size > 0, file.name
    assert cli.main(["verify", "run"]) == 0
    assert "proved: 3 complete epochs" in capsys.readouterr().out


def test_a_ledger_that_lost_a_line_proves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--data", "blobs", "--model", "linear", "--batch-size", "32", "--epochs", "2") == 0
    ledger = Path("run/ledger.txt")
    lines = ledger.read_text().splitlines(keepends=True)
    del lines[len(lines) // 2]
    ledger.write_text("".join(lines))
    capsys.readouterr()
    assert cli.main(["verify", "run"]) == 1
    assert "missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        "--batch-size 64 --lr 0.05",
        "--batch-size big-batch(theta=0.5) --lr armijo",
        "--batch-size big-batch --lr barzilai-borwein",
        "--batch-size sweet-spot --lr noise-scaled(lr=0.1)",
        "--batch-size 50 --optimizer momentum --lr 0.02",
        "--batch-size sweet-spot --optimizer adamw --lr 0.003",
        "--batch-size fixed(32) --lr constant(lr=0.003) --optimizer rmsprop --micro-batch 7",
    ],
)
def test_rules_by_name_learn_blobs(flags: str) -> None:
    assert train("--data", "blobs", "--model", "linear", "--epochs", "6", *flags.split()) == 0
    losses = [float(str(step["train_loss"])) for step in steps()]
    assert np.mean(losses[-5:]) < np.mean(losses[:2])
    assert cli.main(["verify", "run"]) == 0


def test_the_learning_rate_of_another_optimizer() -> None:
    flags = ("--batch-size", "50", "--optimizer", "adam", "--lr", "0.004", "--epochs", "1")
    assert train("--data", "blobs", *flags) == 0
    assert {step["lr"] for step in steps()} == {0.004}


def test_until_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--data", "blobs", "--model", "mlp", "--epochs", "100", "--stop-at", "valid_accuracy=0.5") == 0
    assert "valid_accuracy" in capsys.readouterr().out
    assert float(str(steps()[-1]["epoch"])) < 100


def test_without_validation() -> None:
    assert train("--data", "blobs", "--valid", "0", "--batch-size", "100", "--epochs", "1") == 0
    assert RunFolder.open("run").read_config()["train_samples"] == 800


def test_table_with_a_target_column() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3))
    rows = np.column_stack([x, x @ [1.0, -2.0, 0.5]])
    np.savetxt("table.csv", rows, delimiter=",", header="a,b,c,price", comments="")
    assert train("--data", "table.csv", "--target-column", "price", "--model", "linear", "--epochs", "5") == 0
    assert RunFolder.open("run").read_config()["train_samples"] == 270


def test_own_model() -> None:
    Path("own_net.py").write_text("from torch import nn\ndef net(outputs):\n    return nn.Linear(2, outputs)\n")
    assert train("--data", "blobs", "--model", "own_net:net", "--epochs", "1") == 0


def test_default_folder_is_named_for_the_run() -> None:
    assert cli.main(["train", "--quiet", "--data", "blobs", "--model", "linear", "--epochs", "1"]) == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.endswith("-blobs-linear")


def test_a_default_folder_is_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs begun in one second, or after the clock went back."""

    class Standing(datetime):
        @classmethod
        def now(cls, zone: object = None) -> "Standing":
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(train_command, "datetime", Standing)
    names = []
    for _ in range(3):
        folder = train_command.new_folder("blobs", "own:net")
        folder.mkdir(parents=True)
        names.append(folder.name)
    first = "20260102-030405-blobs-own-net"
    assert names == [first, f"{first}-2", f"{first}-3"]


def test_a_damaged_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--data", "blobs", "--model", "linear", "--batch-size", "32", "--lr", "0.1", "--checkpoint-every", "1e-6")
    assert train(*flags, "--epochs", "1") == 0
    assert cli.main(["verify", "run"]) == 0
    printed = capsys.readouterr().out
    assert "checkpoint.pt: agrees with its SHA-256 digest" in printed and "checkpoint.previous.pt: agrees" in printed
    Path("run/checkpoint.pt").write_bytes(Path("run/checkpoint.pt").read_bytes()[:-1])
    assert cli.main(["verify", "run"]) == 1
    assert "checkpoint.pt is damaged" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="resuming from checkpoint.previous.pt"):
        assert train(*flags, "--epochs", "2", "--resume") == 0
    assert cli.main(["verify", "run"]) == 0


def test_a_folder_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    held = RunLock(RunFolder(Path(".")).lock)
    assert cli.main(["train", "--quiet", "--run-dir", ".", "--data", "blobs", "--epochs", "1"]) == 2
    assert f"process {os.getpid()} " in capsys.readouterr().err
    held.release()


def test_existing_run_needs_resume(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--data", "blobs", "--model", "linear", "--batch-size", "32", "--lr", "0.1")
    assert train(*flags, "--epochs", "1") == 0
    capsys.readouterr()
    assert train(*flags, "--epochs", "2") == 2
    assert "resume" in capsys.readouterr().err
    assert train(*flags, "--epochs", "2", "--resume") == 0
    capsys.readouterr()
    assert cli.main(["verify", "run"]) == 0
    assert "proved: 2 complete epochs" in capsys.readouterr().out


def test_progress_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--data", "blobs", "--model", "linear", "--epochs", "2", "--run-dir", "run"]) == 0
    printed = capsys.readouterr()
    assert "report.html" in printed.out + printed.err


def test_interruption_ends_a_run_cleanly() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    command = [sys.executable, "-m", "rightbatch", "train", "--data", "blobs", "--seconds", "60", "--run-dir", "run"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        ledger = Path("run/events.jsonl")
        while process.poll() is None and not (ledger.exists() and b'"evaluation"' in ledger.read_bytes()):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output.decode()
    assert b"Traceback" not in output
    assert Path("run/model.safetensors").exists()
    assert cli.main(["verify", "run"]) == 0


def test_probe_prints_and_draws(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["probe", "--data", "blobs", "--model", "mlp", "--seconds", "2", "--plot", "probe.png"]) == 0
    assert "probe.png" in capsys.readouterr().out
    assert Path("probe.png").read_bytes().startswith(b"\x89PNG")
