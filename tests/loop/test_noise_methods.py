"""Every way to measure, by its name, in both doors; what is told of it; how often it happens."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import AutoBatch, InputError, UnsupportedError, fit
from rightbatch.data import blobs
from rightbatch.loop.timing.measuring_interval import ASSUMED_OVERHEAD
from rightbatch.noise import Noise, noise_settings
from rightbatch.noise.methods import AUTO, METHODS
from rightbatch.record import read_events

N = 240
NAMES = ("auto", *METHODS)


def network(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.LayerNorm(8), *between, nn.Tanh(), nn.Linear(8, 3))


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_measures_a_loop(name: str, drive: Any) -> None:
    """And leaves no hooks behind, and the weights as they would have been, but for the rounding of micro-batches."""
    weights = []
    for noise in (None, Noise(name, every=2)):
        model = network()
        auto = AutoBatch(model, adam(model.parameters()), blobs(N), 24, None, epochs=1, noise=noise)
        drive(auto)
        weights.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
        assert not any(module._forward_hooks for module in model.modules())
    assert auto.meter is not None
    assert auto.noise is not None and auto.noise.measurements >= 3 and auto.noise.variance > 0
    assert auto.meter.reason == ""
    if name == "micro-batch":
        torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-5)
    else:
        assert torch.equal(*weights)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_measures_in_fit(name: str, tmp_path: Path, no_report: None) -> None:
    run = fit(network(), blobs(N), batch_size=24, lr=None, optimizer=adam, epochs=1, progress=False,
              run_dir=tmp_path / "run", noise=f"{name}(every=2)")  # fmt: skip
    assert any(row["noise_scale"] is not None for row in run.history)
    start = read_events(tmp_path / "run" / "events.jsonl")[0]
    assert start["noise"]["setting"] == f"{name}(every=2)" and start["noise"]["method"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["noise"] == f"{name}(every=2)"


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].preconditions])
def test_in_the_metric_of_the_optimizer(name: str, drive: Any) -> None:
    """The first step has no metric yet; from then on the noise is that of P g."""
    results = []
    for preconditioned in (False, True):
        model = network()
        noise = Noise(name, every=1, preconditioned=preconditioned)
        auto = AutoBatch(model, adam(model.parameters()), blobs(N), 24, None, epochs=1, noise=noise)
        drive(auto)
        assert auto.noise is not None
        results.append(auto.noise)
    raw, own = results
    assert (raw.measurements, own.measurements) == (N // 24, N // 24 - 1)
    assert own.variance > 10 * raw.variance  # P is about 1/|g| entry by entry


@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name].preconditions])
def test_methods_that_know_no_metric_say_so(name: str) -> None:
    model = network()
    with pytest.raises(UnsupportedError, match=f"'{name}' does not measure in the optimizer's metric"):
        AutoBatch(model, adam(model.parameters()), blobs(N), 24, None, noise=Noise(name, preconditioned=True))


def test_batch_norm_is_named_and_recorded(tmp_path: Path, no_report: None) -> None:
    model = network(nn.BatchNorm1d(8))
    fit(model, blobs(N), batch_size="big-batch", lr=0.1, epochs=1, progress=False, run_dir=tmp_path / "run")
    events = read_events(tmp_path / "run" / "events.jsonl")
    for event in (events[0], events[-1]):
        assert event["noise"]["setting"] == "auto(every=1)"
        assert "4 micro-batches, because" in event["noise"]["method"]
        assert "'2': BatchNorm1d in training mode" in event["noise"]["method"]


class Coupled(nn.Module):
    """Its first weight also acts in the loss, which only the first backward pass tells."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x) + self.layers[0].weight.square().sum()
        return out


def test_what_proves_impossible_on_the_way_is_told(tmp_path: Path, no_report: None, watch: Any, drive: Any) -> None:
    model = Coupled()
    auto = AutoBatch(model, None, blobs(N), 24, 0.1, epochs=1, noise="auto(every=2)")
    witness = watch(auto)
    drive(auto)
    ((step, method),) = witness.methods
    assert step == 1 and "micro-batches, because" in method and "layers.0" in method
    assert auto.noise is not None
    fit(Coupled(), blobs(N), batch_size=24, lr=0.1, epochs=1, progress=False, run_dir=tmp_path / "run", noise="auto")
    events = read_events(tmp_path / "run" / "events.jsonl")
    (told,) = (event for event in events if event["kind"] == "measuring")
    assert told["method"] == events[-1]["noise"]["method"] != events[0]["noise"]["method"]


def test_a_method_named_is_refused_at_its_first_measurement(drive: Any) -> None:
    auto = AutoBatch(Coupled(), None, blobs(N), 24, 0.1, noise="per-example")
    with pytest.raises(UnsupportedError, match=r"noise='per-example' cannot measure this run: .*use noise='auto'"):
        drive(auto)


def test_a_layer_frozen_in_mid_run_is_no_longer_measured(watch: Any) -> None:
    """The exact norms are those of the layers that are still trained."""
    model = network()
    auto = AutoBatch(model, None, blobs(N), 24, 0.1, epochs=2, noise="per-example(every=2)")
    witness = watch(auto)
    for x, y in auto:
        auto.backward(F.cross_entropy(model(x), y))
        auto.step()
        if auto.steps == 5:
            model[0].requires_grad_(False)
    assert not witness.methods and auto.noise is not None and auto.noise.measurements > 5


def test_audits_are_recorded(tmp_path: Path, no_report: None) -> None:
    fit(network(), blobs(N), batch_size=24, lr=0.1, epochs=1, progress=False, run_dir=tmp_path / "run",
        noise="micro-batch(every=1, audit_every=3)")  # fmt: skip
    audits = [event for event in read_events(tmp_path / "run" / "events.jsonl") if event["kind"] == "audit"]
    assert [event["step"] for event in audits] == [0, 3, 6, 9]
    for event in audits:
        assert event["method"] == "micro-batch" and event["exact"] > 0
        assert event["discrepancy"] == pytest.approx(event["estimate"] / event["exact"] - 1)


def test_without_exact_norms_there_is_nothing_to_audit_by() -> None:
    model = network(nn.BatchNorm1d(8))
    auto = AutoBatch(model, None, blobs(N), 24, 0.1, noise="auto(audit_every=2)")
    assert auto.meter is not None and "not audited" in auto.meter.method and "BatchNorm1d" in auto.meter.method


# How often.


def test_a_rule_that_needs_noise_brings_its_measurement(drive: Any) -> None:
    """Whatever the batch rule is: noise-scaled steps over a fixed batch simply work, within the budget."""
    model = network()
    auto = AutoBatch(model, None, blobs(N), 12, "noise-scaled(lr=0.5)", epochs=2)
    drive(auto)
    assert auto.meter is not None and str(auto.meter.settings) == "auto"
    assert auto.noise is not None and 1 < auto.noise.measurements < auto.steps
    assert AutoBatch(network(), None, blobs(N), 12, 0.5).meter is None


def test_the_first_measurement_comes_at_once_and_later_ones_as_the_budget_allows(drive: Any) -> None:
    model = network()
    auto = AutoBatch(model, None, blobs(N), 12, 0.1, epochs=1, noise="auto(budget=0.1)")
    counts = []
    for _ in range(7):
        drive(auto, steps=1)
        counts.append(0 if auto.noise is None else auto.noise.measurements)
    assert ASSUMED_OVERHEAD / 0.1 == 2.5
    assert counts == [0, 1, 1, 1, 2, 2, 2]


def test_measurements_know_what_they_cost(drive: Any) -> None:
    found = []
    model = network()
    auto = AutoBatch(model, None, blobs(N), 12, 0.1, epochs=6, noise="auto(budget=1.0)")
    assert auto.meter is not None
    measure = auto.meter.measure
    auto.meter.measure = lambda *given: found.append(measure(*given)) or found[-1]  # type: ignore[method-assign]
    drive(auto)
    assert found[0].cost_s != found[0].cost_s  # not known yet
    assert 0 <= found[-1].cost_s < 1


# The settings.


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("auto", Noise()),
        ("micro-batch(groups=8)", Noise("micro-batch", groups=8)),
        (" Micro_Batch( every = 1 )", Noise("micro-batch", every=1)),
        ("auto(budget=0.01)", Noise(budget=0.01)),
        ("per-example(every=8)", Noise("per-example", every=8)),
        ("auto(preconditioned=True, audit_every=10)", Noise(preconditioned=True, audit_every=10)),
    ],
)
def test_settings_and_their_text(text: str, settings: Noise) -> None:
    assert noise_settings(text) == settings == noise_settings(str(settings)) == noise_settings(settings)


def test_the_text_names_only_what_differs_from_the_defaults() -> None:
    assert str(Noise()) == "auto"
    assert str(Noise("subset", subset=16)) == "subset(subset=16)"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("skech", "names no method (did you mean 'sketch'?)"),
        ("auto(bugdet=0.1)", "did you mean 'budget'"),
        ("auto(", "cannot be read"),
        ("auto(method='subset')", "'auto' knows 'budget', 'every'"),
        ("auto(budget=0)", "Noise.budget is 0: give a finite number above 0 and at most 1"),
        ("auto(budget=2)", "Noise.budget is 2"),
        ("auto(every=0)", "Noise.every is 0: give a whole number of at least 1"),
        ("auto(audit_every=-1)", "Noise.audit_every is -1"),
        ("auto(preconditioned=1)", "Noise.preconditioned is 1: give True or False"),
        ("micro-batch(groups=1)", "Noise.groups is 1: give a whole number of at least 2"),
        ("sketch(probes=0)", "Noise.probes is 0"),
        ("subset(subset=1)", "Noise.subset is 1"),
        (8, "noise=8 is no way to measure: give one of 'auto'"),
        (True, "is no way to measure"),
        (Noise, "is no way to measure"),
    ],
)
def test_refuses_with_a_word_of_help(spec: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        noise_settings(spec)
    assert words in str(caught.value)


def test_auto_tries_methods_that_exist_and_ends_with_one_for_any_model() -> None:
    assert set(AUTO) <= set(METHODS) and AUTO[-1] == "micro-batch"
    with pytest.raises(InputError, match=r"Noise.method is 'fast': give one of 'auto'"):
        Noise("fast")
