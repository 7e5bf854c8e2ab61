"""Which parts of a model allow exact per-example gradient norms, and why the others do not."""

from collections.abc import Collection, Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from .attention import frozen_apart, projects
from .convolution import CONVOLUTION, TRANSPOSED_CONVOLUTION
from .embedding import EMBEDDING, EMBEDDING_BAG
from .linear import BILINEAR, LINEAR, PRELU
from .normalization import CHANNEL_NORM, GROUP_NORM, LAYER_NORM, RMS_NORM
from .recurrent import inexact
from .rule import Rule

# Exact types: a subclass may compute something else in its forward.
RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: LINEAR,
    nn.Bilinear: BILINEAR,
    nn.Conv1d: CONVOLUTION,
    nn.Conv2d: CONVOLUTION,
    nn.Conv3d: CONVOLUTION,
    nn.ConvTranspose1d: TRANSPOSED_CONVOLUTION,
    nn.ConvTranspose2d: TRANSPOSED_CONVOLUTION,
    nn.ConvTranspose3d: TRANSPOSED_CONVOLUTION,
    nn.Embedding: EMBEDDING,
    nn.EmbeddingBag: EMBEDDING_BAG,
    nn.LayerNorm: LAYER_NORM,
    nn.RMSNorm: RMS_NORM,
    nn.GroupNorm: GROUP_NORM,
    nn.InstanceNorm1d: CHANNEL_NORM,
    nn.InstanceNorm2d: CHANNEL_NORM,
    nn.InstanceNorm3d: CHANNEL_NORM,
    nn.BatchNorm1d: CHANNEL_NORM,  # by fixed statistics: with those of the batch it is refused
    nn.BatchNorm2d: CHANNEL_NORM,
    nn.BatchNorm3d: CHANNEL_NORM,
    nn.PReLU: PRELU,
}
STACKS = (
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.Transformer,
)
ROOT = "the model itself"


def owned(model: nn.Module) -> dict[nn.Module, dict[str, nn.Parameter]]:
    """The modules that act by trainable parameters of their own, with these by name."""
    found: dict[nn.Module, dict[str, nn.Parameter]] = {}
    borrowed = set()
    for module in model.modules():
        own = dict(trained(module))
        if isinstance(module, nn.MultiheadAttention):  # its output layer is not called, only read
            borrowed.add(module.out_proj)
            own |= {f"out_proj.{name}": parameter for name, parameter in trained(module.out_proj)}
        if own and module not in borrowed:
            found[module] = own
    return found


def trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The trainable parameters a module owns, its children left out."""
    return [(name, p) for name, p in module.named_parameters(recurse=False) if p.requires_grad]


def positions_first(model: nn.Module) -> set[nn.Module]:
    """The modules that see (positions, samples, features): those of stock transformers that are not `batch_first`."""
    found: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) and not module.batch_first:
            found.add(module)
        elif isinstance(module, STACKS):
            inner = list(module.modules())
            if any(isinstance(m, nn.MultiheadAttention) and not m.batch_first for m in inner):
                found.update(inner)
    return found


def coupled(model: nn.Module) -> list[tuple[str, str]]:
    """The modules that make one sample's output depend on the others, as (module path, reason)."""
    return [
        (path or ROOT, f"{type(module).__name__} in training mode: no per-example gradient is defined, "
         "because the batch statistics couple the samples")
        for path, module in model.named_modules()
        if couples(module)
    ]  # fmt: skip


def couples(module: nn.Module) -> bool:
    """Whether a module normalises by the statistics of the batch as it stands."""
    return isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)


def hooked(parameter: nn.Parameter) -> bool:
    """Whether hooks on a parameter may change its gradient, which then is not the sum of what the layers show."""
    return bool(parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None))


def uncovered(model: nn.Module, only: Collection[nn.Module] | None = None) -> list[tuple[str, str]]:
    """Everything that is known beforehand to stand against exact per-example gradient norms of a model.

    Args:
        model: the model, in the mode it will be trained in.
        only: the modules whose parameters are asked for; None for all.

    Returns:
        (module path, reason) of each obstacle; empty if there is none.
    """
    paths = {module: path or ROOT for path, module in model.named_modules()}
    return coupled(model) + [
        (paths[module], reason)
        for module, own in owned(model).items()
        if not couples(module) and (only is None or module in only)
        for reason in _obstacles(module, own)
    ]


def _obstacles(module: nn.Module, own: dict[str, nn.Parameter]) -> Iterator[str]:
    if names := [name for name, parameter in own.items() if hooked(parameter)]:
        yield f"hooks on its {', '.join(names)} may change the gradient"
    elif "forward" in vars(module):
        yield "its forward has been replaced"
    elif is_parametrized(module) or isinstance(module, ParametrizationList):
        yield "its parameters are computed from others (weight or spectral normalisation?)"
    elif isinstance(module, (nn.ParameterList, nn.ParameterDict)):
        yield f"{type(module).__name__} is used by another module: make its parameters attributes of that module"
    elif type(module) in RULES and not {*own} <= {"weight", "bias"}:
        yield f"its parameters are computed from {', '.join(own)} (weight or spectral normalisation?)"
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
        yield "its gradients are sparse"
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.scale_grad_by_freq:
        yield "scale_grad_by_freq divides gradients by counts over the batch, which couples the samples"
    elif projects(module) and isinstance(module, nn.MultiheadAttention) and frozen_apart(module):
        yield "a bias is trained whose weight is frozen"
    elif reason := inexact(module):
        yield reason
