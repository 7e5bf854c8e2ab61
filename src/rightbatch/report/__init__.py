"""What people look at: the page of a run and the live view. matplotlib and rich are imported at first use."""

from .page import write_report
from .terminal import Progress

__all__ = ["Progress", "write_report"]
