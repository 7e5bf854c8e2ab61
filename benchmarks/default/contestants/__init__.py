"""Who takes part: tuned runs, other methods at their authors' settings, Rightbatch."""

from .contestant import Contestant

__all__ = ["Contestant"]
