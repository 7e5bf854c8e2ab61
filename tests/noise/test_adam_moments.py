"""V and s from the moments of Adam: exact in expectation for gradients from one distribution."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from rightbatch import InputError, UnsupportedError
from rightbatch.noise.estimators.adam_moments import AdamMoments

STEPS = 6
SIGNAL, NOISE = 0.3, 5.0  # s and V of each weight

Make = Callable[..., torch.optim.Optimizer]
MAKERS: dict[str, Make] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.0),
    "Adam, fused": lambda p: torch.optim.Adam(p, lr=0.0, fused=True),
    "Adam, amsgrad": lambda p: torch.optim.Adam(p, lr=0.0, betas=(0.5, 0.9), amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.0, betas=(0.8, 0.95), weight_decay=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.0),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.0),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.0, alpha=0.9, centered=True, momentum=0.9),
}


def every_sequence() -> Tensor:
    """Shape (STEPS, 2^STEPS): a weight for each sequence of signs, so that a sum over weights is an expectation."""
    number = torch.arange(2**STEPS)
    return torch.stack([(number >> step & 1) * 2.0 - 1.0 for step in range(STEPS)]).double()


def steps(optimizer: torch.optim.Optimizer, weight: Tensor, sizes: list[int]) -> Iterator[int]:
    """Step on gradients of mean sqrt(s) and variance V/b, answering b before each step."""
    for signs, b in zip(every_sequence(), sizes, strict=True):
        weight.grad = (math.sqrt(SIGNAL) + math.sqrt(NOISE / b) * signs).view_as(weight)
        yield b
        optimizer.step()


@pytest.mark.parametrize("sizes", [[8] * STEPS, [4, 4, 16, 2, 64, 8]], ids=["one size", "many sizes"])
@pytest.mark.parametrize("maker", MAKERS)
def test_expectation_is_the_truth_after_every_step(maker: str, sizes: list[int]) -> None:
    weight = nn.Parameter(torch.zeros(8, 2**STEPS // 8, dtype=torch.float64))
    optimizer = MAKERS[maker]([weight])
    moments = AdamMoments([weight], optimizer)
    for taken, b in enumerate(steps(optimizer, weight, sizes)):
        found = moments.measurement(7.0, b)
        assert (found.samples, found.gradient_norm2, found.method) == (b, 7.0, "optimizer-state")
        assert all(math.isnan(error) for error in found.standard_error)
        if taken < 2:
            assert math.isnan(found.variance) and math.isnan(found.signal)
        else:
            assert found.variance == pytest.approx(NOISE * 2**STEPS, rel=1e-9)
            assert found.signal == pytest.approx(SIGNAL * 2**STEPS, rel=1e-9)


def test_long_run_of_one_size_is_the_closed_form() -> None:
    weight = nn.Parameter(torch.zeros(50))
    optimizer = torch.optim.Adam([weight], lr=0.0, betas=(0.9, 0.99))
    for _ in range(2000):
        weight.grad = torch.randn(50)
        optimizer.step()
    found = AdamMoments([weight], optimizer).measurement(1.0, 16)
    state = optimizer.state[weight]
    v, m2 = state["exp_avg_sq"].sum().item(), state["exp_avg"].square().sum().item()
    assert found.variance == pytest.approx(16 * (v - m2) * 1.9 / 1.8, rel=1e-5)
    assert found.signal == pytest.approx(m2 - found.variance / 16 * 0.1 / 1.9, rel=1e-5)
    # gradients of V/b = 1 for each of 50 weights; v averages over about 200 of them: sd sqrt(2/50/200) = 1.4 %
    assert found.variance == pytest.approx(16 * 50, rel=0.06)


def test_groups_with_moments_of_their_own_add_up_and_unused_weights_count_nothing() -> None:
    parts = [nn.Parameter(torch.zeros(2**STEPS, dtype=torch.float64)) for _ in range(2)]
    unused, frozen = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(5), requires_grad=False)
    groups = [{"params": [parts[0], unused]}, {"params": [parts[1], frozen], "betas": (0.5, 0.7)}]
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    moments = AdamMoments([*parts, unused, frozen], optimizer)
    for _ in steps(optimizer, parts[0], [8] * STEPS):
        parts[1].grad = 2 * parts[0].grad
    found = moments.measurement(1.0, 8)
    assert found.variance == pytest.approx((1 + 4) * NOISE * 2**STEPS, rel=1e-9)
    assert found.signal == pytest.approx((1 + 4) * SIGNAL * 2**STEPS, rel=1e-9)


def test_unmeasured_steps_count_as_large_as_the_batch_measured_before() -> None:
    weight = nn.Parameter(torch.zeros(2**STEPS, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=0.0)
    moments = AdamMoments([weight], optimizer)
    for taken, b in enumerate(steps(optimizer, weight, [4, 4, 4, 32, 32, 32])):
        if taken in (0, 3):
            moments.measurement(1.0, b)
    assert moments.measurement(1.0, 100).variance == pytest.approx(NOISE * 2**STEPS, rel=1e-9)


def test_round_trip_goes_on_alike_and_an_optimizer_taken_back_begins_anew() -> None:
    weight = nn.Parameter(torch.zeros(2**STEPS, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=0.0)
    moments, resumed = AdamMoments([weight], optimizer), AdamMoments([weight], optimizer)
    early = None
    for taken, b in enumerate(steps(optimizer, weight, [4, 8, 2, 16, 4, 32])):
        moments.measurement(1.0, b)
        if taken == 3:
            resumed.load_state_dict(moments.state_dict())
            early = {key: value.clone() for key, value in optimizer.state[weight].items()}
        elif taken > 3:
            resumed.measurement(1.0, b)
    assert resumed.state_dict() == moments.state_dict()
    assert resumed.measurement(1.0, 1) == moments.measurement(1.0, 1)
    optimizer.state[weight] = early
    moments.measurement(1.0, 1)  # what had been seen of the steps taken back is forgotten: they count as one size
    assert moments.state_dict()["shares"][0][0] == 3


def test_refusals() -> None:
    weight = nn.Parameter(torch.zeros(3))
    for optimizer in (
        torch.optim.SGD([weight], momentum=0.9),
        torch.optim.Adagrad([weight]),
        torch.optim.RMSprop([weight]),
        torch.optim.Adam([weight], betas=(0.0, 0.99)),
    ):
        with pytest.raises(UnsupportedError, match=rf"^{type(optimizer).__name__} as given keeps"):
            AdamMoments([weight], optimizer)
    with pytest.raises(InputError, match="steps 3 weights of 5"):
        AdamMoments([weight, nn.Parameter(torch.zeros(2))], torch.optim.Adam([weight]))
    other = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([weight, other])
    moments = AdamMoments([weight, other], optimizer)
    with pytest.raises(InputError, match="0 samples"):
        moments.measurement(1.0, 0)
    weight.grad = torch.ones(3)
    optimizer.step()
    other.grad = torch.ones(2)
    optimizer.step()
    with pytest.raises(UnsupportedError, match="have taken 1 and 2 steps of Adam"):
        moments.measurement(1.0, 4)
    optimizer.state[other] = {"step": torch.tensor(2.0)}
    with pytest.raises(UnsupportedError, match="holds no 'exp_avg'"):
        moments.measurement(1.0, 4)
