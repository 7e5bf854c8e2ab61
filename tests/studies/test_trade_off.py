"""The trade-off: curves that are known, what may be missing, and a study of blobs."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from rightbatch import InputError
from rightbatch.studies import Subject, study
from rightbatch.studies.experiment import Result, Section
from rightbatch.studies.trade_off.curve import TradeOffCurve, at_size, fit_curve, misfit, noise_along
from rightbatch.studies.trade_off.design import TradeOff

BLOBS = Subject("blobs", "linear")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CRITICAL, LEAST, HALF = 20.0, 50.0, 80.0


def made(exponent: float | None = None, scatter: float = 0.01, noise: float = CRITICAL, seeds: int = 5) -> list[Result]:
    """Runs that follow the curve, or steps falling with a power of b; rates and step times as theory has them."""
    random, results = np.random.default_rng(0), []
    for seed in range(seeds):
        for b in SIZES:
            steps = LEAST * (1 + CRITICAL / b) if exponent is None else 1000 * b**exponent
            result = {
                "size": b,
                "seed": seed,
                "target": 0.3,
                "steps": steps * math.exp(scatter * random.standard_normal()),
                "step_s": 1e-3 * (1 + b / HALF),
                "rate": 0.5 / (1 + CRITICAL / b),
                "enclosed": True,
                "tried": {},
            }
            if b == 32:
                result["noise"] = {"steps": [0, 40, 80], "variance": [noise, 2 * noise, 4 * noise], "signal": [1, 2, 4]}
            results.append(result)
    return results


def section(results: list[Result]) -> Section:
    return TradeOff(sizes=SIZES).section(BLOBS, {f"{r['size']}, {r['seed']}": r for r in results})


@pytest.mark.parametrize("critical", [0.7, 3.0, 20.0, 200.0])
def test_the_curve_is_found_though_one_point_is_far_off(critical: float) -> None:
    truth = TradeOffCurve(50.0, critical)
    steps = [truth.steps(b) for b in SIZES]
    found = fit_curve(SIZES, steps)
    assert found is not None
    assert found.critical == pytest.approx(critical, rel=1e-3) and found.least_steps == pytest.approx(50, rel=1e-3)
    for b in SIZES:
        assert (found.steps(b) / found.least_steps - 1) * (
            found.steps(b) * b / found.least_samples - 1
        ) == pytest.approx(1)
    steps[4] *= 3
    found = fit_curve(SIZES, steps)
    assert found is not None and found.critical == pytest.approx(critical, rel=0.15)


def test_what_no_curve_can_be_told_from() -> None:
    assert fit_curve(SIZES, [1000 / b for b in SIZES]) is None
    assert fit_curve(SIZES, [100.0] * len(SIZES)) is None
    assert fit_curve((1, 8), (30.0, 10.0)) is None


def test_the_noise_is_averaged_over_noise_free_steps() -> None:
    """From no noise to V = b s: 1/(1 + B/b) falls from 1 to 1/2, and B/(1 + B/b) rises from 0 to b/2."""
    assert noise_along([0, 10], [0.0, 32.0], [1.0, 1.0], 32) == pytest.approx(32 * (0.5 / 2) / (1.5 / 2))
    # A noise scale that stays is its own average, however gradients shrink and the looks lie.
    assert noise_along([0, 1, 50], [60.0, 6.0, 0.6], [3.0, 0.3, 0.03], 4) == pytest.approx(20)
    # B grows linearly in noise-free steps σ from 0 to 60: dS = (1 + B/b) dσ, and the average is 30.
    way = np.linspace(0, 60, 2001)
    assert noise_along((way + way**2 / 16).tolist(), way.tolist(), [1.0] * 2001, 8) == pytest.approx(30, rel=1e-4)
    assert noise_along([0], [1.0], [1.0], 8) is None
    assert noise_along([0, 1], [1.0, 1.0], [-1.0, -2.0], 8) is None
    assert noise_along([0, 1], [1.0, math.nan], [1.0, 1.0], 8) is None


@pytest.mark.parametrize(("rows", "columns", "quantile"), [(5, 10, 2.244), (3, 8, 2.996), (3, 5, 4.757)])
def test_the_misfit_is_an_f_ratio(rows: int, columns: int, quantile: float) -> None:
    """Quantiles from tables of F(m - 2, (m - 2)(n - 1)); the approximation is good to 1 %."""
    residuals = np.tile(np.linspace(-1, 1, columns), (rows, 1)) + np.linspace(-1, 1, rows)[:, None]
    ratio, most = misfit(residuals)
    assert most == pytest.approx(quantile, rel=0.01)
    within = columns * np.square(np.linspace(-1, 1, rows)).sum() / ((columns - 2) * (rows - 1))
    assert ratio == pytest.approx(rows * np.square(np.linspace(-1, 1, columns)).sum() / (columns - 2) / within)
    assert all(math.isnan(value) for value in misfit(residuals[:1]))


def test_values_between_sizes_lie_on_powers() -> None:
    assert at_size([1, 4, 16], [1.0, 2.0, 8.0], 2) == pytest.approx(2**0.5)
    assert at_size([1, 4, 16], [1.0, 2.0, 8.0], 8) == pytest.approx(4) and at_size([1, 4], [1.0, 2.0], 99) == 2


def test_what_follows_the_curve_agrees() -> None:
    seen = section(made())
    curve, twice, noise, over, below, above, regimes, time = seen.findings
    assert {f.verdict for f in (curve, twice, noise, below, above, regimes, time)} == {"agrees"}
    assert f"(curve: {2 / (1 + CRITICAL / 256):.2f})" in twice.ours and over.verdict == "cannot tell"
    assert f"sqrt(B_crit·n½) {math.sqrt(CRITICAL * HALF):.0f} with n½ 80; least at 32" in time.ours
    assert len(seen.drawings) == 2 and len(seen.rows) == len(SIZES) and len(seen.rows[0]) == len(seen.head)


def test_what_does_not_follow_differs() -> None:
    power = section(made(exponent=-0.5)).findings
    assert power[0].verdict == power[1].verdict == "differs" and power[6].verdict == "differs"
    assert " more than the scatter" in power[0].ours
    noisy = section(made(noise=10 * CRITICAL)).findings
    assert noisy[2].verdict == "differs" and noisy[3].verdict == "agrees" and "ratio 10 (" in noisy[2].ours


def test_missing_trials_decide_nothing() -> None:
    whole = made()
    for count in (1, 2 * len(SIZES) + 4):
        seen = section(whole[:count])
        assert {f.verdict for f in seen.findings} == {"cannot tell"} and len(seen.drawings) == 2
    lost = [{**r, "steps": None, "rate": None, "enclosed": False} for r in whole]
    seen = section(lost)
    assert {f.verdict for f in seen.findings} == {"cannot tell"} and not seen.drawings
    assert f"{len(whole)} of {len(whole)} runs did not reach" in " ".join(seen.paragraphs)
    # One size that is not reached is left out: the curve stands without it.
    part = section([r for r in lost if r["size"] == 1] + [r for r in whole if r["size"] != 1])
    assert part.findings[0].verdict == "agrees" and len(part.rows) == len(SIZES) - 1


def test_a_study_of_blobs(tmp_path: Path) -> None:
    design = TradeOff(sizes=(8, 32, 128), seeds=1, reference=640, noise_looks=3)
    done = study(design, BLOBS, folder=tmp_path, processes=0, progress=io.StringIO())
    steps = {r["size"]: r["steps"] for r in done.results.values()}
    assert steps[8] > steps[128] and steps[32] >= 1 and len({r["target"] for r in done.results.values()}) == 1
    way = done.results["batch 32, seed 0"]["noise"]
    assert way["steps"][0] == 0 and way["steps"] == sorted(set(way["steps"])) and min(way["variance"]) > 0
    assert all("noise" not in r for r in done.results.values() if r["size"] != 32)
    assert "Ask for more" in " ".join(design.section(BLOBS, done.results).paragraphs)
    assert max(len(json.dumps(r)) for r in done.results.values()) < 10_000


def test_sizes_suit_data_and_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "normal.py").write_text(
        "from torch import nn\n\ndef network(): return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))\n"
    )
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", x=random.standard_normal((10_000, 3)).astype("f4"), y=random.random(10_000, "f4"))
    assert TradeOff().sizes_on(BLOBS) == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert TradeOff().sizes_on(Subject("own.npz", "linear")) == (1, 4, 16, 64, 256, 1024)
    # Samples that a batch couples are not trained on alone.
    own = Subject("own.npz", "normal:network")
    assert TradeOff().sizes_on(own) == (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    assert [t.settings["seed"] for t in TradeOff(seeds=2).trials(own)] == [0] * 10 + [1] * 10
    with pytest.raises(InputError, match="BatchNorm"):
        TradeOff(sizes=(1, 8, 64)).trials(own)


@pytest.mark.parametrize(
    ("design", "name"),
    [
        (TradeOff(sizes=(4, 8)), "sizes"),
        (TradeOff(sizes=(8, 4, 16)), "sizes"),
        (TradeOff(sizes=(4, 8, 5000)), "sizes"),
        (TradeOff(factor=1.0), "factor"),
        (TradeOff(optimizer="LBFGS"), "optimizer"),
        (TradeOff(reference=1), "reference"),
        (TradeOff(noise_looks=1), "noise_looks"),
        (TradeOff(slack=0.0), "slack"),
    ],
)
def test_designs_out_of_range_are_refused(design: TradeOff, name: str) -> None:
    with pytest.raises(InputError, match=name):
        design.trials(BLOBS)
