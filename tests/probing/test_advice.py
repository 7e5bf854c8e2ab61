"""What people read and look at."""

import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rightbatch import InputError, MissingExtraError
from rightbatch.measurements import StepTime
from rightbatch.probing import Advice

POINTS = tuple((b, 1.1e-3 + 12e-6 * b, 31) for b in (1, 4, 16, 64, 208, 256, 1024))
ADVICE = Advice(
    batch_size=208,
    low=64,
    high=256,
    noise_scale=480.0,
    noise_low=410.0,
    noise_high=560.0,
    half_performance=91.7,
    half_performance_error=12.2,
    max_batch_size=1024,
    limited_by="memory",
    lr=0.0042,
    step_time=StepTime(1.1e-3, 12e-6, 91.7, 12.2, 6, 1, 1024),
    points=POINTS,
    seconds_used=12.34,
    method="exact per-example norms; 24 batches of 59",
    notes=("a note",),
)


def test_the_text_says_what_to_use_and_why() -> None:
    lines = str(ADVICE).splitlines()
    assert "208 samples" in lines[0] and "64 to 256" in lines[0]
    assert "480 samples (410 to 560 with 90 % confidence)" in lines[1]
    assert "91.7 ± 12 samples: a step takes 1.1 ms + 12 µs per sample" in lines[2]
    assert "sqrt(480 × 91.7) = 210 samples" in lines[3]
    assert "1,024, limited by memory" in lines[4]
    assert "0.0042" in lines[5] and "schedule-free Adam" in lines[5]
    assert "7 batch sizes from 1 to 1,024, 217 steps" in lines[6]
    assert lines[-1].split(None, 1) == ["note", "a note"]
    assert max(map(len, lines)) <= 120


def test_the_text_says_what_is_unknown() -> None:
    text = str(replace(ADVICE, noise_high=math.inf, lr=None, low=208, high=208))
    assert "at least 410 samples (90 % confidence)" in text
    assert re.search(r"learning rate +not determined", text)
    assert "every other size" in text


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("b.SVG", b"<?xml"), ("c.pdf", b"%PDF")])
def test_the_picture(tmp_path: Path, name: str, start: bytes) -> None:
    ADVICE.plot(tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    replace(ADVICE, noise_high=math.inf).plot(str(tmp_path / name))


def test_the_picture_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"end in \.png, \.svg, \.pdf"):
        ADVICE.plot("advice.docx")
    with pytest.raises(InputError, match="No such file"):
        ADVICE.plot(tmp_path / "nowhere" / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="report"):
        ADVICE.plot(tmp_path / "a.png")
