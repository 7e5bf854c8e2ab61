"""Memory that runs out, and the smaller passes that answer it."""
