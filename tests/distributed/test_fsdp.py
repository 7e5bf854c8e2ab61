"""A model sharded over the processes by `fully_shard` takes the very steps that it takes whole."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import rightbatch
from rightbatch import AutoBatch
from rightbatch.data import as_stream
from rightbatch.errors import InputError, OutOfMemoryError, UnsupportedError
from rightbatch.fitting.checkpoint import load_checkpoint
from rightbatch.fitting.evaluation import evaluate
from rightbatch.loop.distributed.process_group import ProcessGroup, alone
from rightbatch.loop.memory.forward_limit import ForwardLimit
from rightbatch.record import verify_ledger

fsdp = pytest.importorskip("torch.distributed.fsdp")
pytestmark = pytest.mark.usefixtures("needs_sums")

N, D, CLASSES = 203, 6, 3


def data(n: int = N, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.3).long()


def network(*between: nn.Module) -> nn.Module:
    """Nothing divides evenly: 7 rows in parts, and 3, of which the third of three processes may have one or none."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.LayerNorm(8), *between)
    return nn.Sequential(nn.Linear(D, 7), nn.Tanh(), inner, nn.Linear(8, CLASSES)).double()


def sharded(model: nn.Module) -> nn.Module:
    fsdp.fully_shard(model[2])
    fsdp.fully_shard(model)
    return model


def whole(model: nn.Module) -> list[torch.Tensor]:
    return [t.full_tensor() if hasattr(t, "full_tensor") else t.clone() for t in model.state_dict().values()]


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "adam": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
}


def train(
    shard: bool, rank: int = 1, optimizer: str = "sgd", epochs: int = 1, fail_at: int = -1, **settings: Any
) -> dict[str, Any]:
    """A loop of one's own; the loss of process 1 fails at one step."""
    model = sharded(network()) if shard else network()
    made = OPTIMIZERS[optimizer](model.parameters()) if optimizer else None
    auto = AutoBatch(model, made, data(N // 2), seed=3, epochs=epochs, **settings)
    rows, noise = [], []
    for x, y in auto:
        loss = nn.functional.cross_entropy(model(x), y)
        auto.backward(loss * float("nan") if rank == 1 and auto.steps == fail_at else loss)
        if auto.step():
            rows.append((auto.last["batch_size"], auto.last["train_loss"], auto.last["gradient_norm"]))
            noise.append(auto.noise and (auto.noise.variance, auto.noise.signal))
    auto.finalize()
    return {"rows": rows, "noise": noise, "weights": whole(model), "samples": auto.samples}


def numbers(state: Any) -> list[Any]:
    """All of a nested state that can be compared up to rounding."""
    return [leaf for leaf in tree_leaves(state) if not isinstance(leaf, str)]


def require_same(one: dict[str, Any], found: dict[str, Any]) -> None:
    assert [row[0] for row in found["rows"]] == [row[0] for row in one["rows"]]
    assert found["samples"] == one["samples"] and len(one["rows"]) > 3
    torch.testing.assert_close(torch.tensor(found["rows"]), torch.tensor(one["rows"]), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["weights"], one["weights"], rtol=1e-9, atol=1e-11)
    for mine, theirs in zip(found["noise"], one["noise"], strict=True):
        assert mine == (theirs and pytest.approx(theirs, rel=1e-6))


STEPS: list[dict[str, Any]] = [
    {"batch_size": 16, "micro_batch": 5},
    {"batch_size": 16, "optimizer": "adam"},
    {"batch_size": 5},  # of three processes the last has no share
    {"batch_size": 24, "lr": "dog"},
    {"batch_size": 24, "lr": "auto", "optimizer": "", "epochs": 3},
    {"batch_size": 24, "lr": "schedule-free", "optimizer": "adam"},
    {"batch_size": 24, "fail_at": 2, "micro_batch": 2},
    {"batch_size": 24, "noise": "per-example(every=1)", "micro_batch": 3},
    {"batch_size": 24, "noise": "sketch(every=2)"},
    {"batch_size": "big-batch(initial=8)", "noise": "per-example(every=1)"},  # batches that grow within steps
]


@pytest.mark.parametrize(("size", "steps"), [(2, STEPS[::3]), (3, STEPS)])
def test_steps_are_those_of_the_whole_model(together: Any, size: int, steps: list[dict[str, Any]]) -> None:
    """Losses, norms, noise and weights of one process that has the model whole."""
    expected = [train(False, **settings) for settings in steps]
    for found in together(size, lambda rank: [train(True, rank, **settings) for settings in steps]):
        for one, each in zip(expected, found, strict=True):
            require_same(one, each)
    assert any(expected[-1]["noise"]) and len({row[0] for row in expected[-1]["rows"]}) > 2


def test_rules_that_look_at_the_clock_decide_alike(together: Any) -> None:
    found = together(2, lambda rank: train(True, batch_size="auto", lr="auto", optimizer="", epochs=6))
    assert found[0]["rows"] == found[1]["rows"] and found[0]["noise"] == found[1]["noise"] and found[0]["noise"][-1]
    assert found[0]["samples"] == 6 * (N // 2)


def fit(folder: Path | None, shard: bool, rank: int = 0, stop_after: int = 0, **settings: Any) -> dict[str, Any]:
    """Two epochs, or so many steps; one process is told to stop, as a scheduler does."""
    model = network()
    calls = stop_after

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls -= output.requires_grad
        if calls == 0 and output.requires_grad:
            os.kill(os.getpid(), signal.SIGTERM)
        return nn.functional.cross_entropy(output, target)

    arguments: dict[str, Any] = {"batch_size": 16, "lr": 0.1, "optimizer": OPTIMIZERS["sgd"], "epochs": 2}
    run = rightbatch.fit(
        sharded(model) if shard else model,
        data(),
        loss,
        valid=data(300, 2),
        run_dir=folder,
        resume=folder is not None,
        progress=False,
        **(arguments | settings),
    )
    return {
        "losses": [row["train_loss"] for row in run.history if "train_loss" in row],
        "valid": [row["valid_loss"] for row in run.history if "valid_loss" in row],
        "stopped": run.stopped,
    }


RUNS: dict[str, dict[str, Any]] = {
    "constant": {"lr": 0.1, "optimizer": OPTIMIZERS["adam"]},
    "auto": {"lr": "auto", "optimizer": None},
    "schedule-free": {"lr": "schedule-free"},
}


def test_runs_go_on_sharded_otherwise_or_not_at_all(
    together: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two processes, in three, then whole in one, each stopped in mid-epoch: losses and states of one process."""
    monkeypatch.setattr("rightbatch.fitting.recorder.write_report", lambda *args: None)  # most of the time
    for size in (2, 3):
        for stopped in together(
            size,
            lambda rank: [
                fit(tmp_path / name, True, rank, 7 if rank == size - 1 else 0, **settings)["stopped"]  # noqa: B023
                for name, settings in RUNS.items()
            ],
        ):
            assert set(stopped) == {"interrupted"}
    for name, settings in RUNS.items():
        expected, found = (fit(tmp_path / folder, False, **settings) for folder in (f"{name} whole", name))
        assert len(found["losses"]) == len(expected["losses"]) > 23
        torch.testing.assert_close(torch.tensor(found["losses"]), torch.tensor(expected["losses"]), rtol=1e-8, atol=0)
        saved = [load_checkpoint(tmp_path / folder / "checkpoint.pt") for folder in (f"{name} whole", name)]
        for part in ("model", "update"):  # the optimizer's state, the averages, the state kept to go back to
            theirs, mine = (numbers({**state, **state["auto"]}[part]) for state in saved)
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10, equal_nan=True)
        assert found["valid"][-1] == pytest.approx(expected["valid"][-1], rel=1e-8)
        report = verify_ledger(tmp_path / name / "ledger.txt", N)
        assert report.ok and report.complete_epochs == 2


def test_evaluation_and_batch_norm(together: Any) -> None:
    """Processes have unequally many chunks; statistics are computed anew for the average, in all of them."""

    def work(rank: int) -> tuple[list[float], list[torch.Tensor]]:
        model = sharded(network())
        x, y = data(1100, 2)
        source = rightbatch.data.as_source((x, y))
        found = [
            evaluate(model, nn.functional.cross_entropy, source, x.device, ProcessGroup.present(), ForwardLimit(most))[
                "loss"
            ]
            for most in (1024, 300)
        ]
        run = rightbatch.fit(
            sharded(network(nn.BatchNorm1d(8))), data(), valid=(x, y), batch_size=24, epochs=1, progress=False
        )
        return found, whole(run.model)

    x, y = data(1100, 2)
    expected = evaluate(network(), nn.functional.cross_entropy, rightbatch.data.as_source((x, y)), x.device)["loss"]
    first, *others = together(3, work)
    assert first[0] == pytest.approx([expected, expected], rel=1e-12)
    for other in others:
        assert other[0] == first[0] and all(map(torch.equal, other[1], first[1]))


def test_what_is_refused(together: Any) -> None:
    def work(rank: int) -> list[str]:
        said = []

        def refused(**settings: Any) -> None:
            model = settings.pop("model", None) or sharded(network())
            with pytest.raises(UnsupportedError) as caught:
                AutoBatch(model, torch.optim.SGD(model.parameters(), 0.1), data(), **settings)
            said.append(str(caught.value))

        refused(batch_size=16, lr="armijo")
        refused(batch_size=16, noise="micro-batch")
        refused(batch_size=16, noise="sketch(preconditioned=True)")
        refused(batch_size="inner-product-test")
        refused(batch_size="auto", model=sharded(network(nn.LSTM(8, 8))))
        partly = network()
        fsdp.fully_shard(partly[2])
        refused(batch_size=16, model=partly)
        with alone():
            refused(batch_size=16)
        with pytest.raises(UnsupportedError) as caught:
            rightbatch.probe(sharded(network()), data())
        said.append(str(caught.value))
        with pytest.raises(UnsupportedError) as caught:
            rightbatch.measure(sharded(network()), nn.functional.cross_entropy, *data())
        return [*said, str(caught.value)]

    words = [
        "armijo",
        "micro-batch",
        "metric",
        "projections",
        "2.3",
        "all parameters",
        "all of them",
        "probe",
        "measure",
    ]
    for said in together(2, work):
        for text, word in zip(said, words, strict=True):
            assert word in text


def test_a_stream_that_ends_in_the_midst_of_an_epoch(together: Any) -> None:
    """A process may be without a share in the last batch of an epoch, and a pass of the stream end within one."""
    source = list(zip(*data(), strict=True))

    def work(rank: int, shard: bool = True) -> list[torch.Tensor]:
        model = sharded(network()) if shard else network()
        stream = as_stream(source, 103)
        rightbatch.fit(model, stream, batch_size=34, lr=0.1, optimizer=OPTIMIZERS["sgd"], epochs=3, progress=False)
        return whole(model)

    expected = work(0, shard=False)
    for found in together(3, work):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_statistics_of_batch_norm_on_a_stream(together: Any) -> None:
    """Processes have read it differently far; the first samples that all have are passed by all."""
    source = list(zip(*data(1100, 2), strict=True))

    def work(rank: int) -> list[torch.Tensor]:
        model = sharded(network(nn.BatchNorm1d(8)))
        settings: dict[str, Any] = {"batch_size": 1030, "lr": "auto", "eval_every": 0.5, "epochs": 2}
        rightbatch.fit(model, as_stream(source, 2060), valid=data(50, 3), progress=False, **settings)
        return whole(model)

    first, second = together(2, work)
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("shard", [True, False])
def test_gradients_are_averaged_again_afterwards(together: Any, shard: bool) -> None:
    """In the caller's own loops, of a sharded model and of one in DistributedDataParallel."""

    def work(rank: int) -> list[torch.Tensor]:
        model = sharded(network()) if shard else nn.parallel.DistributedDataParallel(network())
        with pytest.raises(InputError):
            rightbatch.fit(model, data(), batch_size=10**6, epochs=1, progress=False)
        found = [gradients(model, rank)]
        rightbatch.fit(model, data(), batch_size=50, lr=1e-15, epochs=1, progress=False)
        return [*found[0], *gradients(model, rank)]

    def gradients(model: nn.Module, rank: int) -> list[torch.Tensor]:
        x, y = data(20, 5 + rank)
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        return [p.grad.full_tensor() if shard else p.grad for p in model.parameters()]

    plain = network()
    for rank in range(2):
        x, y = data(20, 5 + rank)
        (nn.functional.cross_entropy(plain(x), y) / 2).backward()
    for found in together(2, work):
        torch.testing.assert_close(found, 2 * [p.grad for p in plain.parameters()], rtol=1e-9, atol=1e-12)


def test_a_penalty_is_no_noise_of_the_layers(together: Any) -> None:
    def work(rank: int) -> str:
        model = sharded(network())
        sgd = torch.optim.SGD(model.parameters(), 0.1)
        auto = AutoBatch(model, sgd, data(), 16, noise="per-example(every=1)")
        with pytest.raises(UnsupportedError) as caught:
            for x, y in auto:
                auto.backward(nn.functional.cross_entropy(model(x), y) + 0.1 * model[0].weight.square().sum())
                auto.step()
        return str(caught.value)

    for text in together(2, work):
        assert "'0': its weight also acts elsewhere" in text


def test_memory_that_runs_out_is_said_at_once(together: Any) -> None:
    def work(rank: int) -> list[str]:
        said = []
        model = sharded(network())
        auto = AutoBatch(model, torch.optim.SGD(model.parameters(), 0.1), data(), 16)
        next(iter(auto))
        with pytest.raises(OutOfMemoryError) as caught:
            auto.handle_oom(torch.OutOfMemoryError("CUDA out of memory"))
        said.append(str(caught.value))

        def exhausting(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

        with pytest.raises(OutOfMemoryError) as caught:
            evaluate(
                model,
                exhausting,
                rightbatch.data.as_source(data()),
                torch.device("cpu"),
                ProcessGroup.present(),
                ForwardLimit(100),
            )
        return [*said, str(caught.value)]

    for rank, said in enumerate(together(2, work)):
        assert all(f"rank {rank}" in text and "micro_batch" in text for text in said)
