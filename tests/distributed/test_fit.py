"""`fit` in several processes: one run folder, and a run that goes on with more or fewer of them."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rightbatch
from rightbatch.data import as_stream
from rightbatch.errors import InputError, RunFolderError
from rightbatch.record import verify_ledger
from rightbatch.record.events import read_events

N, D, CLASSES = 203, 6, 3
WHOLE_STEPS = -(-N // 16) * 6


def data(n: int = N, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.3).long()


class Interrupting(nn.Module):
    """Cross-entropy that asks for an end, as a scheduler does, when it has been called so many times in training."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if output.requires_grad:
            self.calls -= 1
            if self.calls == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        return nn.functional.cross_entropy(output, target)


def fit(folder: Path | None, rank: int = 0, stop_after: int = 0, **settings: Any) -> dict[str, Any]:
    """Six epochs, or so many steps; only the process of the highest rank is told to stop."""
    torch.manual_seed(10 + rank)
    model = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double()
    arguments: dict[str, Any] = {
        "batch_size": 16,
        "lr": 0.1,
        "optimizer": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        "epochs": 6,
    }
    run = rightbatch.fit(
        model,
        data(),
        Interrupting(stop_after),
        valid=data(3000, 2),
        run_dir=folder,
        resume=folder is not None,
        progress=False,
        **(arguments | settings),
    )
    return {
        "weights": [p.detach() for p in run.model.parameters()],
        "losses": [row["train_loss"] for row in run.history if "train_loss" in row],
        "valid": [(row["valid_loss"], row["valid_accuracy"]) for row in run.history if "valid_loss" in row],
        "stopped": run.stopped,
        "folder": run.folder,
    }


def test_a_run_goes_on_with_more_and_with_fewer_processes(together: Any, tmp_path: Path) -> None:
    """One process, then four, then three: every sample once an epoch, and the losses of a single process."""
    whole, folder = fit(None), tmp_path / "run"
    assert fit(folder, stop_after=20 + 1)["stopped"] == "interrupted"  # one call to see whether the loss fits the data
    four = together(4, lambda rank: fit(folder, rank, stop_after=30 if rank == 3 else 0))
    assert {each["stopped"] for each in four} == {"interrupted"}
    three = together(3, lambda rank: fit(folder, rank))
    for each in three:
        assert len(each["losses"]) == WHOLE_STEPS
        torch.testing.assert_close(torch.tensor(each["losses"]), torch.tensor(whole["losses"]), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(each["weights"], whole["weights"], rtol=1e-9, atol=1e-12)
        assert each["valid"][-1] == pytest.approx(whole["valid"][-1], rel=1e-9)
    assert [each["folder"] for each in three] == [folder, None, None]
    report = verify_ledger(folder / "ledger.txt", N)
    assert report.ok and report.complete_epochs == 6 and report.last_epoch_samples == N
    events = list(read_events(folder / "events.jsonl"))
    assert [e["processes"] for e in events if e["kind"] in ("start", "resume")] == [1, 4, 3]


def test_every_process_reads_the_whole_stream_and_trains_on_its_share(together: Any, tmp_path: Path) -> None:
    x, y = data()

    def trained(rank: int, folder: Path | None = None, **settings: Any) -> list[torch.Tensor]:
        torch.manual_seed(3)
        model = nn.Linear(D, CLASSES).double()
        source = as_stream(list(zip(x, y, strict=True)), 180)
        settings = {"batch_size": 33, "lr": 0.3, "run_dir": folder, "resume": folder is not None, **settings}
        rightbatch.fit(model, source, progress=False, **settings)
        return [p.detach() for p in model.parameters()]

    one, folder = trained(0, epochs=3), tmp_path / "run"
    for each in together(3, lambda rank: trained(rank, epochs=3)):
        torch.testing.assert_close(each, one, rtol=1e-10, atol=1e-12)
    trained(0, folder, epochs=1)
    for each in together(2, lambda rank: trained(rank, folder, epochs=3)):
        torch.testing.assert_close(each, one, rtol=1e-10, atol=1e-12)
    assert verify_ledger(folder / "ledger.txt", 180).complete_epochs == 3


def test_streams_that_differ_between_processes_are_refused(together: Any) -> None:
    x, y = data()

    def work(rank: int) -> str:
        source = as_stream(list(zip(x, y, strict=True))[rank:], 180)
        with pytest.raises(InputError) as caught:
            rightbatch.fit(nn.Linear(D, CLASSES).double(), source, epochs=1, progress=False)
        return str(caught.value)

    for told in together(2, work):
        assert "The processes differ in the first samples" in told


@pytest.mark.parametrize("what", ["the seed of the loader's generator", "the first samples"])
def test_loaders_that_differ_between_processes_are_refused(together: Any, what: str) -> None:
    dataset = TensorDataset(*data())

    def work(rank: int) -> str:
        own = torch.Generator().manual_seed(rank)
        rows = list(range(rank, 100 + rank))
        order = {"sampler": rows} if what == "the first samples" else {"shuffle": True, "generator": own}
        with pytest.raises(InputError) as caught:
            rightbatch.fit(nn.Linear(D, CLASSES).double(), DataLoader(dataset, 8, **order), epochs=1, progress=False)
        return str(caught.value)

    for told in together(2, work):
        assert f"The processes differ in {what}" in told


def test_a_folder_that_cannot_be_used_is_refused_everywhere(together: Any, tmp_path: Path) -> None:
    fit(tmp_path / "run", epochs=1)

    def work(rank: int) -> str:
        with pytest.raises(RunFolderError) as caught:
            rightbatch.fit(nn.Linear(D, CLASSES).double(), data(), run_dir=tmp_path / "run", epochs=1, progress=False)
        return str(caught.value)

    first, second = together(2, work)
    assert first == second and str(tmp_path / "run") in first


def test_dropout_differs_between_processes(together: Any) -> None:
    """The first process draws what a run of its own would, the others something else."""

    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(D, CLASSES).double()
            self.drawn: list[float] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training and torch.is_grad_enabled():
                self.drawn.append(torch.rand(1).item())
            return self.inner(x)

    def work(rank: int) -> list[float]:
        model = Drawing()
        rightbatch.fit(model, data(), batch_size=16, lr=0.1, epochs=1, progress=False)
        return model.drawn[-8:]

    one = work(0)
    first, second = together(2, work)
    assert first == one
    assert not set(first) & set(second)


def test_averages_and_batch_norm_are_the_same_everywhere(together: Any) -> None:
    """`step="auto"` ships an average, for which the statistics of BatchNorm are computed anew; dropout differs."""

    def work(rank: int) -> dict[str, torch.Tensor]:
        model = nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, CLASSES)).double()
        run = rightbatch.fit(model, data(), valid=data(300, 2), epochs=6, progress=False)
        return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}

    first, *others = together(3, work)
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.nightly
def test_defaults_go_on_with_other_numbers_of_processes(together: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"batch_size": "auto", "lr": "auto", "optimizer": None, "epochs": 40}
    folder = tmp_path / "run"
    fit(folder, stop_after=30, **settings)
    together(4, lambda rank: fit(folder, rank, stop_after=30 if rank == 2 else 0, **settings))
    found = together(3, lambda rank: fit(folder, rank, **settings))
    assert found[0]["losses"] == found[1]["losses"] == found[2]["losses"]
    report = verify_ledger(folder / "ledger.txt", N)
    assert report.ok and report.complete_epochs == 40
    assert found[0]["valid"][-1][1] > 0.9


@pytest.mark.nightly
def test_all_defaults(together: Any, tmp_path: Path) -> None:
    """`batch="auto"`, `step="auto"`, decisions from measured time and noise: the same run everywhere, to the end."""
    settings: dict[str, Any] = {"batch_size": "auto", "lr": "auto", "optimizer": None, "epochs": 40}
    found = together(2, lambda rank: fit(tmp_path / "run", rank, **settings))
    assert found[0]["losses"] == found[1]["losses"] and found[0]["valid"] == found[1]["valid"]
    assert found[0]["valid"][-1][1] > 0.9
    assert verify_ledger(tmp_path / "run" / "ledger.txt", N).complete_epochs == 40
