"""Estimators of the gradient noise, and the tracker that smooths them; torch is imported when a name needs it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .methods import Noise, noise_settings
from .statistics.scale import NoiseScale

if TYPE_CHECKING:
    from .estimators.micro_batch import MicroBatches, MicroBatchNorms
    from .estimators.per_example import PerExampleNorms
    from .gradient_norm import squared_norm
    from .measuring import measure
    from .preconditioner import Preconditioner
    from .reference import per_example_gradients, reference_measurement

__all__ = [
    "MicroBatchNorms",
    "MicroBatches",
    "Noise",
    "NoiseScale",
    "PerExampleNorms",
    "Preconditioner",
    "measure",
    "noise_settings",
    "per_example_gradients",
    "reference_measurement",
    "squared_norm",
]

_HOMES = {
    "MicroBatchNorms": "estimators.micro_batch",
    "MicroBatches": "estimators.micro_batch",
    "PerExampleNorms": "estimators.per_example",
    "Preconditioner": "preconditioner",
    "measure": "measuring",
    "per_example_gradients": "reference",
    "reference_measurement": "reference",
    "squared_norm": "gradient_norm",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
