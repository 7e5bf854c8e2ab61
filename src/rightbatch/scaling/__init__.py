"""Internal: how training scales with processes: measured on this machine, simulated beyond."""

from .measuring import Measured, measure
from .simulation import Fleet, Simulated, simulate
from .tables import table_of_measured, table_of_simulated

__all__ = ["Fleet", "Measured", "Simulated", "measure", "simulate", "table_of_measured", "table_of_simulated"]
