"""Captions: what each figure shows and how to read it."""

LOSS = (
    "The faint line is the training loss of single batches, the strong line its running mean; lower is better. "
    "Choose the x-axis: samples show how much data was needed, seconds how much time, epochs how many passes "
    "over the data."
)
VALIDATION = "The orange line is the validation loss, on data the model is not trained on."
METRICS = "Metrics are computed over all validation samples at once; a star marks the best value."
CHOICES = (
    "The batch size is the number of samples that one step averages over, the learning rate scales the length of"
    " the step; dots mark decisions that changed either by 10 % or more."
)
NOISE = (
    "The noise scale is the batch size at which the noise in the gradient is as large as the gradient itself: "
    "well below it, progress per step grows in proportion to the batch size; well above it, larger batches add little."
)
HALF = (
    "The half-performance batch n½ is the batch size at which fixed costs take half of a step's time: well below it,"
    " larger batches are nearly free."
)
BETWEEN = "On this logarithmic scale the sweet spot lies halfway between the two."
STEP_TIME = (
    "Dots are measured times, and larger dots are measured more often; the line is a fixed cost plus a cost per "
    "sample. Where the line is flat, a larger batch is nearly free."
)
SWEET_SPOT = (
    "The right-hand curve multiplies this by the number of steps needed at each batch size. Its minimum is the "
    "sweet spot, {} samples according to the last measurements; within the blue range a run takes at most 10 % longer."
)
FAILURES = (
    "The last was step {}: {}. Each time the last good state was restored and the learning rate reduced; red lines "
    "in the figures mark these steps."
)
