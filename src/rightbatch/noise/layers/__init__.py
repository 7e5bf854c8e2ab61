"""What each layer of a model contributes to the gradient of every sample: exactly, by random projections, weighted."""
