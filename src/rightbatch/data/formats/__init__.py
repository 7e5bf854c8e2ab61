"""File formats that samples are read from."""
