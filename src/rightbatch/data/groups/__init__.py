"""Samples that are packed into groups, such as subgraphs of a graph."""
