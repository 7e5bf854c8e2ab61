"""Rules that adjust what the rule they contain decides."""
