"""Rightbatch."""
