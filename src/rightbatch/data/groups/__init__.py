"""Samples that are groups of members, such as the regions of an image."""
