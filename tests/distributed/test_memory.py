"""Memory that runs out in one process: all give the batch back and begin it anew, and train as if nothing had been."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import rightbatch
from rightbatch import AutoBatch, OutOfMemoryError
from rightbatch.loop.timing.step_timer import StepTimer
from rightbatch.record import read_history, verify_ledger

N, D, CLASSES = 203, 6, 3


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.3).long()


class Narrow(nn.Module):
    """Runs out of memory above `most` samples: in the forward or backward pass, everywhere, or at trial steps once;

    or at random, above one, with `most` as the seed.
    """

    def __init__(self, most: int, where: str = "forward", dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(D, 8), nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, CLASSES)).double()
        self.most, self.where = most, where
        self.passes: list[int] = []
        self.chance = random.Random(most)

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        output: Tensor = self.inner(x)
        trial = self.training and not torch.is_grad_enabled()
        if self.where == "at random" and len(x) > 1 and self.chance.random() < 0.06:
            self.run_out(output)
        if len(x) > self.most:
            if self.where == "backward" and output.requires_grad:
                output.register_hook(self.run_out)
            elif (
                self.where == "everywhere"
                or (self.where == "forward" and torch.is_grad_enabled())
                or (self.where == "trial" and trial)
            ):
                self.run_out(output)
        return output

    def run_out(self, tensor: Tensor) -> None:
        if self.where == "trial":
            self.most = N
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rightbatch.fitting.recorder.write_report", lambda path: path / "report.html")


def train(most: int = N, where: str = "forward", dropout: float = 0.0, epochs: int = 2, **settings: Any) -> Any:
    """A loop of one's own, as docs/distributed.md has it."""
    model = Narrow(most, where, dropout)
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), 0.1), data(), seed=3, epochs=epochs, **settings)
    rows = []
    for x, y in auto:
        try:
            with torch.set_grad_enabled(auto.needs_gradient):
                auto.backward(F.cross_entropy(model(x), y))
        except torch.OutOfMemoryError as error:
            auto.handle_oom(error)
            continue
        if auto.step():
            names = ("batch_size", "train_loss", "gradient_norm", "noise_scale", "lr")
            rows.append([auto.last[name] or 0.0 for name in names])
    weights = [p.detach().clone() for p in model.parameters()]
    return {"rows": rows, "weights": weights, "samples": auto.samples, "passes": model.passes, "at": auto.forward_limit}


def in_rank_1(most: int, otherwise: int = N) -> Any:
    """`most` in the second process only."""
    return lambda rank: most if rank == 1 else otherwise


def require_alike(found: list[Any]) -> None:
    for each in found[1:]:
        assert each["rows"] == found[0]["rows"] and each["at"] == found[0]["at"]
        assert all(torch.equal(a, b) for a, b in zip(each["weights"], found[0]["weights"], strict=True))


def require_close(found: Any, expected: Any, relative: float = 1e-9) -> None:
    assert found["samples"] == expected["samples"]
    torch.testing.assert_close(torch.tensor(found["rows"]), torch.tensor(expected["rows"]), rtol=relative, atol=1e-12)
    torch.testing.assert_close(found["weights"], expected["weights"], rtol=relative, atol=1e-12)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_one_process_runs_out(together: Any, where: str) -> None:
    """Shares of 16 of a batch of 48, three; the second process takes 5 at most: all go down to 4, and train as one."""
    expected, most = train(batch_size=48), in_rank_1(5)
    found = together(3, lambda rank: train(most(rank), where, batch_size=48))
    require_alike(found)
    require_close(found[0], expected)
    assert [each["at"] for each in found] == [4, 4, 4]
    assert found[1]["passes"][:3] == [16, 8, 4] and sum(n > 5 for n in found[1]["passes"]) == 2
    assert found[0]["passes"].count(16) == 1  # it went on to where all hear of it


def test_as_if_passes_had_been_small_from_the_start(together: Any) -> None:
    """Dropout included, which each process draws for itself: the same bits."""
    found = together(2, lambda rank: train(in_rank_1(5)(rank), dropout=0.3, batch_size=40))
    small = together(2, lambda rank: train(dropout=0.3, batch_size=40, micro_batch=5))
    require_alike(found)
    assert found[0]["rows"] == small[0]["rows"]
    assert all(torch.equal(a, b) for a, b in zip(found[0]["weights"], small[0]["weights"], strict=True))


def test_both_run_out_and_the_smaller_counts(together: Any) -> None:
    """Shares of 22 and 23 fail: 11 at most, which makes three passes of 15; of these, 7 fail in rank 0: 4 at most."""
    found = together(2, lambda rank: train((6, 12)[rank], batch_size=45))
    require_alike(found)
    require_close(found[0], train(batch_size=45))
    assert [each["at"] for each in found] == [4, 4]


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": "norm-test(initial=24)", "noise": "per-example(every=1)"},
        {"batch_size": "big-batch(initial=24)", "noise": "per-example(every=1)"},
        {"batch_size": 24, "lr": "armijo"},
    ],
)
def test_batches_measured_enlarged_and_searched(together: Any, settings: Any) -> None:
    found = together(2, lambda rank: train(in_rank_1(7)(rank), **settings))
    require_alike(found)
    require_close(found[0], train(**settings), relative=1e-6)
    assert found[0]["at"] < 8


@pytest.mark.parametrize("batch", ["24", "norm-test(initial=24)"])
def test_trial_steps(together: Any, batch: str) -> None:
    """A batch given back at a trial step has been measured and decided on: neither counts twice."""
    settings: dict[str, Any] = {"batch_size": batch, "lr": "armijo"}
    settings["noise"] = None if batch == "24" else "per-example(every=1)"
    found = together(2, lambda rank: train(in_rank_1(5)(rank), "trial", **settings))
    require_alike(found)
    require_close(found[0], train(**settings), relative=1e-6)
    assert found[0]["at"] == found[1]["at"] == 6


# With so few steps that no larger pass is tried again.
@pytest.mark.parametrize("batch", ["sweet-spot(least_steps=1)", "sweet-spot(floor=3, ceiling=8, least_steps=1)"])
def test_the_timing_ladder_and_comparisons(together: Any, batch: str) -> None:
    """Batches that are timed are given back too; what rules decide then, all decide alike."""
    found = together(2, lambda rank: train(in_rank_1(9)(rank), batch_size=batch, epochs=6))
    require_alike(found)
    assert found[0]["samples"] == 6 * N and found[0]["at"] < 10


def test_a_comparison_cut_short(together: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 40 is cut into 5, 30 and 5 to be timed; memory runs out over the second, whose seconds are lacking."""

    def work(rank: int) -> Any:
        monkeypatch.setattr(StepTimer, "cut", lambda clock, step, samples: (5, 30, 5) if step == 3 else None)
        model = Narrow(N)
        auto = AutoBatch(model, torch.optim.SGD(model.parameters(), 0.1), data(), 40, seed=3, epochs=2)
        failed = []
        for x, y in auto:
            try:
                if auto.steps == 3 and len(x) == 15 and rank == 1 and not failed:
                    failed.append(len(x))
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
                auto.backward(F.cross_entropy(model(x), y))
            except torch.OutOfMemoryError as error:
                auto.handle_oom(error)
                continue
            auto.step()
        return failed, auto.forward_limit, auto.samples, [p.detach() for p in model.parameters()]

    first, second = together(2, work)
    assert first[:3] == ([], 8, 2 * N) and second[:3] == ([15], 8, 2 * N)
    torch.testing.assert_close(first[3], second[3], rtol=0, atol=0)
    torch.testing.assert_close(first[3], train(batch_size=40)["weights"], rtol=1e-9, atol=1e-12)


RULES: list[dict[str, Any]] = [
    {"batch_size": "big-batch(initial=8)", "noise": "per-example(every=1)", "lr": "armijo"},
    {"batch_size": 16, "micro_batch": 3},
    {"batch_size": 3},
    {"batch_size": 48},
    {"batch_size": 16, "lr": "barzilai-borwein"},
    {"batch_size": "norm-test(initial=16)", "noise": "per-example(every=1)"},
]


def run_out_at_random(together: Any, size: int, seed: int, settings: dict[str, Any]) -> None:
    expected = train(epochs=3, **settings)
    found = together(size, lambda rank: train(10 * seed + rank, "at random", epochs=3, **settings))
    require_alike(found)
    require_close(found[0], expected, relative=1e-6)
    assert found[0]["at"] < 4096  # it did run out


def test_now_in_one_process_now_in_the_other(together: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes grow back after a step, and fail again at random places: the steps of a single process all the same."""
    monkeypatch.setattr("rightbatch.loop.memory.forward_limit.CALM_STEPS", 1)
    run_out_at_random(together, 2, 0, RULES[0])


@pytest.mark.nightly
@pytest.mark.parametrize("settings", RULES)
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_at_many_random_places(
    together: Any, monkeypatch: pytest.MonkeyPatch, settings: Any, size: int, seed: int
) -> None:
    monkeypatch.setattr("rightbatch.loop.memory.forward_limit.CALM_STEPS", 1)
    run_out_at_random(together, size, seed, settings)


def test_a_single_sample_that_does_not_fit_ends_the_run_everywhere(together: Any, tmp_path: Path) -> None:
    def loop(rank: int) -> str:
        with pytest.raises(OutOfMemoryError) as caught:
            train(in_rank_1(0)(rank), batch_size=16)
        return str(caught.value)

    def whole(rank: int) -> str:
        with pytest.raises(OutOfMemoryError) as caught:
            fit(rank, Narrow(in_rank_1(0)(rank)), tmp_path / "run")
        return str(caught.value)

    for work in (loop, whole):
        first, second = together(2, work)
        assert first == second and "a single sample on cpu (rank 1)" in first and "torch.utils.checkpoint" in first
    assert "OutOfMemoryError: Memory ran out" in read_history(tmp_path / "run" / "events.jsonl").stop["reason"]


class Normed(Narrow):
    """With BatchNorm, which cannot take a single sample."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.inner.insert(1, nn.BatchNorm1d(8).double())


@pytest.mark.parametrize(("most", "batch"), [(3, 7), (3, 9), (3, 23), (2, 16)])
def test_batch_norm_gets_no_single_sample(together: Any, most: int, batch: int) -> None:
    """Shares of two where two fit in the second process; of an odd micro-batch three, where they fit."""

    def work(rank: int) -> Any:
        model = Normed(in_rank_1(most)(rank))
        run = fit(rank, model, None, batch_size=batch, epochs=1)
        return min(model.passes), run.history[-1]["epoch"], [p.detach() for p in model.parameters()]

    first, second = together(2, work)
    assert first[:2] == second[:2] == (2, 1.0)
    torch.testing.assert_close(first[2], second[2], rtol=0, atol=0)


def test_batch_norm_ends_the_run_everywhere_in_the_same_words(together: Any) -> None:
    def work(rank: int) -> str:
        with pytest.raises(OutOfMemoryError) as caught:
            fit(rank, Normed(in_rank_1(1)(rank)), None, batch_size=9)
        return str(caught.value)

    first, second = together(2, work)
    assert first == second and "over 2 samples on cpu (rank 1)" in first and "BatchNorm" in first


def test_an_evaluation_that_does_not_fit_ends_the_run_everywhere(together: Any) -> None:
    class Blind(Narrow):
        def forward(self, x: Tensor) -> Tensor:
            if self.most == 0 and not self.training and len(self.passes) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
            return super().forward(x)

    def work(rank: int) -> str:
        with pytest.raises(OutOfMemoryError) as caught:
            fit(
                rank,
                Blind(in_rank_1(0)(rank), "nowhere"),
                None,
                valid=tuple(t.repeat(20, *[1] * (t.dim() - 1)) for t in data()),
            )
        return str(caught.value)

    first, second = together(2, work)
    assert first == second and "(rank 1)" in first


def fit(rank: int, model: nn.Module, folder: Path | None, **settings: Any) -> Any:
    arguments: dict[str, Any] = {"batch_size": 48, "lr": 0.1, "epochs": 4, "seed": 3}
    return rightbatch.fit(model, data(), F.cross_entropy, run_dir=folder, progress=False, **(arguments | settings))


def test_fit_records_which_process_it_was(together: Any, tmp_path: Path) -> None:
    """Training and evaluation, the first process writing; the weights of a single process."""

    def work(rank: int) -> Any:
        model = Narrow(in_rank_1(5)(rank), "everywhere")
        run = fit(rank, model, tmp_path / "run", valid=data())
        return [p.detach() for p in model.parameters()], run.best["valid_loss"]

    first, second = together(2, work)
    alone = Narrow(N)
    expected = fit(0, alone, None, valid=data())
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first[0], [p.detach() for p in alone.parameters()], rtol=1e-9, atol=1e-12)
    assert first[1] == pytest.approx(expected.best["valid_loss"], rel=1e-9)
    report = verify_ledger(tmp_path / "run" / "ledger.txt", N)
    assert report.ok and report.complete_epochs == 4
    told = [
        (e["old"], e["new"], e["rank"], e["device"]) for e in read_history(tmp_path / "run" / "events.jsonl").memory
    ]
    assert told == [(24, 12, 1, "cpu"), (12, 6, 1, "cpu"), (6, 3, 1, "cpu")]


def test_nothing_more_is_sent_where_nothing_fails(together: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of numbers and one sum a step; the model fits into one bucket."""

    def work(rank: int) -> list[int]:
        calls: list[str] = []
        for name in ("all_gather", "all_reduce", "broadcast", "all_gather_object", "broadcast_object_list"):
            real = getattr(dist, name)
            monkeypatch.setattr(
                dist, name, lambda *a, _real=real, _name=name, **k: calls.append(_name) or _real(*a, **k)
            )
        sent = []
        for epochs in (1, 2):
            calls.clear()
            steps = len(train(batch_size=32, micro_batch=4, epochs=epochs)["rows"])
            sent.append((steps, calls.count("all_gather"), calls.count("all_reduce"), len(calls)))
        return [after - before for before, after in zip(*sent, strict=True)]

    for steps, gathers, sums, calls in together(2, work):
        assert gathers == sums == steps and calls == 2 * steps
