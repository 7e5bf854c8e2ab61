"""Which parts of a model allow exact per-example gradient norms, and why the others do not."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .convolution import CONVOLUTION
from .layers import EMBEDDING, LINEAR, Rule
from .normalization import GROUP_NORM, LAYER_NORM

# Exact types: a subclass may compute something else in its forward.
RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: LINEAR,
    nn.Conv2d: CONVOLUTION,
    nn.Embedding: EMBEDDING,
    nn.LayerNorm: LAYER_NORM,
    nn.GroupNorm: GROUP_NORM,
}
ROOT = "the model itself"


def trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The trainable parameters a module owns, its children left out."""
    return [(name, p) for name, p in module.named_parameters(recurse=False) if p.requires_grad]


def coupled(model: nn.Module) -> list[tuple[str, str]]:
    """The modules that make one example's output depend on the others, as (module path, reason)."""
    return [
        (path or ROOT, f"{type(module).__name__} in training mode: no per-example gradient is defined, "
         "because the batch statistics couple the examples")
        for path, module in model.named_modules()
        if couples(module)
    ]  # fmt: skip


def couples(module: nn.Module) -> bool:
    """Whether a module normalises by the statistics of the batch as it stands."""
    return isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)


def uncovered(model: nn.Module) -> list[tuple[str, str]]:
    """Everything that stands against exact per-example gradient norms of a model.

    Args:
        model: the model, in the mode it will be trained in.

    Returns:
        (module path, reason) of each obstacle; empty if there is none.
    """
    found = coupled(model)
    owners: defaultdict[nn.Parameter, list[str]] = defaultdict(list)
    for path, module in model.named_modules():
        for name, parameter in trained(module):
            owners[parameter].append(f"{path}.{name}" if path else name)
        if not couples(module):
            found += [(path or ROOT, reason) for reason in _obstacles(module)]
    for names in owners.values():
        if len(names) > 1:
            path = names[-1].rpartition(".")[0] or ROOT
            found.append((path, f"its parameter is shared: {' and '.join(names)} are one tensor"))
    return found


def _obstacles(module: nn.Module) -> Iterator[str]:
    names = [name for name, _ in trained(module)]
    if not names:
        return
    if type(module) not in RULES:
        yield f"{type(module).__name__} with its own {', '.join(names)} is not among {supported()}"
    elif not {*names} <= {"weight", "bias"}:
        yield f"its parameters are computed from {', '.join(names)} (weight or spectral normalisation?)"
    elif "forward" in vars(module):
        yield "its forward has been replaced"
    elif isinstance(module, nn.Embedding) and module.sparse:
        yield "its gradients are sparse"
    elif isinstance(module, nn.Embedding) and module.scale_grad_by_freq:
        yield "scale_grad_by_freq divides gradients by counts over the batch, which couples the examples"


def supported() -> str:
    """The supported layers, in words."""
    return ", ".join(kind.__name__ for kind in RULES)


def used_more_than_once(loss: Tensor, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Parameters that the loss reaches on more than one way: tied by function, used twice, or in a penalty term.

    Their gradient is not that of one layer, and the sum of the layers' norms is not theirs. Walks the graph once.
    """
    uses: Counter[nn.Parameter] = Counter()
    seen = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for after, _ in node.next_functions:
            variable = getattr(after, "variable", None)
            if variable is None:
                waiting.append(after)
            else:
                uses[variable] += 1
    return [p for p in parameters if uses[p] > 1]
