"""Experiments on what batch size does, on the classic problems and on data and models of one's own.

A new experiment is one file here and its class in `EXPERIMENTS`.
"""

from .batch_forms import BatchForms
from .big_batches import BigBatches
from .experiment import Drawing, Experiment, Finding, Section, StudyTrial
from .generalisation import Generalisation
from .gradient_norms import GradientNorms
from .interpolation_regimes import InterpolationRegimes
from .noise_growth import NoiseGrowth
from .noise_removal import NoiseRemoval
from .optimizers import Optimizers
from .probe_regret import ProbeRegret
from .rate_scaling import RateScaling
from .schedules import Schedules
from .start_distance import StartDistance
from .studying import StudyResult, study
from .subject import Subject
from .surfaces import Surfaces
from .trade_off import TradeOff
from .wiggle import Wiggle

EXPERIMENTS: dict[str, type[Experiment]] = {
    experiment.name: experiment
    for experiment in (
        Wiggle,
        BatchForms,
        NoiseRemoval,
        GradientNorms,
        NoiseGrowth,
        StartDistance,
        Generalisation,
        Surfaces,
        Optimizers,
        ProbeRegret,
        TradeOff,
        BigBatches,
        Schedules,
        InterpolationRegimes,
        RateScaling,
    )
}

__all__ = [
    "EXPERIMENTS",
    "BatchForms",
    "BigBatches",
    "Drawing",
    "Experiment",
    "Finding",
    "Generalisation",
    "GradientNorms",
    "InterpolationRegimes",
    "NoiseGrowth",
    "NoiseRemoval",
    "Optimizers",
    "ProbeRegret",
    "RateScaling",
    "Schedules",
    "Section",
    "StartDistance",
    "StudyResult",
    "StudyTrial",
    "Subject",
    "Surfaces",
    "TradeOff",
    "Wiggle",
    "study",
]
