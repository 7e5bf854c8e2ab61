"""Ways to measure the gradient noise, one file each."""
