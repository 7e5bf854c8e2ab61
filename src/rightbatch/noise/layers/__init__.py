"""What each layer of a model contributes to the gradient of every example: exactly, by sketches, weighted."""
