"""A simulated run of many processes, with the real order, ledger and rules, and assumed step times and noise.

    seconds of a step:   t(B) = t0 + t1·⌈B/W⌉ + 2 (W-1)/W · bytes/bandwidth + 2 ⌈log2 W⌉ · latency
    progress of a step:  1/(1 + B_noise/B), until S is reached
    noise scale:         B_noise = first · (last/first)^(progress/S)

The rule sees neither: it is given times with a scatter, fitted as in a run, and noise estimates with one.
"""

import math
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data import BatchStream, as_source
from ..decision import BatchSizeRule, Plan, StepContext
from ..errors import RunFolderError
from ..loop.distributed.process_group import ProcessGroup
from ..loop.timing.step_time_model import StepTimeModel
from ..loop.timing.timing_sweep import timing_sweep
from ..measurements import NoiseEstimate, StandardErrors
from ..record import Ledger, verify_ledger
from ..rules.batch_size import SweetSpot

NOISE_ERROR = 0.2  # relative error of a smoothed noise scale
CONFIDENT = 1.645


@dataclass(frozen=True, slots=True)
class Fleet:
    """The assumptions on step times and noise.

    The defaults are a network of 25 million weights in float32 on accelerators that each take 2,000 samples a second,
    with 10 GB/s between them; the noise scale grows as published ones of image classification do.

    Args:
        fixed_s: t0, fixed seconds of a step in each process.
        per_sample_s: t1, seconds per sample in one process.
        gradient_bytes: size of the gradient.
        bandwidth_bytes_per_s: between neighbours in a ring.
        latency_s: latency of one hop.
        jitter: relative scatter of step times.
        first_noise_scale: B_noise at the start, in samples.
        last_noise_scale: B_noise at the end.
        progress: S, the number of steps without noise.
        train_samples: N.
    """

    fixed_s: float = 0.01
    per_sample_s: float = 0.0005
    gradient_bytes: float = 1e8
    bandwidth_bytes_per_s: float = 1e10
    latency_s: float = 20e-6
    jitter: float = 0.05
    first_noise_scale: float = 500.0
    last_noise_scale: float = 20_000.0
    progress: float = 1000.0
    train_samples: int = 1_281_167

    def seconds(self, samples: int, processes: int) -> float:
        """t(B), without scatter."""
        sent = 2 * (processes - 1) / processes * self.gradient_bytes / self.bandwidth_bytes_per_s
        hops = 2 * math.ceil(math.log2(processes)) * self.latency_s
        return self.fixed_s + self.per_sample_s * -(-samples // processes) + sent + hops

    def noise_scale(self, progress: float) -> float:
        """B_noise at a progress."""
        grown = math.log(self.last_noise_scale / self.first_noise_scale) * progress / self.progress
        return self.first_noise_scale * math.exp(grown)

    def fixed_batch_s(self, samples: int, processes: int) -> float:
        """Seconds to the end at a fixed batch size: t(B)·∫(1 + B_noise/B) over the progress."""
        growth = math.log(self.last_noise_scale / self.first_noise_scale)
        rise = self.last_noise_scale - self.first_noise_scale
        mean = rise / growth if growth else self.first_noise_scale
        return self.seconds(samples, processes) * self.progress * (1 + mean / samples)


@dataclass(frozen=True, slots=True)
class Simulated:
    """A simulated run.

    Args:
        processes: W.
        half_performance: the fitted n½ at the end, in samples.
        early: the batch size after a tenth of the progress.
        late: the batch size at the end.
        seconds: total seconds.
        steps: total steps.
        fixed_s: total seconds at each of the given fixed batch sizes.
        best_fixed: the best fixed batch size in hindsight, a power of two.
        best_fixed_s: total seconds with it.
        ledger: the result of verifying the ledger.
    """

    processes: int
    half_performance: float
    early: int
    late: int
    seconds: float
    steps: int
    fixed_s: dict[int, float]
    best_fixed: int
    best_fixed_s: float
    ledger: str

    def goodput(self, fixed: int) -> float:
        """Progress per second relative to a fixed batch size."""
        return self.fixed_s[fixed] / self.seconds


def simulate(
    processes: int,
    fleet: Fleet | None = None,
    rule: BatchSizeRule | None = None,
    fixed: Sequence[int] = (),
    seed: int = 0,
) -> Simulated:
    """Simulate a run with the rule until the progress is complete.

    Args:
        processes: W.
        fleet: the assumptions.
        rule: the batch-size rule (default: the sweet spot, up to 64 half-performance batches).
        fixed: fixed batch sizes to compare with.
        seed: seed of the order and of all scatter.

    Raises:
        RunFolderError: shares or ledger do not hold each sample once.
    """
    fleet = fleet or Fleet()
    rule = rule or SweetSpot(initial=32, ceiling=64.0)
    n, scatter, timer = fleet.train_samples, random.Random(seed), StepTimeModel()
    stream = BatchStream(as_source((torch.zeros(n, 1), torch.zeros(n))), seed=seed)
    ranks = [ProcessGroup(processes, rank) for rank in range(processes)]
    progress = seconds = 0.0
    steps = samples = early = 0
    decision, state = rule.start(Plan(train_samples=n, lr=0.1))
    batch = decision.batch_size or 1

    def timed(samples: int) -> float:
        return fleet.seconds(samples, processes) * scatter.lognormvariate(0.0, fleet.jitter)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.txt"
        ledger = Ledger(path)
        for size, size_s in _sweep(n // 4, timed):
            timer.add(size, size_s)
        while progress < fleet.progress:
            taken = stream.take(batch)
            ledger.append(steps + 1, *taken)
            _require_cut(ranks, taken.samples)
            scale = fleet.noise_scale(progress)
            step_s = timed(taken.samples)
            progress += 1 / (1 + scale / taken.samples)
            seconds, steps, samples = seconds + step_s, steps + 1, samples + taken.samples
            timer.add(taken.samples, step_s)
            early = batch if progress < fleet.progress / 10 else early
            now = StepContext(
                step=steps,
                samples=samples,
                batch_size=taken.samples,
                train_samples=n,
                loss=1.0,
                gradient_norm2=1.0,
                lr=0.1,
                noise=_estimate(scale * scatter.lognormvariate(0.0, NOISE_ERROR / 3)),
                step_time=timer.fit(),
                wanted=batch,
            )
            decision, state = rule.decide(now, state)
            batch = decision.batch_size or batch
        ledger.close()
        proof = verify_ledger(path, n)
    if not proof.ok:
        raise RunFolderError(str(proof))
    fit = timer.fit()
    powers = [2**k for k in range(3, 21) if 2**k <= n]
    best = min(powers, key=lambda size: fleet.fixed_batch_s(size, processes))
    return Simulated(
        processes,
        math.nan if fit is None else fit.half_performance,
        early,
        batch,
        seconds,
        steps,
        {size: fleet.fixed_batch_s(size, processes) for size in fixed},
        best,
        fleet.fixed_batch_s(best, processes),
        str(proof),
    )


def _sweep(most: int, timed: Callable[[int], float]) -> list[tuple[int, float]]:
    """The points of a timing sweep, as at the start of a run."""
    sweep = timing_sweep(most, most // 2)
    size = next(sweep)
    while True:
        try:
            size = sweep.send(timed(size))
        except StopIteration as end:
            points: list[tuple[int, float]] = end.value
            return points


def _require_cut(ranks: Sequence[ProcessGroup], samples: int) -> None:
    """Check that every sample of a batch is in exactly one share."""
    reached = 0
    for each in ranks:
        begin, end = each.share(samples)
        if end > begin:
            if begin != reached:
                raise RunFolderError(f"rank {each.rank} starts at {begin} of {samples}, not at {reached}")
            reached = end
    if reached != samples:
        raise RunFolderError(f"{samples - reached} of {samples} samples are not in any share")


def _estimate(scale: float) -> NoiseEstimate:
    low, high = (scale * math.exp(sign * CONFIDENT * NOISE_ERROR) for sign in (-1, 1))
    unknown = StandardErrors(math.nan, math.nan, NOISE_ERROR * scale)
    return NoiseEstimate(scale, 1.0, scale, low, high, unknown, 100)
