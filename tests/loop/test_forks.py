"""Forks of a run: each is the run at its own rate, all see the same batches, one goes on."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import AutoBatch, Callback
from rightbatch.data import Interval
from rightbatch.loop.update import nesterov_adam

N, B, EPOCHS = 600, 20, 2


def network(dropout: float = 0.0, norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 16), nn.BatchNorm1d(16) if norm else nn.Identity(), nn.Tanh(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(16, 3)).double()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 6, generator=generator, dtype=torch.float64)
    return x, (x @ torch.randn(6, 3, generator=generator, dtype=torch.float64)).argmax(1)


class Witness(Callback):
    """Keeps what was consumed, reported and decided."""

    def __init__(self) -> None:
        self.intervals: list[Interval] = []
        self.rows: list[dict[str, Any]] = []
        self.codes: list[tuple[int, str, dict[str, float]]] = []

    def consumed(self, step: int, intervals: list[Interval]) -> None:
        self.intervals += intervals

    def step(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def decision(self, step: int, samples: int, what: str, old: Any, new: Any, decision: Any) -> None:
        self.codes.append((step, decision.code, dict(decision.evidence)))


def loop(auto: AutoBatch, model: nn.Module, until: int | None = None) -> Iterator[Tensor]:
    for x, y in auto:
        auto.backward(F.cross_entropy(model(x), y))
        auto.step()
        yield x
        if auto.steps == until:
            return


def flat(model: nn.Module) -> Tensor:
    return torch.cat([t.detach().reshape(-1).double() for t in model.state_dict().values()])


def test_a_fork_is_the_run_at_its_rate() -> None:
    """The winner's state after the rounds, and the losses it was chosen by, are those of separate runs of each rate."""
    model, (x, y) = network(), data()
    start = copy.deepcopy(model)
    auto, witness = AutoBatch(model, None, (x, y), B, "tournament(share=1)", epochs=EPOCHS), Witness()
    auto.observe(witness)
    for _ in loop(auto, model):
        if auto.forks.over:
            break
    order = [torch.from_numpy(auto._step.stream.order.indices(i.epoch, i.start, i.stop)) for i in witness.intervals]
    rounds = [(step, evidence) for step, code, evidence in witness.codes if code == "tournament"]
    assert [step for step, _ in rounds] == [9, 26] and len(order) == 26  # 12 and 24 steps, stretched by 60/84
    losses = {}
    for lr in (0.004, 0.012, 0.036):
        twin = copy.deepcopy(start)
        optimizer = nesterov_adam(list(twin.parameters()))
        optimizer.param_groups[0]["lr"] = lr
        average = [p.detach().clone() for p in twin.parameters()]
        for step, rows in enumerate(order, 1):
            optimizer.zero_grad()
            F.cross_entropy(twin(x[rows]), y[rows]).backward()
            optimizer.step()
            for mean, p in zip(average, twin.parameters(), strict=True):
                mean.lerp_(p.detach(), 2 / (step + 1))
            if step in (9, 26):
                judge = copy.deepcopy(twin)
                for p, mean in zip(judge.parameters(), average, strict=True):
                    p.data.copy_(mean)
                fresh = torch.from_numpy(auto._step.stream.order.indices(0, step * B, step * B + 40))
                losses[step, f"loss_{lr:.3g}"] = F.cross_entropy(judge(x[fresh]), y[fresh]).item()
        if lr == auto._step.decide_.lr_state.lrs[0]:
            assert torch.allclose(flat(twin), flat(model), rtol=1e-12, atol=1e-14)
    for step, evidence in rounds:
        assert evidence == pytest.approx({name: losses[step, name] for name in evidence}, rel=1e-10)


def test_each_sample_is_consumed_once_and_each_batch_reported_once() -> None:
    model, witness = network(), Witness()
    auto = AutoBatch(model, None, data(), B, "auto", epochs=EPOCHS)
    auto.observe(witness)
    handed_out = sum(len(x) for x in loop(auto, model))
    consumed = [(i.epoch, at) for i in witness.intervals for at in range(i.start, i.stop)]
    assert consumed == [(epoch, at) for epoch in range(EPOCHS) for at in range(N)]
    assert len(witness.rows) == auto.steps == EPOCHS * N // B
    assert handed_out == EPOCHS * N + auto.forks.extra_samples > EPOCHS * N


def test_forks_see_the_same_random_numbers() -> None:
    """At equal rates, dropout included, all forks are the same, and so are their losses."""
    model, witness = network(dropout=0.5), Witness()
    auto = AutoBatch(model, None, data(), B, "tournament(ratio=1.0000000001)", epochs=EPOCHS)
    auto.observe(witness)
    for _ in loop(auto, model):
        pass
    losses = next(list(evidence.values()) for _, code, evidence in witness.codes if code == "tournament")
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("passes", [5, 9, 14, 20, 26, 40, 60])
def test_saved_in_the_midst_of_a_round_it_goes_on_bit_for_bit(passes: int, dropout: float) -> None:
    def fresh() -> tuple[nn.Sequential, AutoBatch]:
        model = network(dropout)
        return model, AutoBatch(model, None, data(), B, "auto", epochs=EPOCHS)

    model, auto = fresh()
    run = loop(auto, model)
    for _ in range(passes):
        next(run)
    run.close()
    saved = copy.deepcopy((model.state_dict(), auto.state_dict(), torch.get_rng_state()))
    for _ in loop(auto, model):
        pass
    auto.finalize()
    resumed, again = fresh()
    resumed.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    for _ in loop(again, resumed):
        pass
    again.finalize()
    assert torch.equal(flat(model), flat(resumed))


@pytest.mark.parametrize("bad", [0.036, 0.004, 0.012])
def test_a_fork_that_diverges_is_out_and_the_others_go_on(bad: float) -> None:
    model, witness = network(), Witness()
    auto = AutoBatch(model, None, data(), B, "auto", epochs=EPOCHS)
    auto.observe(witness)
    for x, y in auto:
        loss = F.cross_entropy(model(x), y)
        active = auto.forks.active and not auto.forks.judging
        spoilt = active and auto.steps == 2 and abs(auto.forks.lr - bad) < 1e-9
        auto.backward(loss * float("nan") if spoilt else loss)
        auto.step()
    first = next(evidence for _, code, evidence in witness.codes if code == "tournament")
    assert f"loss_{bad:.3g}" not in {name for name, value in first.items() if value == value}
    assert auto.samples == EPOCHS * N and len(witness.rows) >= auto.steps - 1  # of the last in turn there is no row


def test_where_all_diverge_the_run_goes_on_from_its_start_with_a_smaller_rate() -> None:
    model = network()
    auto = AutoBatch(model, None, data(), B, "auto", epochs=EPOCHS)
    for x, y in auto:
        loss = F.cross_entropy(model(x), y)
        auto.backward(loss * float("nan") if auto.forks.active and auto.steps == 3 else loss)
        auto.step()
    assert auto.forks.over and auto.samples == EPOCHS * N and torch.isfinite(flat(model)).all()


def test_weights_that_the_program_sets_end_the_forks() -> None:
    model = network(norm=False)
    auto = AutoBatch(model, None, data(), B, "auto", epochs=EPOCHS)
    for _ in loop(auto, model):
        if auto.steps == 3 and not auto.forks.over:
            with torch.no_grad():
                model[0].weight.fill_(0.25)
            x = next(iter(auto))[0]
            assert auto.forks.over and torch.equal(model[0].weight, torch.full_like(model[0].weight, 0.25))
            assert len(x) == B
            break


def test_a_loop_that_looks_ahead_has_no_forks() -> None:
    model, witness = network(), Witness()
    auto = AutoBatch(model, None, data(), B, "auto", epochs=1)
    auto.observe(witness)
    batches = iter(auto)
    ahead = next(batches)
    while ahead is not None:
        x, y = ahead
        ahead = next(batches, None)
        auto.backward(F.cross_entropy(model(x), y))
        auto.step()
    assert "no-forks" in [code for _, code, _ in witness.codes]
    assert auto.samples == N and auto.forks.extra_samples == 0


def test_the_optimizer_given_is_forked_with_its_state_and_keeps_its_groups() -> None:
    model = network()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[4].parameters(), "lr": 0.01}]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    auto, witness = AutoBatch(model, optimizer, data(), B, "auto", epochs=EPOCHS), Witness()
    auto.observe(witness)
    for _ in loop(auto, model):
        pass
    rates = next(evidence for _, code, evidence in witness.codes if code == "tournament")
    assert set(rates) == {"loss_0.3", "loss_0.1", "loss_0.0333"}
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert second == pytest.approx(first / 10)
