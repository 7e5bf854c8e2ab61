"""The page on batches: its blocks run, one after the other."""

import re
import warnings
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[1] / "docs" / "batches.md").read_text(encoding="utf-8")


def test_the_blocks_run() -> None:
    names: dict[str, Any] = {"__name__": "batches"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(block, "docs/batches.md", "exec"), names)
    assert names["source"].limits_passes and names["run"].best and names["found"].variance > 0
