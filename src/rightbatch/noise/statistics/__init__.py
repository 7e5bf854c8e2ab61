"""Intervals, standard errors and the smoothed noise scale."""
