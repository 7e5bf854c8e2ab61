"""Random-sign projections against the exact per-example norms."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rightbatch.noise.layers import convolution_projections, random_projections
from rightbatch.noise.layers.coverage import RULES
from rightbatch.noise.layers.random_projections import RANDOM_PROJECTIONS
from rightbatch.noise.layers.rule import Snapshot
from rightbatch.noise.layers.signs import BLOCK_SIGNS, Signs

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
B, DRAWS = 3, 300
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear, few inputs": (lambda: nn.Linear(4, 7), (5, 4)),
    "linear, few outputs": (lambda: nn.Linear(7, 4), (5, 7)),
    "linear, two dimensions of positions": (lambda: nn.Linear(5, 5), (2, 3, 5)),
    "conv": (lambda: nn.Conv2d(3, 4, 3), (3, 6, 7)),
    "conv, stride and padding": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 7, 8)),
    "conv, uneven": (lambda: nn.Conv2d(3, 4, (3, 2), (1, 3), (2, 0), (2, 1)), (3, 7, 8)),
    "conv, padding beyond the kernel": (lambda: nn.Conv2d(4, 6, 1, padding=2), (4, 3, 4)),
    "conv, same": (lambda: nn.Conv2d(4, 3, (4, 3), padding="same"), (4, 5, 6)),
    "conv, circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (4, 5, 6)),
    "conv, groups": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 5, 6)),
    "conv 1d, reflect": (lambda: nn.Conv1d(4, 5, 3, padding=1, padding_mode="reflect"), (4, 6)),
    "conv 1d, one place": (lambda: nn.Conv1d(4, 5, 6), (4, 6)),
    "conv 3d": (lambda: nn.Conv3d(2, 3, (3, 2, 1), stride=2, padding=1), (2, 4, 5, 3)),
    "transposed 1d, groups": (lambda: nn.ConvTranspose1d(4, 4, 3, stride=2, groups=2), (4, 4)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1, dilation=2), (3, 4, 5)),
    "conv, few inputs, tall": (lambda: nn.Conv2d(2, 5, (4, 3), (1, 1), (0, 1), (2, 1)), (2, 8, 5)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 3, 2, padding=1), (2, 3, 3, 4)),
}


def used(
    layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Snapshot, Tensor, Tensor]:
    """What the layer's rule keeps, the gradient at its output, and the exact norms."""
    layer.to(dtype)
    x = torch.randn(B, *shape, dtype=dtype, requires_grad=True)
    output = layer(x)
    rule, d = RULES[type(layer)], torch.randn_like(output)
    kept = rule.keep(layer, (x,), output)
    return kept, d, rule.norms2(layer, kept, d)


def projection(layer: nn.Module, kept: Snapshot, d: Tensor, signs: Signs, probes: int = 1) -> Tensor:
    return RANDOM_PROJECTIONS[RULES[type(layer)]](layer, kept, d, signs, probes)


def agrees(draws: Tensor, exact: Tensor) -> None:
    # five standard errors: once in 10^6 for each of about 200 numbers; and the standard error must itself be small
    error = draws.std(0) / len(draws) ** 0.5
    assert (error < 0.12 * exact).all()
    assert ((draws.mean(0) - exact).abs() < 5 * error + 1e-12 * exact).all()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "frozen bias"])
@pytest.mark.parametrize("along_input", [True, False], ids=["along input", "along output"])
@pytest.mark.parametrize("name", CASES)
def test_the_mean_of_many_is_exact(name: str, along_input: bool, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape = CASES[name]
    layer = make()
    layer.bias.requires_grad_(bias)
    monkeypatch.setattr(
        convolution_projections, "along_input", lambda *_: along_input
    )  # a linear layer goes by its own sides
    kept, d, exact = used(layer, shape)
    signs = Signs()
    agrees(torch.stack([projection(layer, kept, d, signs, 2) for _ in range(DRAWS)]), exact)


@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("pool", [BLOCK_SIGNS, 40])
def test_the_mean_of_many_embeddings_is_exact(
    padding_idx: int | None, pool: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # with the small pool the samples share signs, moved along: still unbiased
    monkeypatch.setattr(random_projections, "BLOCK_SIGNS", pool)
    layer, ids = nn.Embedding(11, 4, padding_idx), torch.randint(0, 11, (B, 2, 4))
    ids[0, 0] = 2
    ids[1] = 5
    d = torch.randn(B, 2, 4, 4, dtype=torch.float64)
    signs, exact = Signs(), RULES[nn.Embedding].norms2(layer, (ids,), d)
    agrees(torch.stack([projection(layer, (ids,), d, signs, 2) for _ in range(DRAWS)]), exact)
    one = projection(layer, (ids,), d, signs)[1]  # one token only: its sign squares to one
    torch.testing.assert_close(one, exact[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_a_frozen_weight_leaves_what_is_exact(name: str) -> None:
    make, shape = CASES[name]
    layer = make()
    layer.weight.requires_grad_(False)
    kept, d, exact = used(layer, shape)
    torch.testing.assert_close(projection(layer, kept, d, Signs()), exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["linear, few inputs", "conv, stride and padding", "transposed 2d"])
def test_errors_of_samples_are_independent(name: str) -> None:
    make, shape = CASES[name]
    layer = make()
    kept, d, _ = used(layer, shape)
    # the same sample over and over: with signs in common all estimates would be the same
    kept, d = (kept[0][:1].expand(B, *kept[0].shape[1:]), *kept[1:]), d[:1].expand(B, *d.shape[1:])
    signs = Signs()
    draws = torch.stack([projection(layer, kept, d, signs) for _ in range(1000)])
    off_diagonal = torch.corrcoef(draws.T)[~torch.eye(B, dtype=torch.bool)]
    assert off_diagonal.abs().max() < 0.15  # 1000 draws of independent numbers: standard deviation 0.032


@pytest.mark.parametrize("probes", [1, 4])
def test_more_probes_have_less_variance(probes: int) -> None:
    layer = nn.Linear(6, 8)
    kept, d, _ = used(layer, (9, 6))
    signs = Signs()
    draws = torch.stack([projection(layer, kept, d, signs, probes) for _ in range(2000)])
    a = torch.cat([kept[0], torch.ones(B, 9, 1)], 2)
    gram = torch.bmm(d.mT, a).mT @ torch.bmm(d.mT, a)
    variance = 2 * (gram.square().sum((1, 2)) - gram.diagonal(dim1=1, dim2=2).square().sum(1)) / probes
    # a variance from 2000 draws of nearly χ² numbers (kurtosis up to 15) has a standard error of at most 9 %
    torch.testing.assert_close(draws.var(0), variance, rtol=0.4, atol=0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (1, 6)),
        (nn.Linear(1, 5, bias=False), (4, 1)),
        (nn.Linear(5, 1, bias=False), (4, 5)),
        (nn.Conv2d(1, 1, 3, bias=False), (1, 5, 5)),
        (nn.Conv2d(3, 3, 3, groups=3, bias=False), (3, 5, 5)),
    ],
    ids=["linear, one position", "linear, one input", "linear, one output", "conv, one channel", "conv, depthwise"],
)
def test_one_sign_squares_to_one(layer: nn.Module, shape: tuple[int, ...]) -> None:
    kept, d, exact = used(layer, shape)
    torch.testing.assert_close(projection(layer, kept, d, Signs()), exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["linear, few inputs", "linear, few outputs", "conv", "transposed 2d"])
def test_half_precision_is_widened(name: str) -> None:
    make, shape = CASES[name]
    layer = make()
    kept, d, exact = used(layer, shape, torch.float32)
    half = tuple(value.bfloat16() if isinstance(value, Tensor) else value for value in kept)
    found = projection(layer, half, d.bfloat16(), Signs(5))
    assert found.dtype is torch.float32
    # inputs rounded to 8 bits: 0.4 % each, more where the projection cancels
    torch.testing.assert_close(found, projection(layer, kept, d, Signs(5)), rtol=0.05, atol=0.02 * exact.max().item())
    large = torch.full_like(d, 300.0).half()  # squares beyond half precision
    assert (
        projection(layer, tuple(v.half() if isinstance(v, Tensor) else v for v in kept), large, Signs())
        .isfinite()
        .all()
    )


def test_channels_last() -> None:
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    kept, d, _ = used(layer, (3, 7, 8))
    last = (kept[0].to(memory_format=torch.channels_last),)
    found = projection(layer, last, d.to(memory_format=torch.channels_last), Signs())
    torch.testing.assert_close(found, projection(layer, kept, d, Signs()), rtol=1e-12, atol=0)


def test_nothing_given_is_changed() -> None:
    for make, shape in CASES.values():
        layer = make()
        kept, d, _ = used(layer, shape)
        before = kept[0].clone(), d.clone()
        projection(layer, kept, d, Signs())
        assert torch.equal(kept[0], before[0]) and torch.equal(d, before[1])


def test_signs_follow_from_the_seed() -> None:
    like, random_state, torch_state = torch.empty(0), random.getstate(), torch.get_rng_state()
    shapes = [(5,), (3, 4), (BLOCK_SIGNS, 2), (7,)]
    first, second, other = ([signs.draw(s, like) for s in shapes] for signs in (Signs(3), Signs(3), Signs(4)))
    assert all(map(torch.equal, first, second))
    assert not any(map(torch.equal, first[1:], other[1:]))
    assert [tuple(s.shape) for s in first] == shapes
    assert random.getstate() == random_state and torch.equal(torch.get_rng_state(), torch_state)


def test_signs_are_fair_and_in_the_precision_asked_for() -> None:
    for dtype in (torch.float32, torch.float64):
        drawn = Signs(1).draw((400, 500), torch.empty(0, dtype=dtype))
        assert drawn.dtype is dtype and drawn.abs().min() == drawn.abs().max() == 1
        # 200 000 fair signs: the mean has standard deviation 0.0022, neighbours' products too
        assert abs(drawn.mean()) < 0.01
        assert abs((drawn[:, 1:] * drawn[:, :-1]).mean()) < 0.01


def test_signs_go_on_where_their_state_was_taken() -> None:
    like, signs = torch.empty(0), Signs(2)
    signs.draw((BLOCK_SIGNS, 3), like)
    state = signs.state_dict()
    expected = [signs.draw((6,), like) for _ in range(5)]
    resumed = Signs(9)
    resumed.load_state_dict(state)
    assert all(torch.equal(resumed.draw((6,), like), e) for e in expected)
