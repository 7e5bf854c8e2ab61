"""Every example runs as its first lines say, and is as short as promised."""

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHORTER = {
    "dict_batches": ["--epochs", "1"],
    "fit_arrays": ["--seconds", "2"],
    "big_batch": ["--steps", "60"],
    "gan": ["--epochs", "4"],
    "larger_than_memory": ["--samples", "20000"],
    "lstm": ["--epochs", "1"],
    "reinforce": ["--epochs", "1"],
    "siamese": ["--epochs", "1"],
    "vae": ["--epochs", "1"],
}
SAYS = {
    "averages": "without correction",
    "big_batch": "true gradient",
    "dict_batches": "the Bayes rule",
    "fit_arrays": "report.html",
    "gan": "of 12 sectors",
    "larger_than_memory": "from that of the true model",
    "look_at_noise": "noise scale",
    "lstm": "the exact filter",
    "own_loop": "test accuracy",
    "reinforce": "the best possible",
    "several_processes": "80,000 samples",
    "siamese": "with the mixing known",
    "vae": "entropy of the data",
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    assert f"python examples/{path.name}" in text.split('"""')[1]
    environment = os.environ | {
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT / "src"),
        "TMPDIR": str(tmp_path),
    }
    answer = subprocess.run(
        [sys.executable, "-W", "error", str(path), *SHORTER.get(path.stem, [])],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    assert SAYS[path.stem] in answer.stdout


def test_the_same_folder_takes_data_of_another_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_from_file_location("larger_than_memory", ROOT / "examples" / "larger_than_memory.py")
    assert spec is not None and spec.loader is not None
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "HELD_OUT", 100)
    for samples in ("300", "200"):
        options = ["--samples", samples, "--epochs", "1", "--folder", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["larger_than_memory", *options])
        example.main()
    assert {folder.name for folder in tmp_path.iterdir()} == {"data-300", "data-200", "run-300", "run-200"}
