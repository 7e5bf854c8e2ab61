"""What was measured and simulated, as text."""

from collections.abc import Sequence

from .measuring import measure
from .simulation import Fleet, simulate

FIXED = 256  # a batch as one would choose it for one process
PER_PROCESS = 32  # samples of a process, where the batch grows with their number


def table_of_measured(processes: Sequence[int], seconds: float) -> tuple[bool, str]:
    """Whether all processes have decided alike, and a line for each number of them.

    Args:
        processes: how many, one measurement each.
        seconds: of a measurement.
    """
    lines = ["processes  samples/s  of the first  decisions"]
    found = [measure(count, seconds=seconds) for count in processes]
    for each in found:
        said = f"the same in all, digest {each.decisions[0]:08x}" if each.agree else f"differ: {each.decisions}"
        said = said if each.processes > 1 else "its own"
        share = each.samples_per_s / found[0].samples_per_s
        lines.append(f"{each.processes:9}  {each.samples_per_s:10,.0f}  {share:12.2f}  {said} ({each.steps:,} steps)")
    return all(each.agree for each in found), "\n".join(lines)


def table_of_simulated(processes: Sequence[int], seed: int = 0, fleet: Fleet | None = None) -> str:
    """A line for each number of simulated processes.

    Args:
        processes: how many, one simulation each.
        seed: of the simulations.
        fleet: what steps take.
    """
    fleet = fleet or Fleet()
    lines = [
        f"simulated: {fleet.fixed_s * 1e3:g} ms a step and {fleet.per_sample_s * 1e3:g} ms a sample in a process,",
        f"{fleet.gradient_bytes / 1e6:g} MB sent at {fleet.bandwidth_bytes_per_s / 1e9:g} GB/s, noise scale from "
        f"{fleet.first_noise_scale:,.0f} to {fleet.last_noise_scale:,.0f};",
        "goodput of the sweet spot over fixed batches:",
        "",
        f"processes      n½  batch early    late  seconds  over {FIXED}  over {PER_PROCESS} each  over the best, known "
        "afterwards",
    ]
    for count in processes:
        run = simulate(count, fleet, fixed=(FIXED, PER_PROCESS * count), seed=seed)
        lines.append(
            f"{count:9,}  {run.half_performance:6,.0f}  {run.early:11,}  {run.late:6,}  {run.seconds:7,.0f}  "
            f"{run.goodput(FIXED):8.2f}  {run.goodput(PER_PROCESS * count):12.2f}  "
            f"{run.best_fixed_s / run.seconds:8.2f} ({run.best_fixed:,})"
        )
    return "\n".join([*lines, "", "every sample exactly once an epoch in each of them, by its ledger"])
