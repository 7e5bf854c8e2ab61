"""Estimators of the gradient noise, and the tracker that smooths them; torch is imported when a name needs it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .scale import NoiseScale
from .settings import Noise, noise_settings

if TYPE_CHECKING:
    from .gradient_norm import squared_norm
    from .measuring import measure
    from .micro_batch import MicroBatches, MicroBatchNorms
    from .per_example import PerExampleNorms
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
    "MicroBatchNorms": "micro_batch",
    "MicroBatches": "micro_batch",
    "PerExampleNorms": "per_example",
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
