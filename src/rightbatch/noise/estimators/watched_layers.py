"""The layers of a model that hooks watch, and what can be known of them before a pass."""

from collections import defaultdict
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import UnsupportedError
from ...measurements import LayerReading
from ..graph import reached
from ..layers.attention import projects
from ..layers.coverage import ROOT, RULES, couples, hooked, owned, positions_first, uncovered
from ..layers.recurrent import recurrent
from .passes import listed


class WatchedLayers:
    """The modules of a model that have trainable parameters of their own.

    Args:
        model: without obstacles to exact per-example norms.
        only: the modules to watch; None for all.

    Attributes:
        layers: the modules, of which the hooks speak by index.
        covered: their parameters.
        own: their parameters by name.
        users: paths of the layers that have a parameter.
        second: the layers whose samples are along the second dimension.
        inside: the layers with a rule inside each module that has any.

    Raises:
        UnsupportedError: naming what stands against exactness.
    """

    def __init__(self, model: nn.Module, only: Collection[nn.Module] | None = None) -> None:
        obstacles = uncovered(model, only)
        if obstacles:
            raise UnsupportedError(f"no exact per-example gradient norms for this model: {listed(obstacles)}")
        paths = {module: path or ROOT for path, module in model.named_modules()}
        self.own = {module: own for module, own in owned(model).items() if only is None or module in only}
        self.layers = list(self.own)
        self.paths = [paths[layer] for layer in self.layers]
        self.covered = list(dict.fromkeys(p for own in self.own.values() for p in own.values()))
        self.users: defaultdict[Tensor, list[str]] = defaultdict(list)
        for path, own in zip(self.paths, self.own.values(), strict=True):
            for p in own.values():
                self.users[p].append(path)
        self.second = positions_first(model)
        self.inside = {
            module: {index for index, layer in enumerate(self.layers) if layer in inner and type(layer) in RULES}
            for module in model.modules()
            if len(inner := set(module.modules())) > 1
        }
        self._parameters = list(model.parameters())
        self._trainable = [p.requires_grad for p in self._parameters]
        self._normalising = [module for module in model.modules() if isinstance(module, _BatchNorm)]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._parameters[0].device

    def shared(self) -> list[bool]:
        """Of each layer, whether another one has a parameter of it too."""
        return [any(len(self.users[p]) > 1 for p in own.values()) for own in self.own.values()]

    def reading(self, index: int, exactness: str, detail: str) -> LayerReading:
        """How a layer was read."""
        return LayerReading(self.paths[index], type(self.layers[index]).__name__, exactness, detail)

    def acting_elsewhere(self, loss: Tensor, unbatched: Collection[int]) -> list[tuple[str, str]]:
        """The layers with parameters that act otherwise than in them: by function, or in a penalty term.

        Args:
            loss: of a forward pass whose layers have been marked.
            unbatched: layers that were called without samples.
        """
        problems = []
        layers = range(len(self.layers))
        simple = {index for index in layers if has_rule(self.layers[index])}
        # calls without samples are marked apart, and the modules in which their broadcasts were all found once more
        count = len(layers)
        apart = {index + count for index in unbatched}
        walks = [(simple, simple | apart)] if simple else []
        # within a module that is run again as a whole the other layers are its own business
        walks += [({index}, {index}) for index in layers if index not in simple]
        walks += [({index}, (simple | apart | {index + 2 * count}) - {index + count}) for index in sorted(unbatched)]
        for checked, around in walks:
            elsewhere = reached(loss, around)
            problems += [
                (self.paths[index], f"its {name} also acts elsewhere: by function, in a penalty term, or compiled")
                for index in sorted(checked)
                for name, parameter in self.own[self.layers[index]].items()
                if parameter in elsewhere
            ]
        return problems

    def changes(self) -> list[tuple[str, str]]:
        """What has been done to the model since."""
        problems = []
        if [p.requires_grad for p in self._parameters] != self._trainable:
            problems.append((ROOT, "parameters were frozen or unfrozen since the measurement was set up"))
        if any(map(hooked, self.covered)):
            problems.append((ROOT, "hooks that may change its gradient were put on a parameter since then"))
        if any(map(couples, self._normalising)):
            problems.append((ROOT, "BatchNorm was set to training mode since the measurement was set up"))
        return problems


def has_rule(layer: nn.Module) -> bool:
    """Whether a layer is seen through its own hooks alone, without being run again."""
    return type(layer) in RULES or projects(layer) or recurrent(layer)
