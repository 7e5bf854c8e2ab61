"""AdAdaGrad: the norm test beside an optimizer of the AdaGrad family."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
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

    At η = 0.1 at most 1 % of the squared gradient may be noise, which takes 99 noise scales, so that the batch soon
    reaches `max_size`. In expectation η asks for b >= (1/η² - 1)·B_noise.

    Args:
        theta: η; 0.1 is the paper's for MNIST and ImageNet, for CIFAR-10 it takes 0.5.
        initial: size of the first batch; the paper's for MNIST.
        max_size: largest batch size; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: Lau, Liu and Kolar 2024. Its steps are those of AdaGrad or AdaGrad-Norm: pass the optimizer, such as
    torch.optim.Adagrad. Its other test is the rule "augmented-test". Differs: its software sums over tensors; this rule
    takes the whole gradient.
    """

    theta: float = 0.1
    initial: int = 16

    name: ClassVar[str] = "ad-ada-grad"
    reference: ClassVar[Citation | None] = Citation(
        ("T. T.-K. Lau", "H. Liu", "M. Kolar"),
        "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods",
        2024,
        "arXiv 2402.11215",
    )
    finite_population: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        SamplingTest.__post_init__(self)
        require_number("AdAdaGrad.theta", self.theta, above=0)
