"""Standardised inputs and class numbers by name: statistics of the training part, used for all parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import DataError
from .block_order import BlockOrder
from .order import Order
from .preprocessing import Preprocessing, Statistics
from .source import Source, SourceWrapper, require_pairs

CHUNK_SAMPLES = 4096

Reopen = Callable[[Preprocessing], Source]


class Standardizer:
    """Mean and scale of the inputs of one source, computed by a pass over it when they are first needed.

    Args:
        source: the training part, as it is in the file.
        scaled: which inputs are standardised.
        fill: whether missing values (NaN) are replaced by the mean.
        known: the statistics, if they have been computed before.
    """

    def __init__(
        self, source: Source | None, scaled: Sequence[bool], fill: bool = False, known: Statistics | None = None
    ) -> None:
        self._source, self.scaled, self.fill, self._known = source, tuple(scaled), fill, known
        self._tensors: tuple[Tensor, Tensor, Tensor | None] | None = None

    def fitted_on(self, source: Source) -> Standardizer:
        """Return the same with the statistics of another source."""
        return Standardizer(source, self.scaled, self.fill)

    def filling(self) -> Standardizer:
        """Return the same, with missing values replaced."""
        return Standardizer(None, self.scaled, True, self.statistics)

    @property
    def statistics(self) -> Statistics:
        """The statistics, after a pass over the source if need be."""
        if self._known is None:
            assert self._source is not None
            self._known = _statistics(self._source, self.scaled)
            self._source = None  # read once: not to be held, nor sent to other processes
        return self._known

    def apply(self, x: Tensor) -> Tensor:
        """Return x (n, inputs) with missing values replaced, minus the mean, divided by the scale."""
        if self._tensors is None:
            found = self.statistics
            mean, scale = torch.tensor(found.mean, dtype=x.dtype), torch.tensor(found.scale, dtype=x.dtype)
            fill = torch.tensor(found.fill, dtype=x.dtype) if self.fill else None
            self._tensors = (mean, 1 / scale, fill)
        shift, inverse, filling = self._tensors
        if filling is not None:
            x = torch.where(x.isnan(), filling.to(x.device), x)
        return (x - shift.to(x.device)) * inverse.to(x.device)


def _statistics(source: Source, scaled: Sequence[bool]) -> Statistics:
    """One pass in float64, merged by the formulas for parts of Chan, Golub and LeVeque.

    For parts a and b of n samples, means m and sums of squared deviations s: with d = m_b - m_a,
    m = m_a + d n_b / n and s = s_a + s_b + d² n_a n_b / n.

    Reference: T. Chan, G. Golub, R. LeVeque, Algorithms for Computing the Sample Variance (1983), equation 2.1.
    """
    width = len(scaled)
    count, mean, squares = (torch.zeros(width, dtype=torch.float64) for _ in range(3))
    for start in range(0, len(source), CHUNK_SAMPLES):
        x = source.fetch(torch.arange(start, min(start + CHUNK_SAMPLES, len(source))))[0].cpu().to(torch.float64)
        there = ~x.isnan()
        n = there.sum(0).to(torch.float64)
        here = x.nan_to_num(0.0).sum(0) / n.clamp(min=1)
        deviations = torch.where(there, x - here, 0.0).square().sum(0)
        total = (count + n).clamp(min=1)
        difference = here - mean
        mean = mean + difference * n / total
        squares = squares + deviations + difference.square() * count * n / total
        count = count + n
    chosen = torch.tensor(scaled)
    deviation = (squares / count.clamp(min=1)).sqrt()
    # Of a constant column rounding may leave a deviation far below the values themselves.
    varies = chosen & (deviation > 1e-7 * mean.abs())
    return Statistics(
        tuple(torch.where(chosen, mean, 0.0).tolist()),
        tuple(torch.where(varies, deviation, 1.0).tolist()),
        tuple(mean.tolist()),
    )


class PreparedSource(SourceWrapper):
    """A source with standardised inputs, or with classes that have names.

    Args:
        raw: the source as it is in the file.
        layout: what was done to the file; its statistics are those of `standardizer`.
        standardizer: None leaves the inputs as they are.
        reopen: reads the file again, as another layout says; None if there is no file.
        numbers: new numbers of the classes.
        reports: what of the data was not as in training, as text.
    """

    def __init__(
        self,
        raw: Source,
        layout: Preprocessing,
        standardizer: Standardizer | None = None,
        reopen: Reopen | None = None,
        numbers: Tensor | None = None,
        reports: tuple[str, ...] = (),
    ) -> None:
        super().__init__(raw, "")
        self.raw, self.layout, self.standardizer, self.reopen = raw, layout, standardizer, reopen
        self.numbers, self.reports = numbers, reports
        self.block_ends, self.window, self.sequential = raw.block_ends, raw.window, raw.sequential
        if numbers is not None and layout.classes is not None:
            self.y_range = (0, len(layout.classes) - 1)
        standardized = standardizer is not None and any(standardizer.scaled)
        said = ("inputs standardised with mean and deviation of the training part",) if standardized else ()
        self.notes = (*raw.notes, *said)

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to the data, statistics included."""
        known = None if self.standardizer is None else self.standardizer.statistics
        return replace(self.layout, statistics=known)

    def __len__(self) -> int:
        return len(self.raw)

    def part(self, raw: Source, standardizer: Standardizer | None) -> PreparedSource:
        """Return another source prepared as this one, with the statistics of `standardizer`."""
        return PreparedSource(raw, self.layout, standardizer, self.reopen, self.numbers, self.reports)

    def parts(self, train: Source, held_out: Source) -> tuple[Source, Source]:
        """Return two parts of the raw source, prepared with the statistics of the first."""
        fitted = None if self.standardizer is None else self.standardizer.fitted_on(train)
        # The file contains both parts: it cannot stand for one of them.
        first, second = self.part(train, fitted), self.part(held_out, fitted)
        first.reopen = second.reopen = None
        return first, second

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of the samples at `indices`, prepared."""
        return self._prepare(*self.raw.fetch(indices))

    def fetch_epoch(self, indices: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return x and y of the samples at `indices` for one epoch, prepared."""
        return self._prepare(*self.raw.fetch_epoch(indices, seed, epoch))

    def fetch_interval(self, order: Order | BlockOrder, epoch: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return x and y at positions start, ..., stop - 1 of an epoch, prepared."""
        return self._prepare(*self.raw.fetch_interval(order, epoch, start, stop))

    def prefetch(self, indices: Tensor) -> None:
        """Forward the prefetch."""
        if self.standardizer is not None:
            _ = self.standardizer.statistics  # its pass would give up what is read ahead
        self.raw.prefetch(indices)

    def _prepare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self.standardizer is not None:
            x = self.standardizer.apply(x)
        return x, y if self.numbers is None else self.numbers.to(y.device)[y]


def standardized(source: Source) -> PreparedSource:
    """Standardise the inputs of a source by its own statistics, or by those of its training part once it is split.

    Raises:
        DataError: the inputs are not one row of floating-point numbers.
    """
    require_pairs(source, "standardize=True")
    if len(source.x_shape) != 1 or not source.x_dtype.is_floating_point:
        raise DataError(
            f"inputs of shape {list(source.x_shape)} and type {source.x_dtype} cannot be standardised: only rows of "
            "floating-point numbers can; leave standardize out"
        )
    if isinstance(source, PreparedSource):
        if source.standardizer is not None:
            return source
        return source.part(source.raw, Standardizer(source.raw, [True] * source.x_shape[0]))
    layout = source.preprocessing or Preprocessing()
    return PreparedSource(source, layout, Standardizer(source, [True] * source.x_shape[0]))


def prepared_alike(train: Source, other: Source, name: str = "valid") -> Source:
    """Prepare data for evaluation as the training data are: the same columns, categories, statistics and classes.

    Args:
        train: the training part.
        other: data of their own, prepared on their own.
        name: of these data, in messages.

    Raises:
        DataError: they have other columns, images of another shape, or classes that the training data lack.
    """
    ours, theirs = _layout(train), _layout(other)
    if ours is None and theirs is None:
        return other
    ours, theirs = ours or Preprocessing(), theirs or Preprocessing()
    if ours.table is not None and theirs.table is not None and not _same_table(ours, theirs):
        reopen = getattr(other, "reopen", None)
        if reopen is None:
            raise DataError(
                f"the {name} data are a part of a table with other columns or categories than the training data: pass "
                "a table of its own, or a fraction to hold out"
            )
        other = reopen(ours)
        theirs = _layout(other) or ours
    if ours.images is not None and theirs.images is not None and ours.images.shape != theirs.images.shape:
        raise DataError(
            f"the {name} images have the shape {list(theirs.images.shape)}, those for training "
            f"{list(ours.images.shape)}: open both with the same size"
        )
    raw = other.raw if isinstance(other, PreparedSource) else other
    standardizer = train.standardizer if isinstance(train, PreparedSource) else None
    if standardizer is not None and raw.x_shape != train.x_shape:
        raise DataError(
            f"the {name} inputs have the shape {list(raw.x_shape)}, those for training {list(train.x_shape)}: provide "
            "the same columns"
        )
    if isinstance(other, PreparedSource) and other.standardizer is not None and other.standardizer.fill:
        if standardizer is None:
            whole = train.raw if isinstance(train, PreparedSource) else train
            standardizer = Standardizer(whole, [False] * raw.x_shape[0], True)
        elif not standardizer.fill:
            standardizer = standardizer.filling()
    numbers = other.numbers if isinstance(other, PreparedSource) else None
    if ours.classes is not None and theirs.classes is not None and ours.classes != theirs.classes:
        if unknown := [label for label in theirs.classes if label not in ours.classes]:
            raise DataError(
                f"the {name} data have the class {unknown[0]!r}, which the training data lack; their classes are "
                f"{', '.join(ours.classes[:20])}: remove those samples, or train on all classes"
            )
        numbers = torch.tensor([ours.classes.index(label) for label in theirs.classes])
    if standardizer is None and numbers is None and not isinstance(other, PreparedSource):
        return other
    reports = other.reports if isinstance(other, PreparedSource) else ()
    layout = replace(theirs, classes=ours.classes, table=ours.table)
    return PreparedSource(raw, layout, standardizer, getattr(other, "reopen", None), numbers, reports)


def _layout(source: Source) -> Preprocessing | None:
    return source.layout if isinstance(source, PreparedSource) else source.preprocessing


def _same_table(ours: Preprocessing, theirs: Preprocessing) -> bool:
    a, b = ours.table, theirs.table
    assert a is not None and b is not None
    return (a.target, a.meaning, a.columns, ours.classes) == (b.target, b.meaning, b.columns, theirs.classes)
