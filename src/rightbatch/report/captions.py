"""What each figure shows and how it is read, for people who see it for the first time."""

LOSS = (
    "The faint line is the training loss of single batches, the strong one its running mean; lower is better. "
    "Against samples you see what was learned from the data, against seconds what that cost, against epochs how "
    "often the data were gone through."
)
VALIDATION = "Orange is the model judged on data it never trained on, which is what counts."
CHOICES = (
    "The batch size is how many samples one step averages over, the learning rate how far a step goes; dots mark"
    " decisions that changed them by a tenth or more."
)
NOISE = (
    "The noise scale is the batch size at which the noise in the gradient is as large as the gradient itself: "
    "well below it more samples pay in full, well above it they add little."
)
HALF = (
    "The half-performance batch n½ is where half of a step's time goes into its fixed costs: well below it larger"
    " batches are nearly free."
)
BETWEEN = "On this scale the sweet spot lies halfway between the two."
STEP_TIME = (
    "Dots are measured times, larger where there are more; the line is a fixed cost plus a cost per example. As "
    "long as the line is flat, a larger batch is nearly free."
)
SWEET_SPOT = (
    "The right-hand curve multiplies this by the number of steps needed at each batch size. Its lowest point is "
    "the sweet spot, {} samples by the last measurements; within the blue range a run takes at most 10 % longer."
)
FAILURES = (
    "The last was step {}: {}. Each time the last good state was restored and the learning rate was cut; red "
    "lines in the figures show where."
)
