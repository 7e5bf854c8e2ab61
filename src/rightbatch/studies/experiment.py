"""The base class of experiments: independent trials, and the evaluation of their results."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["agrees", "differs", "cannot tell"]
Result = dict[str, Any]
SHEN = "Shen, “Effect of batch size on training dynamics” (2018)"  # cited by several studies
DIGITS = 5  # of stored curves: more than a figure or an interval shows


@dataclass(frozen=True, slots=True)
class StudyTrial:
    """One part of an experiment, run in a separate process.

    Args:
        key: its unique name within the experiment, the same in every run.
        settings: plain values; with experiment and subject they determine the trial.
    """

    key: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, its file name, and its alternative text."""

    name: str
    figure: "Figure"
    description: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim and the result of testing it.

    Args:
        claim: the claim, as a sentence.
        source: the publication.
        published: the published result, as text.
        ours: our result with its interval.
        verdict: "cannot tell" if the intervals are inconclusive, or too few trials were run.
    """

    claim: str
    source: str
    published: str
    ours: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Section:
    """The evaluation of an experiment.

    Args:
        paragraphs: set-up first, then what was seen; plain text.
        drawings: figures.
        head: names of the table's columns.
        rows: of the table.
        findings: claims held against the results.
    """

    paragraphs: Sequence[str]
    drawings: Sequence[Drawing] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    findings: Sequence[Finding] = field(default=())


class Experiment(ABC):
    """An experiment: a frozen dataclass whose fields are its design.

    Trials come most important first: a study that runs out of time has run the first of them, and its page says how
    many. So the first seed of every batch size stands before the second seed of any.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    source: ClassVar[str]

    @property
    @abstractmethod
    def classic(self) -> Subject:
        """The default problem."""

    @abstractmethod
    def trials(self, subject: Subject) -> list[StudyTrial]:
        """The whole design, most important first.

        Raises:
            InputError: the subject does not suit the experiment.
        """

    @abstractmethod
    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Run one trial; plain values only."""

    @abstractmethod
    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """What the results say, by the keys of their trials; some trials of the design may be missing."""


def rounded(values: Iterable[float]) -> list[float]:
    """Round values to 5 significant digits for storage; nan and infinities stay unchanged."""
    return [float(f"{value:.{DIGITS}g}") for value in values]
