"""`DataLoader`s as data: data set, collate function, sampler, workers and generator are taken over."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from ..errors import DataError
from .arrays import TensorSource
from .collating import Collate
from .drawn import DrawnSource, Draws, SamplerDraws, UniformDraws, WeightedDraws
from .map_style import DatasetSource
from .nest_source import NestSource
from .source import Source
from .split import select
from .workers.source import WorkerSource

TORCH_SAMPLERS: tuple[type[Any], ...] = (
    SequentialSampler,
    DistributedSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    RandomSampler,
)


def loader_source(loader: DataLoader[Any], collate: Collate | None = None) -> Source:
    """Convert a `DataLoader` to a source of the batches it would make, of any size.

    | of the loader | becomes |
    |---|---|
    | dataset, collate_fn | the samples and how they become batches, without conversions |
    | batch_size | the first batch size of `AutoBatch` and `fit` |
    | shuffle | the order: all samples exactly once an epoch, shuffled by seed and epoch, or as they are stored |
    | SubsetRandomSampler | only these samples, shuffled |
    | DistributedSampler | dropped: the processes share each batch |
    | WeightedRandomSampler, RandomSampler | draws, a function of seed and epoch |
    | another sampler | its draws, read once per epoch, random numbers seeded by seed and epoch |
    | batch_sampler | its batches are joined to one sequence of draws, which is cut anew |
    | generator | its initial seed is mixed into the seed of the order |
    | num_workers, multiprocessing_context, prefetch_factor, worker_init_fn | worker processes that fetch samples |
    | pin_memory | batches are copied to page-locked memory on their way to a GPU |
    | drop_last, timeout, persistent_workers | have no effect |

    Raises:
        DataError: it reads an `IterableDataset`, or its data set returns batches.
    """
    dataset, name = loader.dataset, type(loader.dataset).__name__
    if isinstance(dataset, IterableDataset):
        raise DataError(
            f"the loader reads {name}, which only supports sequential access: write the samples with "
            "rightbatch.data.write_shards(loader, folder) and pass the folder, or train on it as a stream, with fewer "
            "guarantees, with rightbatch.data.as_stream(loader, length=...)"
        )
    if loader.batch_sampler is None:
        raise DataError(
            f"the loader does not make batches (batch_size=None), so that items of {name} are batches already: pass a "
            "loader whose data set returns single samples"
        )
    source = _samples(loader, collate)
    if loader.num_workers > 0 and not isinstance(source, TensorSource | NestSource):
        context = loader.multiprocessing_context
        method = context if isinstance(context, str) or context is None else context.get_start_method()
        ahead = loader.prefetch_factor
        source = WorkerSource(source, loader.num_workers, method, begin=loader.worker_init_fn, ahead=ahead)
    source = _ordered(loader, source)
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    source.batch_size = size if isinstance(size, int) and size > 0 else None
    source.pin, source.dataset = loader.pin_memory, dataset
    generator = loader.generator or getattr(_sampler(loader), "generator", None)
    if isinstance(generator, torch.Generator):
        source.own_seed = generator.initial_seed()
    return source


def _samples(loader: DataLoader[Any], collate: Collate | None) -> Source:
    dataset: Any = loader.dataset
    collate = loader.collate_fn if collate is None else collate
    if isinstance(dataset, Tensor) and collate is default_collate:
        return NestSource(dataset.detach())  # rows indexed at once, not one by one
    if isinstance(dataset, TensorDataset) and collate is default_collate:
        tensors = tuple(tensor.detach() for tensor in dataset.tensors)
        return TensorSource(*tensors) if len(tensors) == 2 else NestSource(tensors)
    return DatasetSource(dataset, collate)


def _ordered(loader: DataLoader[Any], source: Source) -> Source:
    """The source with the order of the loader's sampler."""
    sampler, n = _sampler(loader), len(source)
    plain = _plain(sampler)
    if plain and isinstance(sampler, SequentialSampler | RandomSampler | DistributedSampler):
        drawn_from: Any = sampler.dataset if isinstance(sampler, DistributedSampler) else sampler.data_source
        if len(drawn_from) != n:  # its rows are the first ones
            source, n = select(source, np.arange(len(drawn_from))), len(drawn_from)
    match sampler if plain else None:
        case SequentialSampler():
            source.shuffle = False
            return source
        case DistributedSampler():
            source.shuffle = sampler.shuffle
            return source
        case SubsetRandomSampler():
            return select(source, np.asarray(sampler.indices, np.int64))
        case WeightedRandomSampler():
            weights = np.asarray(sampler.weights, np.float64)
            if len(weights) > n:
                raise DataError(f"the sampler has {len(weights):,} weights, the data set {n:,} samples")
            draws: Draws = WeightedDraws(weights, sampler.num_samples, sampler.replacement)
        case RandomSampler() if not sampler.replacement and sampler.num_samples == n:
            return source
        case RandomSampler():
            draws = UniformDraws(n, sampler.num_samples, sampler.replacement)
        case _:
            draws = SamplerDraws(sampler, n, loader.dataset)
    return DrawnSource(source, draws)


def _sampler(loader: DataLoader[Any]) -> Any:
    """What draws rows: the sampler within torch's own batch sampler, or a batch sampler of another kind."""
    own = loader.batch_sampler
    return own.sampler if isinstance(own, BatchSampler) and type(own).__iter__ is BatchSampler.__iter__ else own


def _plain(sampler: object) -> bool:
    """Whether a sampler draws as one of torch's does: a subclass may draw otherwise."""
    return any(isinstance(sampler, kind) and type(sampler).__iter__ is kind.__iter__ for kind in TORCH_SAMPLERS)
