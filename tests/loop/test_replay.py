"""A recorded run's batch sizes given again."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rightbatch import AutoBatch, RunFolderError
from rightbatch.data import blobs
from rightbatch.decision import Decision
from rightbatch.loop import Callback
from rightbatch.record import EventLog, RunFolder, read_history, replay_of
from rightbatch.rule_text import write_rule
from rightbatch.rules.batch_size import Replay, batch_size_rule


class Log(Callback):
    """Writes decisions into the event log of a folder, as `fit` does, without its report."""

    def __init__(self, folder: Path, batch: object) -> None:
        self.events = EventLog(RunFolder.create(folder, {}).events)
        self.events.append("start", batch_size=repr(batch))

    def decision(self, step: int, samples: int, what: str, old: float | None, new: float, decision: Decision) -> None:
        self.events.append("decision", step=step, samples=samples, what=what, old=old, new=new)


def batches(folder: Path, batch: object) -> list[float]:
    """Three epochs on 500 samples: the size of every batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
    auto = AutoBatch(
        model, torch.optim.SGD(model.parameters(), lr=0.05), blobs(500), batch_size=batch, seed=1, epochs=3
    )
    log = Log(folder, auto.batch_size_rule)
    auto.observe(log)
    for x, y in auto:
        auto.backward(F.cross_entropy(model(x), y))
        if auto.step():
            log.events.append("step", **auto.last)
    log.events.close()
    return list(read_history(RunFolder.open(folder).events).steps["batch_size"])


@pytest.mark.parametrize(
    "batch",
    ["growth(4, 60, over_epochs=2)", "ada-batch(8, every_epochs=0.5)", "rounded('growth(4, 60, over_epochs=2)')"],
)
def test_a_run_is_replayed_batch_for_batch(batch: str, tmp_path: Path) -> None:
    first = batches(tmp_path / "first", batch)
    rule = replay_of(tmp_path / "first")
    assert len(set(first)) > 2 and batch_size_rule(write_rule(rule)) == rule
    assert batches(tmp_path / "again", rule) == first


@pytest.mark.parametrize("batch", ["big-batch(kappa=0.3, initial=8)", "rounded('big-batch(kappa=0.3, initial=8)')"])
def test_batches_that_grew_are_replayed_at_once_until_an_epoch_ends(batch: str, tmp_path: Path) -> None:
    first = batches(tmp_path / "first", batch)
    within = next(step for step in range(len(first)) if sum(first[:step]) > 400)
    assert first[within] > 8
    assert batches(tmp_path / "again", replay_of(tmp_path / "first"))[:within] == first[:within]


def test_sizes_are_read_by_the_samples_consumed(tmp_path: Path) -> None:
    batches(tmp_path / "run", "piecewise('0:10 200:50 900:20')")
    assert replay_of(tmp_path / "run") == Replay(((0, 10), (200, 50), (900, 20)))


def test_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        replay_of(tmp_path)
