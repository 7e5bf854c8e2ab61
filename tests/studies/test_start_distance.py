"""Distance from the start: by hand on a run, known exponents, and what may be missing."""

import io
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from rightbatch import InputError
from rightbatch.data import Order
from rightbatch.studies import Subject, study
from rightbatch.studies.experiment import Result
from rightbatch.studies.start_distance.claims import findings
from rightbatch.studies.start_distance.design import StartDistance
from rightbatch.studies.subject import everything

BLOBS = Subject("blobs", "linear")
SMALL = StartDistance(sizes=(8, 32, 128), samples=1280, looks=6)


def made(design: StartDistance, exponent: float) -> dict[str, Result]:
    """Trials whose distance is rate · stepsᵉ, whatever the batch, least in loss at the end."""
    results = {}
    for trial in design.trials(BLOBS):
        size, rate = trial.settings["size"], trial.settings["rate"]
        steps = sorted({1, design.grid.steps, design.samples // size})
        ways = [100 * rate * step**exponent for step in steps]
        losses = [1 / step for step in steps]
        results[trial.key] = {**trial.settings, "steps": steps, "distances": ways, "losses": losses}
    return results


def test_a_run_is_plain_descent_over_the_order_of_the_epochs() -> None:
    """Batches of 128 of 800 blobs: the seventh reaches over the end of the first epoch."""
    result = SMALL.run(BLOBS, next(t for t in SMALL.trials(BLOBS) if t.settings["size"] == 128))
    (x, y), order, model = everything(BLOBS.sources()[0]), Order(800, 0), BLOBS.network(0)
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    rows = torch.cat([torch.from_numpy(order.indices(epoch, 0, 800)) for epoch in (0, 1)])
    assert len(x) == 800 and result["steps"][-1] == 10
    for step in range(10):
        batch = rows[128 * step : 128 * (step + 1)]
        gradients = torch.autograd.grad(F.cross_entropy(model(x[batch]), y[batch]), list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients, strict=True):
                p -= 0.01 * g
    way = (torch.cat([p.detach().flatten() for p in model.parameters()]) - start).norm().item()
    assert result["distances"][-1] == pytest.approx(way, rel=1e-5)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_exponents_are_known_where_the_distance_depends_on_steps_alone(exponent: float) -> None:
    design = StartDistance(sizes=(8, 32, 128), samples=128 * 50)
    section = design.section(BLOBS, made(design, exponent))
    assert f"-{exponent:.2f} ± 0.00" in section.findings[0].ours
    assert [f.verdict for f in section.findings[:2]] == ["agrees", "agrees"]
    # Linear scaling makes up for fewer steps just where the distance is linear in them.
    assert section.findings[2].verdict == ("agrees" if exponent == 1.0 else "differs")
    assert section.findings[3].verdict == "cannot tell" and "not MNIST" in section.findings[3].ours
    # 16 times fewer steps: at the same rate not as far, at ten times the rate only where 10 > 16ᵉ.
    ratio = math.log(10 / 16**exponent)
    assert section.findings[4].verdict == "agrees" and f"{ratio:.2f}" in section.findings[5].ours
    assert section.findings[5].verdict == ("agrees" if ratio > 0 else "differs")
    # The loss is 1/steps whatever the rate: 16 times as high, which raising the rate does not mend.
    assert [f.verdict for f in section.findings[6:]] == ["agrees", "differs"]


def test_the_published_distance_is_judged_on_the_published_data() -> None:
    design = StartDistance(sizes=(8, 32, 128), samples=128 * 50)
    results = made(design, 0.5)  # batch 8 at 0.01 ends at √800
    for end, verdict in ((6.5, "agrees"), (9.0, "differs")):
        altered = {
            key: {**r, "distances": [end / math.sqrt(800) * way for way in r["distances"]]}
            for key, r in results.items()
        }
        cells = {(r["size"], r["rate"], r["seed"]): r for r in altered.values()}
        found = findings(design.grid, Subject("folder/mnist", "mlp"), cells)
        assert found[3].verdict == verdict and f"{end:.2f}" in found[3].ours


def test_missing_and_diverged_trials_decide_nothing() -> None:
    design = StartDistance(sizes=(8, 32, 128), samples=128 * 50)
    results = made(design, 0.5)
    for count in (1, 5, 9):
        section = design.section(BLOBS, dict(list(results.items())[:count]))
        assert {f.verdict for f in section.findings} == {"cannot tell"} and len(section.drawings) == 1
    ended = {
        key: {**r, "steps": r["steps"][:1], "distances": [math.inf], "losses": [math.nan]} for key, r in results.items()
    }
    section = design.section(BLOBS, ended)
    assert {f.verdict for f in section.findings} == {"cannot tell"} and section.rows[0][3] == "diverged"


def test_a_study_of_blobs(tmp_path: Path) -> None:
    """A linear model far from its minimum: four times the steps take it farther, whatever the seed."""
    done = study(SMALL, BLOBS, folder=tmp_path, processes=0, progress=io.StringIO())
    section = SMALL.section(done.subject, done.results)
    assert len(done.results) == 3 * 8 and section.findings[0].verdict == "agrees"
    assert all(len(row) == len(section.head) for row in section.rows)


@pytest.mark.parametrize(
    ("design", "name"),
    [
        (StartDistance(sizes=(4,)), "sizes"),
        (StartDistance(sizes=(8, 4)), "sizes"),
        (StartDistance(rates=(0.0,)), "rates"),
        (StartDistance(samples=1024), "samples"),
    ],
)
def test_designs_out_of_range_are_refused(design: StartDistance, name: str) -> None:
    with pytest.raises(InputError, match=name):
        design.trials(BLOBS)
