"""Several processes take the very steps that one takes."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from rightbatch import AutoBatch
from rightbatch.loop.gradients import Gradients

N, D, CLASSES = 203, 6, 3  # N is a prime times 7: nothing divides evenly


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, D, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(D, CLASSES, generator=generator, dtype=torch.float64)).argmax(1)
    return x, y


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double()


def train(rank: int, epochs: int = 2, rate: float = 0.1, momentum: float = 0.9, **settings: Any) -> dict[str, Any]:
    """A few epochs by a loop of one's own; ranks begin with different parameters, rank 0 with those of one process."""
    model = network(seed=rank)
    sgd = torch.optim.SGD(model.parameters(), rate, momentum=momentum)
    auto = AutoBatch(model, sgd, data(), seed=3, epochs=epochs, **settings)
    rows, noise = [], []
    for x, y in auto:
        auto.backward(nn.functional.cross_entropy(model(x), y))
        if auto.step():
            rows.append((auto.last["batch_size"], auto.last["train_loss"], auto.last["gradient_norm"]))
            noise.append(auto.noise and (auto.noise.variance, auto.noise.signal))
    weights = [p.detach().clone() for p in model.parameters()]
    return {"rows": rows, "noise": noise, "weights": weights, "samples": auto.samples}


def require_same(one: dict[str, Any], several: list[dict[str, Any]], relative: float = 1e-9) -> None:
    for each in several:
        assert [row[0] for row in each["rows"]] == [row[0] for row in one["rows"]]
        assert each["samples"] == one["samples"]
        torch.testing.assert_close(torch.tensor(each["rows"]), torch.tensor(one["rows"]), rtol=relative, atol=1e-12)
        torch.testing.assert_close(each["weights"], one["weights"], rtol=relative, atol=1e-12)
        assert all(torch.equal(a, b) for a, b in zip(each["weights"], several[0]["weights"], strict=True))


def require_same_noise(one: dict[str, Any], several: list[dict[str, Any]]) -> None:
    assert any(one["noise"])
    for each in several:
        for found, expected in zip(each["noise"], one["noise"], strict=True):
            assert (found is None) == (expected is None)
            if expected is not None:
                assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_fixed_batches(together: Any, size: int) -> None:
    """203 samples in batches of 16: the last has 11, shared 6 and 5, or 4, 4 and 3; micro-batches of 5 on top."""
    one = train(0, batch_size=16)
    require_same(one, together(size, lambda rank: train(rank, batch_size=16)))
    require_same(one, together(size, lambda rank: train(rank, batch_size=16, micro_batch=5)))
    require_same(one, together(size, lambda rank: train(rank, batch_size=16, micro_batch=1)))


def test_batches_smaller_than_the_processes_are_many(together: Any) -> None:
    """A batch of 3 has one share of 3: two of the processes contribute nothing."""
    require_same(train(0, batch_size=3, epochs=1), together(3, lambda rank: train(rank, batch_size=3, epochs=1)))


def test_exact_noise_of_the_global_batch(together: Any) -> None:
    settings = {"batch_size": 16, "noise": "per-example(every=1)"}
    one = train(0, **settings)
    several = together(2, lambda rank: train(rank, **settings))
    require_same(one, several)
    require_same_noise(one, several)


def test_the_norm_test_enlarges_batches_alike(together: Any) -> None:
    """Batches grow within steps: the part already summed must not be summed again."""
    settings: dict[str, Any] = {"batch_size": "big-batch", "noise": "per-example(every=1)", "rate": 0.5}
    one = train(0, **settings)
    several = together(2, lambda rank: train(rank, **settings))
    assert len({row[0] for row in one["rows"]}) > 2  # it did grow
    require_same(one, several)
    require_same_noise(one, several)


@pytest.mark.parametrize("noise", ["micro-batch(groups=4, every=1)", "per-example(every=1)"])
def test_enlarged_batches_have_the_gradient_of_their_samples(together: Any, noise: str) -> None:
    """At a model that hardly moves, the norm of every step's gradient is that of all samples the ledger names."""

    def work(rank: int) -> list[tuple[int, float, float]]:
        model, told, rows = network(), [], []

        class Listener:
            def __getattr__(self, name: str) -> Any:
                return lambda *args: told.append(args[1]) if name == "consumed" else None

        sgd = torch.optim.SGD(model.parameters(), 1e-12)
        auto = AutoBatch(model, sgd, data(), "big-batch(initial=8)", seed=3, epochs=2, noise=noise)
        auto.observe(Listener())
        for x, y in auto:
            auto.backward(nn.functional.cross_entropy(model(x), y))
            if auto.step():
                rows.append((auto.last["batch_size"], auto.last["gradient_norm"]))
        found = []
        for (size, norm), intervals in zip(rows, told, strict=True):
            x, y = (torch.cat(parts) for parts in zip(*map(auto._step.stream.fetch, intervals), strict=True))
            loss = nn.functional.cross_entropy(model(x), y)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            found.append((size - len(x), norm, torch.cat([g.flatten() for g in gradients]).norm().item()))
        assert any(len(intervals) > 1 for intervals in told)
        return found

    for found in together(3, work):
        for missing, norm, expected in found:
            assert missing == 0 and norm == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("step", ["armijo", "barzilai-borwein"])
def test_line_searches(together: Any, step: str) -> None:
    settings: dict[str, Any] = {"batch_size": 24, "lr": step, "momentum": 0.0}
    require_same(train(0, **settings), together(2, lambda rank: train(rank, **settings)), relative=1e-6)


def test_micro_batches_of_all_processes_are_the_groups(together: Any) -> None:
    """Two processes compare two micro-batches each as one process compares its four: the split is the same."""
    settings: dict[str, Any] = {"batch_size": 16, "noise": "micro-batch(groups=4, every=1)", "epochs": 1}
    one = train(0, **settings)
    several = together(2, lambda rank: train(rank, **settings))
    require_same(one, several)
    whole = N // 16  # the last batch, of 11, is split otherwise
    for each in several:
        for found, expected in zip(each["noise"][:whole], one["noise"][:whole], strict=True):
            assert found == (expected if expected is None else pytest.approx(expected, rel=1e-6))


@pytest.mark.parametrize("batch", ["sweet-spot", "auto"])
def test_rules_that_look_at_the_clock_decide_alike(together: Any, batch: str) -> None:
    """Times differ from process to process; all go by the slowest."""
    found = together(2, lambda rank: train(rank, batch_size=batch, epochs=12))
    assert found[0]["rows"] == found[1]["rows"] and found[0]["noise"] == found[1]["noise"]
    assert found[0]["samples"] == 12 * N
    assert all(torch.equal(a, b) for a, b in zip(found[0]["weights"], found[1]["weights"], strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": "dog"},
        {"lr": "auto"},
        {"lr": "barzilai-borwein", "momentum": 0.0},
        {"lr": 0.1, "clip_norm": 0.2},
        {"lr": "armijo", "momentum": 0.0, "clip_value": 0.02},
    ],
    ids=str,
)
def test_unlike_machines_go_by_the_first(together: Any, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """Where sums may be rounded differently: here the second process sees them a little off, and decides the same."""
    off = 1 + 1e-9

    def work(rank: int) -> dict[str, Any]:
        monkeypatch.setattr("rightbatch.loop.distributed.rank_sync._machine", lambda device: (rank,))
        norms2 = Gradients.norms2
        monkeypatch.setattr(Gradients, "norms2", lambda self: [n * (off if rank else 1.0) for n in norms2(self)])
        return train(rank, batch_size=24, epochs=3, **settings)

    first, second = together(2, work)
    assert first["rows"] == second["rows"] and len(first["rows"]) > 10
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))


def test_wrapped_in_ddp(together: Any) -> None:
    """A model in DistributedDataParallel gives the same: its own averaging is off."""

    def wrapped(rank: int) -> dict[str, Any]:
        model = nn.parallel.DistributedDataParallel(network())
        auto = AutoBatch(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), data(), 16, seed=3, epochs=2)
        rows = []
        for x, y in auto:
            auto.backward(nn.functional.cross_entropy(model(x), y))
            if auto.step():
                rows.append((auto.last["batch_size"], auto.last["train_loss"], auto.last["gradient_norm"]))
        return {"rows": rows, "weights": [p.detach() for p in model.parameters()], "samples": auto.samples}

    require_same(train(0, batch_size=16), together(2, wrapped))


def test_batch_norm_keeps_the_first_process_s_statistics(together: Any) -> None:
    def work(rank: int) -> list[torch.Tensor]:
        torch.manual_seed(rank)
        model = nn.Sequential(nn.Linear(D, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES)).double()
        auto = AutoBatch(model, torch.optim.SGD(model.parameters(), 0.1), data(), 5, seed=3, epochs=1, noise="auto")
        for x, y in auto:
            auto.backward(nn.functional.cross_entropy(model(x), y))
            auto.step()
        assert auto.meter is not None and "micro-batch" in auto.meter.method
        return [t.clone() for t in model.state_dict().values()]

    states = together(3, work)
    for other in states[1:]:
        assert all(torch.equal(a, b) for a, b in zip(states[0], other, strict=True))


def test_a_gradient_missing_everywhere_stays_missing(together: Any) -> None:
    """Weight decay would move a parameter whose gradient were zero."""

    def work(rank: int) -> list[bool]:
        model = nn.ModuleList([nn.Linear(D, CLASSES), nn.Linear(2, 2)])
        before = model[1].weight.detach().clone()
        sgd = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
        auto = AutoBatch(model, sgd, tuple(t.float() if t.is_floating_point() else t for t in data()), 16, epochs=1)
        x, y = next(iter(auto))
        start = before if rank == 0 else None
        auto.backward(nn.functional.cross_entropy(model[0](x), y))
        assert auto.step()
        return [start is None or torch.equal(start, model[1].weight)]

    assert all(flag for flags in together(2, work) for flag in flags)


def test_a_loss_that_fails_in_one_process_fails_the_step_in_all(together: Any) -> None:
    def work(rank: int) -> tuple[int, int, list[str]]:
        model, told = network(), []

        class Listener:
            def __getattr__(self, name: str) -> Any:
                return lambda *args: told.append(args[2]) if name == "failure" else None

        auto = AutoBatch(model, torch.optim.SGD(model.parameters(), 0.1), data(), 16, seed=3, epochs=1)
        auto.observe(Listener())
        taken = 0
        for x, y in auto:
            loss = nn.functional.cross_entropy(model(x), y)
            auto.backward(loss * float("nan") if rank == 1 and auto.steps == 4 else loss)
            taken += auto.step()
        return taken, auto.samples, told

    for taken, samples, told in together(2, work):
        assert samples == N and taken == -(-N // 16) - 1
        assert told == ["rank 1: the loss became nan"]


def test_one_all_reduce_a_step(together: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many micro-batches a batch is cut into; the model fits into one bucket."""

    def work(rank: int) -> tuple[int, int]:
        calls = []
        real = dist.all_reduce
        monkeypatch.setattr(dist, "all_reduce", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
        return len(train(rank, batch_size=32, micro_batch=4, epochs=1)["rows"]), len(calls)

    for steps, calls in together(2, work):
        assert calls == steps
