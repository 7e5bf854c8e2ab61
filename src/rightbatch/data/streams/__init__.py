"""Samples that can only be read in their own order."""
