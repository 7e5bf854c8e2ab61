"""What cannot go well is told, in every process, before it does harm."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from rightbatch import AutoBatch
from rightbatch.errors import InputError, RightbatchError, UnsupportedError
from rightbatch.loop.distributed.process_group import ProcessGroup, alone
from rightbatch.loop.distributed.rank_sync import digest_of, unwrapped

X, Y = torch.randn(64, 4), torch.arange(64) % 2


def begun(rank: int, model: nn.Module | None = None, **settings: Any) -> AutoBatch:
    model = model or nn.Linear(4, 2)
    arguments = {"batch_size": 16, "seed": 0, "epochs": 8} | settings
    return AutoBatch(model, torch.optim.SGD(model.parameters(), 0.1), (X, Y), **arguments)


def loop(auto: AutoBatch) -> None:
    for x, y in auto:
        auto.backward(nn.functional.cross_entropy(auto.model(x), y))
        auto.step()


def refused(error: type[Exception], work: Any) -> Any:
    def attempt(rank: int) -> str:
        with pytest.raises(error) as caught:
            work(rank)
        return str(caught.value)

    return attempt


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (lambda rank: {"seed": rank}, "differ in seed: rank 0: 0; rank 1: 1"),
        (lambda rank: {"batch_size": 16 + rank}, "differ in rules: .*16.*17"),
        (lambda rank: {"model": nn.Linear(4, 2 + rank)}, "differ in the model"),
    ],
)
def test_processes_with_different_settings(together: Any, settings: Any, told: str) -> None:
    for text in together(2, refused(InputError, lambda rank: begun(rank, **settings(rank)))):
        with pytest.raises(InputError, match=told):
            raise InputError(text)


def test_a_rate_set_in_one_process_only(together: Any) -> None:
    def work(rank: int) -> None:
        auto = begun(rank)
        if rank == 1:
            auto.optimizer.param_groups[0]["lr"] = 0.2
        loop(auto)

    for text in together(2, refused(RightbatchError, work)):
        assert "taken different steps" in text
        assert "rank 0: step 0: batch of 16, learning rate 0.1" in text and "learning rate 0.2" in text


def test_parameters_changed_in_one_process_only(together: Any) -> None:
    def work(rank: int) -> None:
        auto = begun(rank)
        if rank == 1:
            with torch.no_grad():
                auto.model.weight.mul_(2)
        loop(auto)

    for text in together(2, refused(RightbatchError, work)):
        assert "gone apart in the norm of the parameters: rank 0: " in text and "rank 1: " in text


def test_a_state_loaded_in_one_process_only(together: Any) -> None:
    def work(rank: int) -> None:
        auto = begun(rank)
        loop(auto)
        state, auto = auto.state_dict(), begun(rank)
        if rank == 0:
            with torch.no_grad():
                auto.model.weight.add_(1)
        auto.load_state_dict(state)

    for text in together(2, refused(InputError, work)):
        assert "differ in parameters and buffers: rank 0: " in text


def test_a_method_that_one_process_cannot_use_is_given_up_by_all(together: Any) -> None:
    """A penalty term in the loss of one process, which hooks on layers cannot see."""

    def work(rank: int) -> str:
        auto = begun(rank, nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), batch_size=32, noise="auto(every=1)")
        for x, y in auto:
            loss = nn.functional.cross_entropy(auto.model(x), y)
            auto.backward(loss + 0.1 * auto.model[0].weight.square().sum() if rank == 1 else loss)
            auto.step()
        assert auto.meter is not None and auto.noise is not None
        return auto.meter.method

    first, second = together(2, work)
    assert "micro-batches" in first and "rank 1 could not measure otherwise" in first
    assert "micro-batches" in second and "because" in second


def test_sharded_and_synchronised_models() -> None:
    class FullyShardedModel(nn.Linear):
        pass

    with pytest.raises(UnsupportedError, match="whole in each process"):
        unwrapped(FullyShardedModel(2, 2), ProcessGroup())
    synced = nn.Sequential(nn.Linear(4, 4), nn.SyncBatchNorm(4))
    assert unwrapped(synced, ProcessGroup()) is synced
    with pytest.raises(UnsupportedError, match="'1': SyncBatchNorm"):
        unwrapped(synced, ProcessGroup(2))


def test_audits_are_for_one_process(together: Any) -> None:
    for text in together(2, refused(UnsupportedError, lambda rank: begun(rank, noise="auto(audit_every=2)"))):
        assert "audit_every" in text


def test_torchrun_without_a_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(InputError, match="init_process_group"):
        begun(0)


def test_what_one_process_does_alone_waits_for_no_other(together: Any) -> None:
    def work(rank: int) -> int:
        if rank == 1:
            return 0
        with alone():
            auto = begun(rank)
            loop(auto)
        return auto.samples

    assert together(2, work) == [8 * 64, 0]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_a_cut(size: int) -> None:
    """Contiguous, complete, uneven by at most one, never a single sample unless there is but one."""
    for samples in range(1, 40):
        shares = [ProcessGroup(size, rank).share(samples) for rank in range(size)]
        taken = [(a, b) for a, b in shares if b > a]
        assert [i for a, b in taken for i in range(a, b)] == list(range(samples))
        sizes = [b - a for a, b in taken]
        assert max(sizes) - min(sizes) <= 1 and (min(sizes) >= 2 or samples == 1)
        assert len(taken) == size or samples < 2 * size
        assert shares[0][1] > 0


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_no_share_exceeds_what_memory_holds(size: int, most: int) -> None:
    """Rather single samples than more than `micro_batch` in a pass."""
    for samples in range(1, most * size + 1):
        shares = [ProcessGroup(size, rank).share(samples, most) for rank in range(size)]
        taken = [(a, b) for a, b in shares if b > a]
        assert [i for a, b in taken for i in range(a, b)] == list(range(samples))
        assert max(b - a for a, b in taken) <= most


def test_gradients_are_added_in_buckets(together: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several precisions, some missing in one process, one larger than a bucket."""

    def work(rank: int) -> list[Any]:
        monkeypatch.setattr("rightbatch.loop.distributed.process_group.BUCKET_BYTES", 64)
        ranks = ProcessGroup.present()
        shapes = [((3,), torch.float32), ((5, 5), torch.float64), ((2, 2), torch.float32), ((9,), torch.float32)]
        parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape, dtype in shapes]
        for index, parameter in enumerate(parameters[:3]):
            if index != 1 or rank == 1:
                parameter.grad = torch.full_like(parameter, float(rank + 1))
        ranks.add_gradients(parameters)
        rows = ranks.gather_uneven([float(rank)] * rank)
        return [*(None if p.grad is None else p.grad.unique().tolist() for p in parameters), rows, dist.get_rank()]

    for rank, found in enumerate(together(3, work)):
        assert found == [[6.0], [2.0], [6.0], None, [[], [1.0], [2.0, 2.0]], rank]


def test_digest_tells_one_bit() -> None:
    ones = torch.ones(3, dtype=torch.bfloat16)
    other = ones.clone()
    other[1] = 1.0078125
    assert digest_of([ones]) == digest_of([ones.clone()]) != digest_of([other])
