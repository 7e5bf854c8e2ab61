"""Reports before the end of a run, by a clock that stands still unless it is moved."""

from pathlib import Path

import pytest

from rightbatch.errors import MissingExtraError
from rightbatch.fitting import recorder
from rightbatch.fitting.recorder import FIRST_REPORT_S, REPORT_SHARE, Recorder
from rightbatch.record import RunFolder, read_events
from rightbatch.report import Progress


@pytest.mark.parametrize("missing", [False, True])
def test_reports_now_and_then(missing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute, and then as often as a hundredth of the time allows; without matplotlib, none."""
    now_s, seen = [0.0], []

    def write(folder: Path) -> Path:
        now_s[0] += 3.0
        seen.append(len(read_events(folder / "events.jsonl")))
        if missing:
            raise MissingExtraError("matplotlib", "report", "Drawing figures")
        return folder / "report.html"

    monkeypatch.setattr(recorder, "write_report", write)
    folder = RunFolder.create(tmp_path / "run", {})
    told = Recorder(folder, Progress(False), clock=lambda: now_s[0])
    row = {"step": 1, "samples": 10, "valid_loss": 1.0, "best": True}
    told.evaluation(row)
    assert seen == []
    now_s[0] = FIRST_REPORT_S
    told.evaluation(row)
    assert seen == [2]
    now_s[0] = FIRST_REPORT_S + 3.0 / REPORT_SHARE - 1.0
    told.evaluation(row)
    assert seen == [2]
    now_s[0] += 1.0
    told.evaluation(row)
    assert seen == [2, 4]
    told.close("done")
    assert len(seen) == 3
