"""Worker processes that prefetch samples."""
