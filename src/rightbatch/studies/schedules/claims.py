"""Published claims about increasing the batch size instead of decaying the learning rate, and our results."""

import math
from collections.abc import Callable, Mapping

from ..experiment import Finding, Result
from ..over_seeds import below_zero, show, show_factor, within

ADA_BATCH = "Devarakonda, Naumov, Garland, “AdaBatch” (2017)"
SMITH = "Smith, Kindermans, Ying, Le, “Don't decay the learning rate, increase the batch size” (2018)"
SEESAW = "Meterez et al., “Seesaw” (2025)"
EQUAL = (-1.0, 1.0)  # points of accuracy
EQUAL_LOSS = (-5.0, 5.0)  # % of the loss
SAVED = (33.0, 39.0)  # % of the steps: 36 within 3


class SchedulePairs:
    """The runs of each schedule compared with those of the fixed batch of its family."""

    def __init__(self, results: Mapping[str, Result]) -> None:
        self._results = list(results.values())

    def of(self, family: str, name: str) -> list[tuple[Result, Result]]:
        """The run of the schedule and of the fixed batch, by seed, if both are complete."""
        found = []
        for r in self._results:
            arms = r["arms"]
            if r["family"] == family and name in arms:
                control = next(iter(arms.values()))
                if arms[name]["whole"] and control["whole"]:
                    found.append((arms[name], control))
        return found

    def values(self, family: str, name: str, value: Callable[[Result, Result], float]) -> list[float]:
        """One number per seed."""
        return [value(ours, control) for ours, control in self.of(family, name)]

    def equal(self, family: str, name: str, claim: str, source: str, published: str) -> Finding:
        """The claim of equal accuracy."""
        points = self.values(family, name, _points)
        ours = f"{show(points, 2)} points, {_steps(self.of(family, name))}" if points else "not run"
        return Finding(claim, source, published, ours, within(points, EQUAL))

    def fewer(self, family: str, name: str, claim: str, source: str, published: str) -> Finding:
        """The claim of fewer steps."""
        logs = self.values(family, name, lambda a, b: math.log(a["steps"] / b["steps"]))
        return Finding(claim, source, published, _steps(self.of(family, name)) or "not run", below_zero(logs))

    def faster(self, family: str, name: str, claim: str, source: str, published: str) -> Finding:
        """The claim of less time."""
        ratios = self.values(family, name, lambda a, b: b["seconds"] / a["seconds"])
        ours = f"{show_factor(ratios)} times as fast on one core" if ratios else "not run"
        return Finding(claim, source, published, ours, below_zero([-math.log(ratio) for ratio in ratios]))


def findings(results: Mapping[str, Result], cut: float) -> list[Finding]:
    """Every claim and its verdict."""
    pairs = SchedulePairs(results)
    return [*_ada_batch(pairs), *_increased(pairs), *_seesaw(pairs, cut)]


def _ada_batch(pairs: SchedulePairs) -> list[Finding]:
    return [
        pairs.equal(
            "AdaBatch",
            "AdaBatch",
            "AdaBatch ends within one point of the accuracy of a fixed small batch whose rate decays by 4 a stage",
            ADA_BATCH,
            "within 1 %",
        ),
        pairs.fewer(
            "AdaBatch", "AdaBatch", "AdaBatch takes fewer steps than the fixed small batch", ADA_BATCH, "fewer"
        ),
        pairs.faster(
            "AdaBatch",
            "AdaBatch",
            "AdaBatch takes less time than the fixed small batch",
            ADA_BATCH,
            "up to 6.25 times as fast, on four GPUs",
        ),
    ]


def _increased(pairs: SchedulePairs) -> list[Finding]:
    momentum = pairs.values("increase", "more momentum", _points)
    return [
        pairs.equal(
            "increase",
            "increased",
            "a batch five times as large at each stage ends within one point of a rate five times as small",
            SMITH,
            "94.4 % against 94.3 %, CIFAR-10",
        ),
        pairs.fewer(
            "increase",
            "increased",
            "increasing the batch takes fewer steps than decaying the rate",
            SMITH,
            "about 29,000 against 80,000: 0.36",
        ),
        pairs.equal(
            "increase",
            "larger rate",
            "with rate and batch five times as large from the start it still ends within one point",
            SMITH,
            "94.5 % against 94.3 %, in about 6,500 of 80,000 steps: 0.08",
        ),
        Finding(
            "with more momentum as well, and a batch larger for it, accuracy is lost",
            SMITH,
            "93.3 % against 94.3 %, in fewer than 2,500 of 80,000 steps",
            f"{show(momentum, 2)} points, {_steps(pairs.of('increase', 'more momentum'))}"
            if momentum
            else "not run: its first batch would be above a tenth of the data",
            below_zero(momentum),
        ),
        Finding(
            "increasing the batch trains Inception-ResNet-V2 on ImageNet to 77 % in fewer than 2,500 steps",
            SMITH,
            "77 %, batch 65,536",
            "not tested: it takes ImageNet",
            "cannot tell",
        ),
    ]


def _seesaw(pairs: SchedulePairs, cut: float) -> list[Finding]:
    excess = pairs.values("Seesaw", "Seesaw", lambda a, b: 100 * (a["loss"][-1] / b["loss"][-1] - 1))
    accuracy = pairs.values("Seesaw", "Seesaw", _points)
    saved = pairs.values("Seesaw", "Seesaw", lambda a, b: 100 * (1 - a["steps"] / b["steps"]))
    return [
        Finding(
            "Seesaw ends at the loss of cosine decay at a fixed batch, within 5 % of it",
            SEESAW,
            "equal loss at equal FLOPs, 150M to 600M parameters",
            f"{show(excess, 1)} % of the loss; {show(accuracy, 2)} points of accuracy" if excess else "not run",
            within(excess, EQUAL_LOSS),
        ),
        Finding(
            "Seesaw saves about 36 % of the steps, within 3",
            SEESAW,
            "about 36 % less serial time; 1 - 2/π is the limit",
            f"{show(saved, 1)} %, with cuts of {cut:g}" if saved else "not run",
            within(saved, SAVED),
        ),
    ]


def _points(ours: Result, control: Result) -> float:
    return float(100 * (ours["accuracy"][-1] - control["accuracy"][-1]))


def _steps(pairs: list[tuple[Result, Result]]) -> str:
    """How many steps, of how many."""
    if not pairs:
        return ""
    ours, theirs = (sum(pair[i]["steps"] for pair in pairs) / len(pairs) for i in (0, 1))
    return f"{ours:,.0f} of {theirs:,.0f} steps: {ours / theirs:.2f}"
