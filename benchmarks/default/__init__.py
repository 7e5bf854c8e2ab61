"""The arena: what the automatic choice is measured by, on small problems under a simulated clock."""
