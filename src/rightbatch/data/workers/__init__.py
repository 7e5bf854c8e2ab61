"""Worker processes that load samples ahead of the loop."""
