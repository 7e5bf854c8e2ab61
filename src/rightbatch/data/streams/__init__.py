"""Streams: samples that can only be read sequentially."""
