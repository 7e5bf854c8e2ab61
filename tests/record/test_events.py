"""The event log: round trips, crashes, damage."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rightbatch.errors import RunFolderError
from rightbatch.record import EventLog, iterate_events, read_events

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats()
    | st.text(max_size=12).filter(lambda text: text not in ("NaN", "Infinity", "-Infinity")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3), max_size=5))
def test_any_plain_value_survives_the_round_trip(tmp_path: Path, events: list[dict[str, object]]) -> None:
    path = tmp_path / "events.jsonl"
    path.unlink(missing_ok=True)
    with EventLog(path) as log:
        for event in events:
            log.append("step", **event)
    read = read_events(path)
    assert len(read) == len(events)
    assert all(same({"kind": "step", **event}, got) for event, got in zip(events, read, strict=True))


def test_every_line_is_json_that_strict_parsers_accept(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.append("step", train_loss=math.nan, noise_scale=math.inf, evidence={"low": [-math.inf, 1.5]})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = (tmp_path / "events.jsonl").read_text()
    assert json.loads(line, parse_constant=refuse) == {
        "kind": "step",
        "train_loss": "NaN",
        "noise_scale": "Infinity",
        "evidence": {"low": ["-Infinity", 1.5]},
    }


def test_numbers_of_array_libraries_and_paths_become_plain(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.append("step", a=np.float32(0.5), b=np.int64(3), c=torch.tensor(2.0), d=np.float32("inf"), e=Path("x"))
    (event,) = read_events(tmp_path / "events.jsonl")
    assert event == {"kind": "step", "a": 0.5, "b": 3, "c": 2.0, "d": math.inf, "e": "x"}


def test_values_that_are_not_plain_are_refused_by_name(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append("step", model=object())
    with pytest.raises(TypeError, match="object"):
        log.flush()
    log.close()


def test_writing_is_held_back_until_flush_or_until_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("rightbatch.record.lines.time.monotonic", lambda: now)
    log = EventLog(tmp_path / "events.jsonl", flush_s=1.0)
    log.append("step", step=1)
    assert read_events(log.path) == []
    log.flush()
    assert len(read_events(log.path)) == 1
    log.append("step", step=2)
    now = 101.1
    log.append("step", step=3)
    assert [event["step"] for event in read_events(log.path)] == [1, 2, 3]
    log.append("step", step=4)
    log.close()
    log.close()
    assert len(read_events(log.path)) == 4


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_left_out_and_removed_by_the_next_writer(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        for step in range(3):
            log.append("step", step=step, train_loss=0.1)
    path.write_bytes(path.read_bytes()[: -cut - 1])
    assert [event["step"] for event in read_events(path)] == [0, 1]
    with EventLog(path) as log:
        log.append("resume", step=1)
    assert [event["step"] for event in read_events(path)] == [0, 1, 1]


def test_a_long_torn_line_is_removed_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"kind":"a"}\n' + b'{"kind":"' + b"x" * 200_000)
    EventLog(path).close()
    assert path.read_bytes() == b'{"kind":"a"}\n'
    path.write_bytes(b"x" * 200_000)
    EventLog(path).close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "damage", [b"\x00\x00\x00\x00", b'{"kind":"st', b"[1, 2]", b'{"step": 1}', b"", b'{"k":"\xff"}']
)
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"kind":"a"}\n' + damage + b'\n{"kind":"b"}\n')
    with pytest.raises(RunFolderError, match=r"events\.jsonl: line 2 is damaged"):
        read_events(path)


def test_a_missing_log_and_an_impossible_one_are_said(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot read the event log"):
        list(iterate_events(tmp_path / "events.jsonl"))
    with pytest.raises(RunFolderError, match="cannot write"):
        EventLog(tmp_path / "no" / "events.jsonl")
