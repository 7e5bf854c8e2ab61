"""How long a step takes: the timing sweep of the first batch, and the model fitted to the steps since."""
