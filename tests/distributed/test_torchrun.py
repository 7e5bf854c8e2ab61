"""The command in the README, run as it is written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_line_in_the_readme() -> None:
    (line,) = re.findall(r"^torchrun .*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
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
    assert re.fullmatch(r"80,000 examples in [\d,]+ steps, the last of [\d,]+\n", answer.stdout)
