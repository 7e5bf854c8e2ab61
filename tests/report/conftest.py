"""A synthetic run that behaves like a real one, written through the event log as training would write it."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from rightbatch.record import EventLog, RunFolder

TRAIN_SAMPLES = 60_000
FIXED_S, PER_EXAMPLE_S = 1.1e-3, 1.6e-5


def write_run(
    path: Path,
    steps: int = 3000,
    *,
    noise: bool = True,
    timing: bool = True,
    valid: bool = True,
    accuracy: bool = True,
    failures: int = 2,
    decide_every: int = 8,
    resumed: bool = False,
    stopped: bool = True,
) -> RunFolder:
    """A classifier's run: the loss falls, the noise scale grows, the batch follows, and now and then a step fails."""
    rng = random.Random(0)
    folder = RunFolder.create(path, {"batch_size": "auto", "lr": "auto", "epochs": None, "seconds": 120.0, "seed": 0})
    samples, seconds, batch, rate = 0, 0.0, 32, 2e-5
    best, next_evaluation = math.inf, TRAIN_SAMPLES / 2
    half = FIXED_S / PER_EXAMPLE_S
    failing = {steps * (k + 1) // (failures + 2) for k in range(failures)}
    with EventLog(folder.events) as log:
        log.append(
            "start",
            version="0.1.0",
            time="2025-01-20T14:03:11+00:00",
            machine={
                "cpu": "Sample CPU 2.4 GHz",
                "cores": 2,
                "device": "cpu",
                "torch": "2.13.0",
                "python": "3.11.7",
                "platform": "Linux x86_64",
            },
            model="Sequential(Linear, ReLU, Linear, ReLU, Linear)",
            parameters=535_818,
            train_samples=TRAIN_SAMPLES,
            valid_samples=10_000 if valid else None,
            batch_size="auto: sqrt(noise scale · n½) within 3 to 8 n½",
            lr="auto: averaged distance over gradients",
            optimizer="Adam, schedule-free average",
            seed=0,
            budget={"seconds": 120.0, "epochs": None},
        )
        for step in range(1, steps + 1):
            through = step / steps
            if step < 40 * steps / 3000:
                rate *= 1.25 ** (3000 / steps)
            truth = 0.28 + 1.9 * math.exp(-samples / 9000) + 0.25 * math.exp(-samples / 120_000)
            scale = 90 * math.exp(3.2 * through) * math.exp(0.15 * math.sin(step / 60 * 3000 / steps))
            if step in failing:
                rate /= 2
                log.append(
                    "failure",
                    step=step,
                    samples=samples,
                    reason="the loss is not finite (nan)",
                    lr=rate,
                    restored_step=step - step % 100,
                )
            if decide_every and noise and step % decide_every == 0:
                wanted = int(min(8 * half, max(3 * half, math.sqrt(scale * half) * math.exp(rng.gauss(0, 0.04)))))
                log.append(
                    "decision",
                    step=step,
                    samples=samples,
                    what="batch_size",
                    old=batch,
                    new=wanted,
                    reason=f"the noise scale is {scale:.0f} and n½ is {half:.0f}, so the sweet spot is {wanted}",
                    evidence={"noise_scale": scale, "half_performance": half},
                )
                batch = wanted
            if step == 1:
                log.append(
                    "decision", step=step, samples=samples, what="run", old=None, new="range test",
                    reason="the step size is not known yet: it is raised until the loss stops falling", evidence={},
                )  # fmt: skip
            if step == max(2, steps // 75):
                log.append(
                    "decision", step=step, samples=samples, what="lr", old=rate, new=rate * 0.4,
                    reason="the loss no longer fell at 0.16: four fifths of its drop were reached at 0.033",
                    evidence={"lr_diverged": 0.16, "loss": 1.42},
                )  # fmt: skip
                rate *= 0.4
            if step > steps // 75:
                rate *= 1 - 0.5 / steps
            samples += batch
            seconds += FIXED_S + PER_EXAMPLE_S * batch
            measured = noise and step % 8 == 0
            spread = math.exp(1.645 * (0.15 + 0.8 * math.exp(-through * 30)))
            log.append(
                "step",
                step=step,
                samples=samples,
                epoch=samples / TRAIN_SAMPLES,
                seconds=seconds,
                batch_size=batch,
                lr=rate,
                train_loss=max(0.02, truth + rng.gauss(0, 0.9 / math.sqrt(batch)) * math.sqrt(truth)),
                gradient_norm=math.sqrt(truth),
                noise_scale=scale * math.exp(rng.gauss(0, 0.06)) if measured else None,
                noise_low=scale / spread if measured else None,
                noise_high=(scale * spread if through > 0.02 else math.inf) if measured else None,
            )
            if timing and step in (30, 300, steps // 2, steps - 1):
                log.append(
                    "timing",
                    step=step,
                    samples=samples,
                    points=[
                        [b, (FIXED_S + PER_EXAMPLE_S * b) * math.exp(rng.gauss(0, 0.04)), max(1, int(c * through))]
                        for b, c in ((8, 3), (16, 3), (32, 60), (64, 12), (128, 3), (210, 900), (330, 1400), (520, 500))
                    ],
                    fixed_s=FIXED_S,
                    per_sample_s=PER_EXAMPLE_S,
                    half_performance=half,
                    standard_error=6.2,
                )
            if valid and samples >= next_evaluation:
                next_evaluation += TRAIN_SAMPLES / 2
                loss = truth + 0.04 + 0.06 * max(0.0, through - 0.75) + rng.gauss(0, 0.003)
                log.append(
                    "evaluation",
                    step=step,
                    samples=samples,
                    epoch=samples / TRAIN_SAMPLES,
                    seconds=seconds,
                    valid_loss=loss,
                    valid_accuracy=1 - 0.31 * loss if accuracy else None,
                    best=loss < best,
                )
                best = min(best, loss)
            if resumed and step == 2 * steps // 3:
                log.append("stop", reason="interrupted from the keyboard", step=step, samples=samples)
                log.append("resume", step=step)
        if stopped:
            log.append(
                "stop",
                reason="the time budget of 120 s is spent",
                step=steps,
                samples=samples,
                epoch=samples / TRAIN_SAMPLES,
                seconds=seconds,
                best={"valid_loss": best},
                test={"loss": best + 0.011, "accuracy": 0.8931} if valid and accuracy else None,
            )
    return folder


@pytest.fixture
def make_run() -> Callable[..., RunFolder]:
    return write_run
