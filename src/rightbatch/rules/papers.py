"""The publications that several rules come from."""

from ..citation import Citation

BIG_BATCH = Citation(
    ("S. De", "A. Yadav", "D. Jacobs", "T. Goldstein"),
    "Automated Inference with Adaptive Batches",
    2017,
    "AISTATS; arXiv 1610.05792",
)
NOISE_SCALE = Citation(
    ("S. McCandlish", "J. Kaplan", "D. Amodei"),
    "An Empirical Model of Large-Batch Training",
    2018,
    "arXiv 1812.06162",
)
ADAPTIVE_SAMPLING = Citation(
    ("R. Bollapragada", "R. Byrd", "J. Nocedal"),
    "Adaptive Sampling Strategies for Stochastic Optimization",
    2018,
    "SIAM Journal on Optimization 28; arXiv 1710.11258",
)
DAMPING = Citation(
    ("S. Sievert", "S. Shah"),
    "Improving the convergence of SGD through adaptive batch sizes",
    2021,
    "arXiv 1910.08222",
)
ONE_HOUR = Citation(
    ("P. Goyal", "et al."), "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, "arXiv 1706.02677"
)
CYCLICAL = Citation(
    ("L. N. Smith",), "Cyclical Learning Rates for Training Neural Networks", 2017, "WACV; arXiv 1506.01186"
)
SAMPLE_SIZE = Citation(
    ("R. H. Byrd", "G. M. Chin", "J. Nocedal", "Y. Wu"),
    "Sample size selection in optimization methods for machine learning",
    2012,
    "Mathematical Programming 134",
)
DOG = Citation(
    ("M. Ivgi", "O. Hinder", "Y. Carmon"),
    "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule",
    2023,
    "ICML; arXiv 2302.12022",
)
