"""What users do by habit or by accident must be told or survived."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rightbatch import AutoBatch, InputError, RunFolderError, UnsupportedError, fit
from rightbatch.data import blobs
from rightbatch.noise import Noise
from rightbatch.rules.batch_size import BigBatch


def network(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle: nn.Module = nn.BatchNorm1d(16) if norm else nn.Identity()
    return nn.Sequential(nn.Linear(2, 16), middle, nn.ReLU(), nn.Linear(16, 3))


@pytest.mark.parametrize("step", [None, "auto"])
def test_zero_grad_between_micro_batches_is_harmless(step: Any) -> None:
    results = []
    for clear in (False, True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        auto = AutoBatch(model, optimizer, blobs(100), 40, step, micro_batch=10, epochs=1)
        for x, y in auto:
            if clear:
                optimizer.zero_grad()
                model.zero_grad()
            auto.backward(F.cross_entropy(model(x), y))
            auto.step()
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*results)


def test_zero_grad_between_backward_and_step_is_an_error() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    auto = AutoBatch(model, optimizer, blobs(100), 40, epochs=1)
    x, y = next(iter(auto))
    auto.backward(F.cross_entropy(model(x), y))
    optimizer.zero_grad()
    with pytest.raises(InputError, match="zero_grad"):
        auto.step()


def test_zero_grad_of_a_given_optimizer_does_not_stop_averaging() -> None:
    """Whole batches leave nothing to lose, and the averaging puts the gradients of its own parameters back."""
    results = []
    for clear in (False, True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        auto = AutoBatch(model, optimizer, blobs(100), 20, "auto", epochs=20)
        for x, y in auto:
            if clear:
                optimizer.zero_grad()
            auto.backward(F.cross_entropy(model(x), y))
            auto.step()
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*results)


@pytest.mark.parametrize("bad", [0, 2, 4, 8])
def test_one_broken_batch_in_the_range_test_does_not_ruin_the_run(bad: int) -> None:
    """Whichever of the first batches is broken, the step size ends within a factor of ten of the clean run's."""

    def final_rate(broken: int | None) -> float:
        model = network()
        auto = AutoBatch(model, None, blobs(400), 40, "auto", epochs=10)
        for number, (x, y) in enumerate(auto):
            loss = F.cross_entropy(model(x), y)
            auto.backward(loss * float("nan") if number == broken else loss)
            auto.step()
        return auto.lr

    clean = final_rate(None)
    assert clean / 10 < final_rate(bad) < clean * 10


def test_a_given_optimizer_can_be_used_again() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        fit(model, blobs(100), batch_size=20, epochs=1, optimizer=optimizer, progress=False)
    assert optimizer.param_groups[0]["params"] == list(model.parameters())


def test_a_refused_folder_leaves_the_optimizer_alone(tmp_path: Any) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError):
        fit(model, blobs(100), optimizer=optimizer, epochs=1, run_dir=tmp_path / "file", progress=False)
    assert optimizer.param_groups[0]["params"] == list(model.parameters())


def test_searches_refuse_unequal_rates_and_maximize() -> None:
    model = network()
    unequal = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.1}, {"params": model[3].parameters()}], lr=0.2)
    for optimizer in (unequal, torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)):
        with pytest.raises(UnsupportedError, match="one learning rate for all"):
            AutoBatch(model, optimizer, blobs(100), 20, "armijo")


@pytest.mark.parametrize("batch", [20, BigBatch(initial=20, kappa=50)])
def test_batch_norm_never_meets_a_single_sample(batch: Any) -> None:
    sizes: list[int] = []
    model = network(norm=True)
    auto = AutoBatch(model, None, blobs(101), batch, 0.1, epochs=2)
    for x, y in auto:
        sizes.append(len(x))
        auto.backward(F.cross_entropy(model(x), y))
        auto.step()
    assert min(sizes) > 1


def test_fit_gives_the_modes_back() -> None:
    model = network(norm=True).eval()
    model[3].train()
    fit(model, blobs(100), batch_size=20, epochs=1, valid=0.2, progress=False)
    assert [m.training for m in model] == [False, False, False, True]


def test_the_noise_tells_its_age() -> None:
    auto = AutoBatch(network(), None, blobs(400), BigBatch(initial=20), 0.01, epochs=1)
    assert auto.noise is None
    for x, y in auto:
        auto.backward(F.cross_entropy(auto.model(x), y))
        if auto.step():
            assert auto.noise is not None and auto.noise.age_samples == 0


def test_the_noise_grows_old_while_nothing_is_measured_and_over_a_resume() -> None:
    def steps(auto: AutoBatch, count: int) -> list[tuple[int | None, int | None]]:
        seen = []
        for x, y in auto:
            auto.backward(F.cross_entropy(auto.model(x), y))
            if auto.step():
                age = auto.noise.age_samples if auto.noise is not None else None
                seen.append((age, auto.last["noise_age_samples"]))
                if len(seen) == count:
                    break
        return seen

    def new() -> AutoBatch:
        torch.manual_seed(0)
        return AutoBatch(network(), None, blobs(400), 20, 0.01, epochs=1, noise=Noise(every=4))

    whole, part, rest = new(), new(), new()
    ages = steps(whole, 12)
    assert {0, 20, 40, 60} <= {live for live, _ in ages} <= {None, 0, 20, 40, 60}
    assert all(live == recorded for live, recorded in ages)
    before = steps(part, 6)
    rest.model.load_state_dict(part.model.state_dict())
    rest.load_state_dict(part.state_dict())
    assert rest.noise == part.noise
    assert before + steps(rest, 6) == ages
