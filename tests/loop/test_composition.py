"""Rules around rules around rules, over AdamW: they keep to their bounds and survive a checkpoint bit for bit."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import AutoBatch
from rightbatch.rule_text import write_rule
from rightbatch.rules.batch_size import batch_size_rule
from rightbatch.rules.lr import lr_rule

N, EPOCHS = 600, 6
RAMP = "ramp(rule='inner-product-test(theta=0.2, initial=8)', initial=8, over_epochs=2.0)"
BATCH = f"bounded(rule={f'rounded(rule={RAMP!r})'!r}, min_size=8, max_size=100)"
STEP = "sde(rule=\"warm-up(rule='cosine(lr=0.02)', over_epochs=0.5)\", at=32, max_size=128)"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 6, generator=generator)
    return x, (x @ torch.randn(6, 4, generator=generator) + torch.randn(N, 4, generator=generator)).argmax(1)


def begin(model: nn.Module) -> AutoBatch:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, betas=(0.95, 0.995))
    return AutoBatch(model, optimizer, data(), BATCH, STEP, seed=3, epochs=EPOCHS)


def go(auto: AutoBatch, model: nn.Module, stop: int = 0) -> list[dict[str, Any]]:
    rows = []
    for x, y in auto:
        auto.backward(F.cross_entropy(model(x), y))
        if auto.step():
            group = auto.optimizer.param_groups[0]
            row = {name: auto.last[name] for name in ("batch_size", "lr", "train_loss")}
            rows.append({**row, "betas": group["betas"], "eps": group["eps"]})
            if auto.steps == stop:
                break
    return rows


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture(scope="module")
def whole() -> tuple[list[dict[str, Any]], Tensor]:
    model = network()
    rows = go(begin(model), model)
    return rows, flat(model)


def test_every_layer_of_the_rules_acts(whole: tuple[list[dict[str, Any]], Tensor]) -> None:
    rows, _ = whole
    sizes = [row["batch_size"] for row in rows]
    assert sizes[0] == 8 and max(sizes) <= 100 and min(sizes) >= 8
    ordinary = set(sizes[:-1])
    assert len({b for b in ordinary if b & (b - 1) == 0}) >= 3  # powers of two; an epoch's end may leave another size
    seen = 0
    for row in rows:
        kappa = row["batch_size"] / 32
        assert row["betas"][0] == pytest.approx(1 - kappa * (1 - 0.95))
        assert row["betas"][1] == pytest.approx(1 - kappa * (1 - 0.995))
        assert row["eps"] == pytest.approx(1e-8 / kappa**0.5)
        part = seen / (N * EPOCHS)
        warm = min(1.0, (seen + row["batch_size"]) / (0.5 * N))
        cosine = 0.02 * (1 + torch.cos(torch.tensor(torch.pi * part)).item()) / 2
        assert row["lr"] == pytest.approx(cosine * warm * kappa**0.5, rel=1e-5)
        seen += row["batch_size"]
    assert seen == N * EPOCHS


@pytest.mark.parametrize("stop", [1, 17, 40])
def test_a_resume_is_bit_for_bit(whole: tuple[list[dict[str, Any]], Tensor], stop: int) -> None:
    rows, weights = whole
    model = network()
    auto = begin(model)
    before = go(auto, model, stop)
    saved = {"auto": auto.state_dict(), "model": {k: v.clone() for k, v in model.state_dict().items()}}
    other = network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(saved["model"])
    resumed = begin(other)
    resumed.load_state_dict(saved["auto"])
    assert before + go(resumed, other) == rows
    assert torch.equal(flat(other), weights)


def test_the_texts_come_back() -> None:
    for read, text in ((batch_size_rule, BATCH), (lr_rule, STEP)):
        rule = read(text)
        assert read(write_rule(rule)) == rule
