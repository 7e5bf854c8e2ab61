"""The noise scale while training: a look is the measurement of its samples, and claims follow what was seen."""

import io
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from rightbatch import InputError
from rightbatch.noise.reference import per_example_gradients
from rightbatch.studies import Finding, NoiseGrowth, Subject, study
from rightbatch.studies.experiment import Result
from rightbatch.studies.noise_growth import design as module
from rightbatch.studies.noise_growth.claims import findings, told_scale
from rightbatch.studies.plain_steps import plain_steps
from rightbatch.studies.subject import everything

BLOBS = Subject("blobs", "linear")
MNIST = Subject("folder/mnist", "cnn")


def test_a_look_is_the_mean_over_fresh_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch of all 800 samples against the slow twin in float64, where the order of the rows is no matter."""
    monkeypatch.setattr(module, "_fresh", lambda n: (n, 1))
    (x, y), model = everything(BLOBS.sources()[0]), BLOBS.network(0)
    seen = module._look(model, F.cross_entropy, x, y, 3, 0)
    g = per_example_gradients(model.double(), F.cross_entropy, x.double(), y)
    variance = (g - g.mean(0)).square().sum().item() / 799
    signal = g.mean(0).square().sum().item() - variance / 800
    assert (seen["variance"], seen["signal"]) == pytest.approx((variance, signal), rel=1e-4)
    assert seen["scale"][0] == pytest.approx(variance / signal, rel=1e-4)
    assert seen["loss"] == pytest.approx(F.cross_entropy(model(x.double()), y).item(), rel=1e-4)


@pytest.mark.parametrize(("n", "expected"), [(60_000, (512, 16)), (1438, (179, 8)), (32, (4, 8))])
def test_looks_take_what_there_is(n: int, expected: tuple[int, int]) -> None:
    assert module._fresh(n) == expected


def test_a_run_measures_itself_and_stays_as_it_would_be_without() -> None:
    """It ends where plain steps end; the run's own estimate is of the look's moment or later."""
    small = NoiseGrowth(batch=40, epochs=2, looks=4, seeds=1, every=2)
    (trial,) = small.trials(BLOBS)
    run = small.run(BLOBS, trial)
    assert [look["step"] for look in run["looks"]] == [0, 10, 19, 36]
    assert run["looks"][-1]["loss"] < run["looks"][0]["loss"]
    centres = [found[0] for found in run["own"]]
    assert centres == sorted(centres) and centres[0] < 4 and len(centres) == 20
    for look in run["looks"]:
        later = [found for found in run["own"] if found[0] >= look["step"]]
        assert look["own"] == (later[0][1:] if later else [])
    model, seen = BLOBS.network(0), {look["step"]: look["loss"] for look in run["looks"]}
    train, _ = BLOBS.sources()
    steps = plain_steps(
        model, F.cross_entropy, *everything(train), 40, torch.optim.SGD(model.parameters(), lr=small.rate), 0
    )
    while next(steps).number < 36:
        pass
    assert F.cross_entropy(model(everything(train)[0]), everything(train)[1]).item() == pytest.approx(
        seen[36], rel=1e-3
    )


def made(exponent: float, seeds: int = 3, own: float = 1.0, at_one: float = 100.0) -> list[Result]:
    """Runs whose noise scale is a power of the loss, with the run's own estimate `own` times as large."""
    runs = []
    for seed in range(seeds):
        looks: list[Result] = []
        for step, loss in enumerate((2.0, 1.0, 0.5, 0.1, 0.05, 0.02)):
            scale = at_one * (1 + 0.01 * seed) * loss**exponent
            own_scale = [own * scale * (1 + 0.001 * seed), own * scale / 2, own * scale * 2]
            looks.append(
                {"step": step, "loss": loss, "variance": scale, "signal": 1.0, "scale": [scale] * 3, "own": own_scale}
            )
        runs.append({"seed": seed, "looks": looks, "own": [[k + 1.0, *look["own"]] for k, look in enumerate(looks)]})
    return runs


def verdicts(found: list[Finding]) -> list[str]:
    return [finding.verdict for finding in found]


def test_verdicts_follow_a_known_power_law() -> None:
    """B = 100/L: 900 is passed at a loss of 1/9; from losses about 1.4 to about 0.03 it grows by 1.65 decades."""
    found = findings(MNIST, made(-1.0))
    assert verdicts(found) == ["agrees"] * 4
    assert "loss of 0.112" in found[0].ours and "-1.00" in found[1].ours and "1.65" in found[2].ours
    assert verdicts(findings(MNIST, made(0.5, own=2.0))) == ["differs"] * 4
    assert verdicts(findings(MNIST, made(-1.0, seeds=2))) == ["cannot tell"] * 4
    assert findings(BLOBS, made(-1.0))[0].verdict == "cannot tell"


def test_a_scale_without_bound_is_left_out_of_the_line_and_never_a_failure() -> None:
    runs = made(-1.0)
    for run in runs:
        run["looks"][-1] |= {"signal": -1.0, "scale": [math.inf, 10.0, math.inf], "own": []}
    found = findings(MNIST, runs)
    assert "-1.00" in found[1].ours and "to ∞" in found[0].ours
    section = NoiseGrowth().section(BLOBS, {f"{run['seed']}": run for run in runs})
    assert section.rows[-1][-2:] == ("∞", "") and len(section.drawings) == 1
    assert told_scale([12.34, 12_345.0]) == "12.3 to 12,300" and told_scale([]) == ""


def test_a_study_and_one_of_its_trials_alone(tmp_path: Path) -> None:
    small = NoiseGrowth(batch=40, epochs=2, looks=4, seeds=3)
    done = study(small, BLOBS, folder=tmp_path, processes=0, progress=io.StringIO())
    section = small.section(BLOBS, done.results)
    assert len(section.rows) == 4 and all(len(row) == len(section.head) for row in section.rows)
    one = small.section(BLOBS, dict(list(done.results.items())[:1]))
    assert set(verdicts([*one.findings])) == {"cannot tell"} and small.section(BLOBS, {}).drawings == []


@pytest.mark.parametrize(
    ("design", "name"),
    [(NoiseGrowth(looks=2), "looks"), (NoiseGrowth(batch=801), "batch"), (NoiseGrowth(rate=0.0), "rate")],
)
def test_designs_out_of_range_are_refused(design: NoiseGrowth, name: str) -> None:
    with pytest.raises(InputError, match=name):
        design.trials(BLOBS)
