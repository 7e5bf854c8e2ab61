"""Hooks that see each layer's input and output gradient in the ordinary backward pass, and touch nothing."""

from collections.abc import Collection, Mapping

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...errors import UnsupportedError
from ...measurements import LayerReading
from ..layers.reading import NormReader
from ..layers.uses import ParamUse
from .pass_watcher import PassWatcher
from .passes import Pass, listed, per_example_sum
from .watched_layers import WatchedLayers, has_rule


class GradHooks:
    """Watches every module of a model that has trainable parameters of its own.

    Args:
        model: without obstacles to exact per-example norms.
        keep: keep every use instead of reducing it to its norms in the backward pass.
        reading: how uses are reduced.
        only: the modules to watch; None for all.

    Raises:
        UnsupportedError: naming what stands against exactness.
    """

    def __init__(
        self,
        model: nn.Module,
        keep: bool = False,
        reading: NormReader | None = None,
        only: Collection[nn.Module] | None = None,
    ) -> None:
        self._watched = WatchedLayers(model, only)
        self._keep_all = keep
        self._reading = reading or NormReader()
        self._watcher = PassWatcher(self._watched, keep, Pass(0, self._read))
        self._handles: list[RemovableHandle] = []
        self._latest: tuple[LayerReading, ...] | None = None
        self._layers_read: tuple[LayerReading, ...] = ()

    @property
    def attached(self) -> bool:
        """Whether the hooks are on the model."""
        return bool(self._handles)

    @property
    def covered(self) -> list[nn.Parameter]:
        """The parameters of the modules watched."""
        return self._watched.covered

    @property
    def layers_read(self) -> tuple[LayerReading, ...]:
        """How each layer was read; of those used several times all uses together."""
        latest = self._reading.layers
        if latest != self._latest:
            read = {reading.path: reading for reading in latest}
            self._latest = latest
            self._layers_read = tuple(
                read.get(path) or self._watched.reading(index, "exact", "its uses must be seen together")
                for index, path in enumerate(self._watched.paths)
            )
        return self._layers_read

    @property
    def layers_exact(self) -> tuple[LayerReading, ...]:
        """The same where every use is kept: all are exact."""
        seen, again = "from its input and output gradient", "from its gradients, the module being run again"
        return tuple(
            self._watched.reading(index, "exact", seen if has_rule(layer) else again)
            for index, layer in enumerate(self._watched.layers)
        )

    def begin(self, samples: int) -> Pass:
        """Register the hooks if they are not, and collect what follows in a new pass."""
        if not self._handles:
            self._handles = self._watcher.register()
        run = Pass(samples, self._read, self._reading.begin(samples, self._watched.device))
        run.audited = self._reading.audited_rows
        self._watcher.run = run
        return run

    def _read(self, index: int, use: ParamUse) -> Tensor:
        return self._reading.norms2(self._watched.paths[index], use)

    def remove(self) -> None:
        """Take all hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def forget(self) -> None:
        """Let go of the latest pass."""
        self._watcher.run = Pass(0, self._read)

    def verify(self, loss: Tensor) -> None:
        """Refuse parameters that act otherwise than in their layers: by function, or in a penalty term.

        The first call settles it for a model whose forward pass does not change; later ones do nothing.

        Args:
            loss: of a forward pass since `begin`, before its backward pass.

        Raises:
            UnsupportedError: naming the layers.
        """
        if not self._watcher.marking:
            return
        problems = self._watched.acting_elsewhere(loss, self._watcher.run.unbatched)
        if problems:
            raise UnsupportedError(f"no exact per-example gradient norms for this loss: {listed(problems)}")
        self._watcher.marking = False

    def check(self, run: Pass) -> None:
        """Refuse a pass in which not every layer was seen, with one row for each sample.

        Raises:
            UnsupportedError: naming the layers and what was seen of them.
        """
        problems = list(run.problems) or [
            (path, "took no part in the backward pass (unused, or compiled?)")
            for index, path in enumerate(self._watched.paths)
            if index not in run.reached
        ]
        problems += self._watched.changes()
        if problems:
            raise UnsupportedError(f"per-example gradient norms cannot be read from this pass: {listed(problems)}")

    def uses(self, run: Pass) -> list[ParamUse]:
        """The uses kept in a pass, taken apart.

        Raises:
            UnsupportedError: naming the module that cannot be.
        """
        return [part for use in run.uses for part in use.parts()]

    def norms2(self, run: Pass) -> Tensor:
        """‖c_i‖² of a checked pass, shape (b,)."""
        if run.uses:
            uses = self.uses(run)
            read = uses if run.rows is None else [use.at(run.rows) for use in uses]
            run.norms2 += self._reading.joint(read, self._watched.users, run.audited)
            run.kept, run.uses = uses if self._keep_all else [], []
        return per_example_sum(run.norms2)

    def products(self, run: Pass, gradients: Mapping[Tensor, Tensor | None]) -> Tensor:
        """⟨c_i, G⟩ of a pass whose norms were read, shape (b,); every use must have been kept."""
        return per_example_sum([use.products(gradients) for use in run.kept])
