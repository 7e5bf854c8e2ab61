"""Rows copied by NumPy are those that torch copies, and come from sources unless a subclass fetches in its own way."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rightbatch.data import BatchStream, as_source
from rightbatch.data.arrays import TensorSource
from rightbatch.data.nest import named_leaves
from rightbatch.data.tensor_rows import MOST_ELEMENTS, TensorRows

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(50,), (50, 3), (50, 2, 5), (50, 0), (50, MOST_ELEMENTS // 8)])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_are_those_of_index_select(dtype: torch.dtype, shape: tuple[int, ...], transposed: bool) -> None:
    tensor = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    if transposed:
        tensor = tensor.movedim(0, -1).contiguous().movedim(-1, 0)
    rows = TensorRows(tensor)
    for chosen in ([], [49], [3, 3, 0], list(range(49, -1, -1))):
        index = np.array(chosen, np.int64)
        expected = tensor.index_select(0, torch.from_numpy(index))
        for taken in (rows.take(index), rows.fetch(torch.from_numpy(index))):
            assert taken.dtype == dtype and taken.is_contiguous() and torch.equal(taken, expected)
            assert not taken.numel() or taken.data_ptr() != tensor.data_ptr()


def test_rows_follow_the_tensor_and_batches_do_not() -> None:
    tensor = torch.zeros(10, 2)
    rows = TensorRows(tensor)
    before = rows.take(np.arange(3))
    tensor += 1
    assert before.sum() == 0 and rows.take(np.arange(3)).sum() == 6


def test_floats_are_aligned_as_torch_aligns_them() -> None:
    rows = TensorRows(torch.randn(100, 7))
    held = [rows.take(np.arange(n)) for n in range(1, 40)]
    assert all(batch.data_ptr() % 64 == 0 for batch in held)


def test_fetching_by_index_is_checked() -> None:
    for index in (-1, 10):
        with pytest.raises((IndexError, RuntimeError)):
            TensorRows(torch.zeros(10, 2)).fetch(torch.tensor([index]))


def test_a_source_travels_with_one_copy_of_its_tensors() -> None:
    for data in ((torch.zeros(1000, 100), torch.zeros(1000)), {"a": torch.zeros(1000, 100), "b": torch.zeros(1000)}):
        source = as_source(data)
        stored = pickle.dumps(source)
        assert len(stored) < 1.1 * 1000 * 101 * 4
        for other in (pickle.loads(stored), copy.deepcopy(source)):
            assert other.fetch_interval(other.order(), 0, 0, 5) is not None


@pytest.mark.parametrize("form", ["pair", "dict", "triple", "nested", "texts"])
def test_batches_of_every_form_are_those_fetched_by_index(form: str) -> None:
    x, y = torch.randn(60, 4), torch.arange(60)
    forms: dict[str, Any] = {
        "pair": (x, y),
        "dict": {"x": x, "y": y},
        "triple": (x, y, y.float()),
        "nested": {"x": (x, [x, y]), "y": y},
        "texts": {"x": x, "y": [str(k) for k in range(60)]},
    }
    stream = BatchStream(as_source(forms[form]), seed=1)
    taken = stream.take(23)
    fetched = stream.fetch(taken)
    expected = stream.source.fetch(torch.from_numpy(stream.order.indices(*taken)))
    assert type(fetched) is type(expected)
    for (name, got), (_, wanted) in zip(named_leaves(fetched), named_leaves(expected), strict=True):
        assert torch.equal(got, wanted) if isinstance(got, Tensor) else got == wanted, name


def test_a_batch_may_be_changed_without_changing_the_order_or_the_data() -> None:
    x = torch.arange(40.0).reshape(40, 1)
    source = as_source((x, torch.arange(40)))
    stream = BatchStream(source)
    batch = stream.fetch(stream.take(8))
    expected = [part.clone() for part in batch]
    for part in batch:
        part.zero_()
    stream.seek(0, 0)
    again = stream.fetch(stream.take(8))
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


def test_a_subclass_that_fetches_in_its_own_way_is_asked() -> None:
    class Doubled(TensorSource):
        def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
            x, y = super().fetch(indices)
            return 2 * x, y

    source = Doubled(torch.ones(10, 2), torch.zeros(10))
    stream = BatchStream(source)
    assert stream.fetch(stream.take(4))[0].sum() == 16
