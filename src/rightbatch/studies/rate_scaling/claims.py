"""What becomes of a base batch's learning rate at larger batches, held against what was published."""

from collections.abc import Iterable, Sequence
from statistics import mean

from ..experiment import Finding, Result, Verdict
from ..over_seeds import below_zero, show

ADA_SCALE = "T. Johnson, P. Agrawal, H. Gu, C. Guestrin, AdaScale SGD (ICML 2020)"
GOYAL = "P. Goyal et al., Accurate, Large Minibatch SGD (2017)"
RULES = ("left alone", "square root", "linear", "AdaScale")
KEPT = 0.01  # of error: a base batch's quality is kept within one point


class ScalingRuns:
    """The results by scale, rule and seed."""

    def __init__(self, results: Iterable[Result], scales: Sequence[int]) -> None:
        self._cells = {(r["scale"], r["rule"], r["seed"]): r for r in results}
        self.scales = [scale for scale in scales if any(cell[0] == scale for cell in self._cells)]

    def runs(self, scale: int, rule: str) -> list[Result]:
        """Of every seed; at scale 1 all rules are the base run."""
        wanted = "base" if scale == 1 else rule
        return [self._cells[cell] for cell in sorted(self._cells) if cell[:2] == (scale, wanted)]

    def values(self, scale: int, rule: str, what: str) -> list[float]:
        """One number of every run that has it."""
        return [run[what] for run in self.runs(scale, rule) if run[what] is not None]

    def apart(self, first: tuple[int, str], second: tuple[int, str]) -> list[float]:
        """Error of the first (scale, rule) less that of the second, of every seed that has both."""
        others = {run["seed"]: run["error"] for run in self.runs(*second)}
        return [run["error"] - others[run["seed"]] for run in self.runs(*first) if run["seed"] in others]

    def rates(self) -> list[float]:
        """Those tuned, rising."""
        return sorted({run["rate"] for run in self._cells.values()})


def rows(runs: ScalingRuns, base: int) -> list[list[str]]:
    """A line for each batch size and rule."""
    table = []
    for scale in runs.scales:
        for rule in RULES if scale > 1 else ("base",):
            found = runs.runs(scale, rule)
            if not found:
                continue
            apart = runs.apart((scale, rule), (1, "base")) if scale > 1 else []
            losses, steps = runs.values(scale, rule, "train_loss"), runs.values(scale, rule, "steps")
            table.append(
                [
                    f"{scale * base:,}",
                    rule,
                    f"{len(found)}",
                    show([run["error"] for run in found], 4),
                    show(apart, 4) if apart else "",
                    show(losses, 4) if losses else "",
                    f"{mean(steps):,.0f}" if steps else "",
                    f"{len(found) - len(steps)}",
                ]
            )
    return table


def findings(runs: ScalingRuns, classifies: bool) -> list[Finding]:
    """The claims of AdaScale at the largest scale, and of linear scaling where it still keeps the base's quality."""
    large = [scale for scale in runs.scales if scale > 1]
    if not large:
        return []
    base, most = (1, "base"), large[-1]
    lost = {scale: runs.apart((scale, "linear"), base) for scale in large}
    ada = {scale: runs.apart((scale, "AdaScale"), base) for scale in large}
    kept = [scale for scale in large if lost[scale] and mean(lost[scale]) < KEPT] if classifies else []
    unit = "error" if classifies else "loss"
    found = [
        Finding(
            f"AdaScale keeps the quality of the base batch at {most} times its size",
            ADA_SCALE,
            "CIFAR-10, 64 times: 93.9 against 94.1 % accuracy",
            _every(ada, unit),
            _keeps(ada[most]) if classifies else "cannot tell",
        ),
        Finding(
            f"at {most} times the base batch AdaScale tests better than linear scaling with warm-up",
            ADA_SCALE,
            "CIFAR-10, 64 times: 93.9 against 76.6 % accuracy",
            _difference(apart := runs.apart((most, "AdaScale"), (most, "linear")), unit),
            below_zero(apart),
        ),
        Finding(
            "beyond some batch linear scaling with warm-up loses the quality of the base batch, or diverges",
            f"{GOYAL}; {ADA_SCALE}",
            "above 8k on ImageNet; at 8.19k on CIFAR-10, 76.6 against 94.1 %",
            _every(lost, unit),
            _beyond(lost[most]),
        ),
        _steps(runs, most),
    ]
    at = kept[-1] if kept else None
    for rule, words, published in (
        ("left alone", "the rate of the base batch left alone", "41.67 against 23.74 % error on ImageNet, 32 times"),
        ("square root", "the rate scaled with the root", "26.22 against 23.74 % error on ImageNet, 32 times"),
    ):
        apart = runs.apart((at, "linear"), (at, rule)) if at else []
        where = f"at {at} times the base batch" if at else "where linear scaling keeps the quality of the base batch"
        found.append(
            Finding(
                f"{where} {words} tests worse than linear scaling, in equal epochs",
                GOYAL,
                published,
                _difference([-value for value in apart], unit) if at else "linear scaling keeps it at no scale here",
                below_zero(apart),
            )
        )
    return found


def _steps(runs: ScalingRuns, scale: int) -> Finding:
    """AdaScale against linear scaling and the base run, in steps."""
    many = {run["seed"]: run["steps"] for run in runs.runs(scale, "AdaScale") if run["steps"]}
    few = {run["seed"]: run["steps"] for run in runs.runs(scale, "linear") if run["steps"]}
    base = {run["seed"]: run["steps"] for run in runs.runs(1, "base") if run["steps"]}
    over = [many[seed] / few[seed] for seed in many if seed in few]
    under = [many[seed] / base[seed] for seed in many if seed in base]
    ours = ", ".join(
        f"{show(ratios, 2)} of {whose}"
        for ratios, whose in ((over, "those of linear scaling"), (under, "the base's"))
        if ratios
    )
    verdicts = below_zero([1 - ratio for ratio in over]), below_zero([ratio - 1 for ratio in under])
    return Finding(
        f"at {scale} times the base batch AdaScale takes more steps than linear scaling and fewer than the base batch",
        ADA_SCALE,
        "CIFAR-10, 64 times: 1.41k steps, linear 611, base 39.1k: 2.3 and 0.036",
        ours or "not run",
        "differs" if "differs" in verdicts else "cannot tell" if "cannot tell" in verdicts else "agrees",
    )


def _keeps(apart: Sequence[float]) -> Verdict:
    """Whether the error grew by less than a point."""
    return below_zero([value - KEPT for value in apart])


def _beyond(apart: Sequence[float]) -> Verdict:
    """Whether the error grew; where it did not, larger batches still might."""
    return "agrees" if below_zero([-value for value in apart]) == "agrees" else "cannot tell"


def _every(by_scale: dict[int, list[float]], unit: str) -> str:
    parts = [f"{show(apart, 4)} at {scale} times" for scale, apart in by_scale.items() if apart]
    return f"{unit} less that of the base: {', '.join(parts)}" if parts else "not run"


def _difference(apart: Sequence[float], unit: str) -> str:
    return f"difference in {unit} {show(apart, 4)}" if apart else "not run"
