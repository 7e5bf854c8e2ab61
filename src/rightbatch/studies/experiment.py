"""What an experiment is: trials that can be run apart from each other, and what their results say."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["agrees", "differs", "cannot tell"]
Result = dict[str, Any]
SHEN = "Shen, “Effect of batch size on training dynamics” (2018)"  # a source of several
DIGITS = 5  # of curves that are stored: no more than a figure or an interval shows


@dataclass(frozen=True, slots=True)
class StudyTrial:
    """One piece of an experiment, run in a process of its own.

    Args:
        key: its name within the experiment, the same in every run of it.
        settings: plain values, all that the run depends on beside experiment and subject.
    """

    key: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, a name for its file, and a sentence for those who do not see it."""

    name: str
    figure: "Figure"
    description: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One claim and what became of it here.

    Args:
        claim: in a sentence.
        source: who claims it.
        published: their figure, in words.
        ours: ours, with its interval.
        verdict: "cannot tell" where the intervals do not decide it, or too few trials were run.
    """

    claim: str
    source: str
    published: str
    ours: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Section:
    """What an experiment has to say.

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
        """The problem it is shown on unless told otherwise."""

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
    """The values to 5 significant digits, for results that are stored; nan and infinities stay what they are."""
    return [float(f"{value:.{DIGITS}g}") for value in values]
