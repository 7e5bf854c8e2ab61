"""AdAdaGrad: the norm test beside an optimizer of the AdaGrad family."""

from dataclasses import dataclass
from typing import ClassVar

from ...ranges import require_number
from .norm_test import NormTest
from .sampling_test import SamplingTest


@dataclass(frozen=True, slots=True)
class AdAdaGrad(NormTest):
    """Grow to b' = max(b, ⌈V̂/(η²·‖g_B‖²)⌉), the size of the norm test, for optimizers of the AdaGrad family.

    | symbol | argument | meaning |
    |---|---|---|
    | V̂ | measurement.variance | unbiased trace of the covariance of one sample's gradient |
    | ‖g_B‖² | measurement.gradient_norm2 | squared norm of the batch's mean gradient |
    | η | theta | error allowed in the gradient, relative to its norm |

    At η = 0.1 a batch may hold no more than 1 % of noise, which takes 99 noise scales; the batch then soon reaches
    `max_size`. In expectation η asks for b >= (1/η² - 1)·B_noise.

    Args:
        theta: η; 0.1 is the paper's for MNIST and ImageNet, for CIFAR-10 it takes 0.5.
        initial: size of the first batch; the paper's for MNIST.
        max_size: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: T. T.-K. Lau, H. Liu, M. Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods"
    (arXiv 2402.11215, 2024). Its steps are those of AdaGrad or AdaGrad-Norm: give the optimizer, such as
    torch.optim.Adagrad. Its other test is the rule "augmented-test". Where its software sums over tensors, this takes
    the whole gradient.
    """

    theta: float = 0.1
    initial: int = 16

    name: ClassVar[str] = "ad-ada-grad"
    finite_population: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        SamplingTest.__post_init__(self)
        require_number("AdAdaGrad.theta", self.theta, above=0)
