"""Regret of the probe: known where steps and seconds are known, and what may be missing."""

import io
import math
from pathlib import Path

import pytest
import torch

from rightbatch import InputError
from rightbatch.studies import Subject, study
from rightbatch.studies.experiment import Result
from rightbatch.studies.probe_regret.design import ProbeRegret, label, quadratic_model, wide_model
from rightbatch.studies.probe_regret.pair import fit_law, pair_regret
from rightbatch.studies.step_times import step_times

SIZES = (4, 8, 16, 32, 64, 128, 256, 512)
PAIRS = (
    ("digits", "linear"),
    ("blobs", "mlp"),
    ("quadratic", "rightbatch.studies.probe_regret.design:quadratic_model"),
)


def seconds(b: float) -> float:
    return 1e-3 + 1e-5 * b


def steps(b: float) -> float:
    return 20 * (1 + 64 / b)


def made(advised: int, seed: int = 0, pair: str = "linear on digits", luck: float = 1.0) -> list[Result]:
    """One seed of a problem with S_min = 20 and B_crit = 64 on a machine with n½ = 100: the best batch is 80."""
    about = {"pair": pair, "seed": seed}
    times = {str(b): seconds(b) for b in sorted({*SIZES, advised})}
    probed = {**about, "size": 0, "advised": advised, "noise_scale": 64.0, "step_s": times}
    return [probed, *({**about, "size": b, "steps": luck * steps(b), "loss": 0.1} for b in SIZES)]


def test_the_regret_is_known_where_the_law_holds() -> None:
    for advised in (8, 80, 128, 300, 2048, 2):
        regret = pair_regret("linear on digits", made(advised))
        assert regret is not None and regret.fastest == 64
        time_s = steps(advised) * seconds(advised)
        least = min(time_s, steps(64) * seconds(64))
        assert regret.smooth == pytest.approx(time_s / least, rel=0.01)
        # The steps at 80 and 300 lie on chords between grid sizes; the steps beyond the grid follow the law.
        assert regret.raw == pytest.approx(time_s / least, rel=0.03)
        assert regret.critical == pytest.approx(64, rel=0.02) and regret.least_steps == pytest.approx(20, rel=0.02)


def test_seeds_share_their_luck_with_the_best_size() -> None:
    """A seed that needs half the steps at every size says the same of the advice."""
    results = made(256) + made(256, seed=1, luck=0.5) + made(256, seed=2, luck=1.7)
    regret = pair_regret("linear on digits", results)
    assert regret is not None and len(regret.by_seed) == 3
    assert list(regret.by_seed.values()) == pytest.approx([regret.raw] * 3)
    assert regret.raw == pytest.approx(steps(256) * seconds(256) / steps(64) / seconds(64))


def test_the_law_is_found() -> None:
    logs = [torch.tensor([math.log(f * 7 * (1 + 900 / b)) for b in SIZES]).numpy() for f in (0.5, 2.0)]
    assert fit_law(SIZES, logs) == pytest.approx((7, 900), rel=0.05)


def test_missing_trials_decide_nothing() -> None:
    design = ProbeRegret(pairs=PAIRS[:1])
    results = {f"{k}": r for k, r in enumerate(made(80))}
    assert pair_regret("linear on digits", list(results.values())[:4]) is not None  # three sizes and the probe
    assert pair_regret("linear on digits", list(results.values())[:3]) is None
    assert pair_regret("linear on digits", list(results.values())[1:]) is None
    for count in (1, 3, 9):
        section = design.section(design.classic, dict(list(results.items())[:count]))
        assert {f.verdict for f in section.findings} == {"cannot tell"}
    never = {**results, "1": {**results["1"], "steps": None}}  # batch 4 never got there
    regret = pair_regret("linear on digits", list(never.values()))
    assert regret is not None and regret.sizes == SIZES[1:]


@pytest.mark.parametrize(("advised", "median", "worst"), [(80, "agrees", "agrees"), (4, "differs", "differs")])
def test_verdicts(advised: int, median: str, worst: str) -> None:
    design = ProbeRegret(pairs=PAIRS)
    rows = [
        r for seed in range(3) for pair in design.subjects(design.classic) for r in made(advised, seed, label(pair))
    ]
    section = design.section(design.classic, {f"{k}": r for k, r in enumerate(rows)})
    assert [f.verdict for f in section.findings] == [median, worst]
    assert len(section.rows) == 3 and all(len(row) == len(section.head) for row in section.rows)
    assert len(section.drawings) == 1


def test_trials_cover_the_pairs_or_the_one_given() -> None:
    design = ProbeRegret(pairs=PAIRS, sizes=(8, 32, 128, 1024), seeds=2)
    trials = design.trials(design.classic)
    assert len(trials) == 2 * (5 + 4 + 4)  # of 800 samples no batch of 1,024 can be made
    assert [t.settings["seed"] for t in trials] == [0] * 13 + [1] * 13
    assert len({t.key for t in trials}) == len(trials)
    alone = design.trials(Subject("blobs", "linear"))
    assert {t.settings["model"] for t in alone} == {"linear"} and len(alone) == 2 * 4


def test_a_study_of_blobs(tmp_path: Path) -> None:
    design = ProbeRegret(sizes=(16, 32, 64, 256), seeds=1, seconds=30.0, timing_s=0.05, slack=0.2)
    done = study(design, Subject("blobs", "linear"), folder=tmp_path, processes=0, progress=io.StringIO())
    section = design.section(done.subject, done.results)
    assert len(done.results) == 5 and len(section.rows) == 1
    probed = next(r for r in done.results.values() if r["size"] == 0)
    assert {"16", "32", "64", "256", f"{probed['advised']}"} == set(probed["step_s"])


def test_the_models_and_their_steps() -> None:
    assert sum(p.numel() for p in wide_model((1, 8, 8), 10).parameters()) == 1024 * 65 + 10 * 1025
    pair = Subject(*ProbeRegret().pairs[3])
    assert label(pair) == "quadratic on quadratic" and type(pair.network(0)) is type(quadratic_model())
    times = step_times(pair, (4, 32), lambda model: torch.optim.SGD(model.parameters(), lr=1e-6), seconds=1e-3)
    assert len(times) == 2 and min(times) > 0


@pytest.mark.parametrize(
    ("design", "name"),
    [
        (ProbeRegret(sizes=(8, 4, 16)), "sizes"),
        (ProbeRegret(sizes=(8, 2000, 4000)), "2000"),
        (ProbeRegret(pairs=()), "pairs"),
        (ProbeRegret(slack=0.0), "slack"),
        (ProbeRegret(optimizer="Lion"), "optimizer"),
        (ProbeRegret(seconds=0.0), "seconds"),
    ],
)
def test_designs_out_of_range_are_refused(design: ProbeRegret, name: str) -> None:
    with pytest.raises(InputError, match=name):
        design.trials(Subject("blobs", "linear"))
