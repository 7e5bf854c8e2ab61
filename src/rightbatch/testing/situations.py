"""Recorded traces: a calm one, and others with little or no evidence for a rule."""

import math
import random
from dataclasses import replace

from ..decision import Outcome, Plan, StepContext, Trial
from ..measurements import UNKNOWN, Measurement, Movement, NoiseEstimate, StepTime

N = 200
STEPS = 40
BATCH = 32
CURVATURE = 3.0
SETTINGS = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.01},
    "AdamW": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01},
}


def plan(optimizer: str) -> Plan:
    """What is known before the first step of a trace."""
    return Plan(N, 10, 1.0, 0.1, total_samples=STEPS * BATCH, optimizer=optimizer, settings=SETTINGS[optimizer])


def trace(seed: int, signal_from: float, signal_to: float, variance: float, every: int = 3) -> list[StepContext]:
    """Forty steps whose signal moves from one value to another in constant noise, measured at every third step."""
    generator, situations = random.Random(seed), []
    for step in range(STEPS):
        signal = signal_from * (signal_to / signal_from) ** (step / (STEPS - 1))
        b = generator.randrange(2, 64)
        norm2 = max(1e-12, signal + variance / b * (1 + 0.3 * generator.gauss(0, 1)))
        estimate, scale = norm2 - variance / b, variance / signal
        measurement = Measurement(b, norm2, variance, estimate, projection_variance=variance * norm2 / 7)
        high = math.inf if estimate < 0 else 2 * scale
        noise = NoiseEstimate(variance, signal, scale, scale / 2, high, UNKNOWN, 1 + step // every)
        situations.append(
            StepContext(
                step=step,
                samples=BATCH * step,
                batch_size=b,
                train_samples=N,
                loss=1.0 + signal,
                gradient_norm2=norm2,
                lr=0.1,
                measurement=measurement if step % every == 0 else None,
                noise=noise if step else None,
                step_time=StepTime(4e-4, 1e-5, 40.0, 5.0, 5, 4, 64) if step > 4 else None,
                movement=Movement(0.01 * math.sqrt(step + 1), float(step + 1), step + 1),
                grew=step % 5 == 0,
                wanted=BATCH,
                distance=0.01 * step,
                total_samples=STEPS * BATCH,
            )
        )
    return situations


CALM = trace(0, 1.0, 0.1, 1.0)
NOTHING_MEASURED = {"measurement": None, "noise": None, "step_time": None, "movement": None, "distance": None}
TRACES = {
    "calm": CALM,
    "every batch measured": trace(0, 1.0, 0.1, 1.0, every=1),
    "vanishing signal": trace(1, 1.0, 1e-8, 5.0),
    "pure noise": trace(2, 1e-12, 1e-12, 100.0),
    "nothing measured": [replace(now, **NOTHING_MEASURED) for now in CALM],  # type: ignore[arg-type]
    "nan loss": [replace(now, loss=math.nan) for now in CALM],
    "nan loss now and then": [replace(now, loss=math.nan) if now.step % 7 == 6 else now for now in CALM],
    "nan gradient": [replace(now, gradient_norm2=math.nan, measurement=None) for now in CALM],
    "zero gradient": [
        replace(now, gradient_norm2=0.0, measurement=Measurement(now.batch_size, 0.0, 0.0, 0.0)) for now in CALM
    ],
    "zero loss": [replace(now, loss=0.0) for now in CALM],
    "all the data": [replace(now, batch_size=N) for now in CALM],
    "one sample": [replace(now, batch_size=1, measurement=Measurement(1, 1.0, math.nan, math.nan)) for now in CALM],
}


def parabola(now: StepContext, trial: Trial) -> Outcome:
    """The outcome of a trial step for a loss of curvature 3."""
    fall = (CURVATURE / 2 * trial.step - 1) * trial.step * now.gradient_norm2
    return Outcome(now.loss + fall, CURVATURE if trial.gradient else math.nan)


def lost(now: StepContext, trial: Trial) -> Outcome:
    """The outcome of a trial step for a loss that is not finite elsewhere."""
    return Outcome(math.nan)
