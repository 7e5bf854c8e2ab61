"""The command in the README, run as it is written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rightbatch.record import verify_ledger

ROOT = Path(__file__).resolve().parents[2]


def run(line: str) -> str:
    """What a command line of the documentation prints, the two processes speaking over loopback."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    answer = subprocess.run(
        shlex.split(line), cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_the_line_in_the_readme() -> None:
    (line,) = re.findall(r"^torchrun .*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.fullmatch(r"80,000 samples in [\d,]+ steps, the last of [\d,]+\n", run(line))


def test_the_line_for_a_sharded_model(tmp_path: Path) -> None:
    example = (ROOT / "examples" / "several_processes.py").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ *(torchrun .* --shard)$", example, re.MULTILINE)
    line = line.replace("runs/several", str(tmp_path / "run"))
    assert re.fullmatch(r"1 epoch is done; validation accuracy 0\.\d+\n", run(f"{line} --epochs 1"))
    assert verify_ledger(tmp_path / "run" / "ledger.txt", 16_000).complete_epochs == 1
