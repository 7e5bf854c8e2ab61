"""Tensors and arrays: the types they become, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch

from rightbatch.data import Source, arrays, as_source, hold_out, require_trainable
from rightbatch.data.arrays import ByteSource, require_finite
from rightbatch.errors import DataError, InputError

X, Y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("given", "x_dtype"),
    [
        (np.float64, torch.float32),
        (np.float32, torch.float32),
        (np.float16, torch.float32),
        (np.dtype(">f8"), torch.float32),
        (np.int64, torch.int64),
        (np.int32, torch.int64),
        (np.int16, torch.float32),
        (np.uint16, torch.float32),
        (np.uint8, torch.float32),
        (np.bool_, torch.float32),
    ],
)
def test_types_of_arrays(given: Any, x_dtype: torch.dtype) -> None:
    source = as_source((X.astype(given), Y))
    x, y = source.fetch(torch.tensor([3, 0]))
    assert x.dtype == source.x_dtype == x_dtype and y.dtype == source.y_dtype == torch.int64
    assert x.tolist() == X.astype(given)[[3, 0]].tolist() and y.tolist() == [0, 0]
    assert (source.x_shape, source.y_shape, source.classes, source.y_range) == ((2,), (), 3, (0, 2))


def test_types_of_tensors() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        source = as_source((torch.ones(3, 2, dtype=dtype, requires_grad=True), torch.ones(3, 1, dtype=dtype)))
        assert source.x_dtype == source.y_dtype == dtype
        assert (source.y_shape, source.classes, source.y_range) == ((1,), None, None)
        assert not source.fetch(torch.tensor([0]))[0].requires_grad
    assert as_source((torch.ones(3, 2), torch.tensor([True, False, True]))).y_dtype == torch.int64


def test_tensors_of_the_right_type_are_not_copied() -> None:
    x, y = torch.ones(4, 2), np.arange(4)
    source = as_source((x, y))
    x[1, 0], y[1] = 7, 9
    assert source.fetch(torch.tensor([1]))[0].tolist() == [[7, 1]] and source.fetch(torch.tensor([1]))[1].item() == 9


def test_views_lists_and_read_only_arrays_are_taken() -> None:
    frozen = X.astype(np.float32)
    frozen.flags.writeable = False
    for x in (X[::-1], np.asfortranarray(X), X.tolist(), frozen, X[:, ::2]):
        assert as_source((x, Y.tolist())).fetch(torch.arange(6))[0].tolist() == np.asarray(x).tolist()


def test_targets_that_are_no_class_numbers() -> None:
    source = as_source((X, Y - 1))
    assert (source.classes, source.y_range) == (None, (-1, 1))


def test_images_of_bytes_are_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2) * 10
    plain = as_source((images, Y))
    assert torch.allclose(plain.fetch(torch.arange(6))[0], torch.from_numpy(images) / 255)
    assert "bytes scaled to 0..1" in plain.describe()
    monkeypatch.setattr(arrays, "FLOAT_LIMIT_BYTES", 95)
    compact = as_source((images, Y))
    assert isinstance(compact, ByteSource) and compact.x.dtype == torch.uint8
    assert torch.equal(compact.fetch(torch.arange(6))[0], plain.fetch(torch.arange(6))[0])
    train, valid = hold_out(compact, 0.5)
    both = torch.cat([part.fetch(torch.arange(3))[0] for part in (train, valid)]).flatten(1)
    assert sorted(both.tolist()) == plain.fetch(torch.arange(6))[0].flatten(1).tolist()


def test_description() -> None:
    assert as_source((X, Y)).describe() == "6 samples, x [2] float32, y [] int64, 3 classes"


def test_a_source_is_taken_as_it_is() -> None:
    source = as_source((X, Y))
    assert isinstance(source, Source) and as_source(source) is source


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:5]), "x has 6 samples and y has 5"),
        ((X[:0], Y[:0]), "the data are empty"),
        ((np.zeros((6, 0)), Y), "the data are empty: x has shape"),
        ((3.0, Y), "x is a scalar"),
        ((X, Y, Y[:5]), "different numbers of samples: 0 6, 1 6, 2 5"),
        (np.ma.masked_less(X, 0.5), "the data is a masked array with"),
        ((np.ma.masked_less(X, 0.5), Y), "x is a masked array with"),
        ((X.astype(object), Y), "x is an object array .* x.astype"),
        ((X, Y.astype(object)), "y is an object array"),
        ((X * 1j, Y), "x is complex"),
        ((torch.ones(6, 2) * 1j, Y), "x is complex .*view_as_real"),
        ((torch.eye(6).to_sparse(), Y), "sparse .*to_dense"),
        ((X.astype(str), Y), "x has dtype <U32: convert it"),
        ((X.astype(np.longdouble), Y), "convert it to real numbers"),
        ((X, np.array(["2020-01-01"] * 6, "datetime64[D]")), "y has dtype datetime64"),
        (([[1, 2], [3]], [0, 1]), "x is not a rectangular array"),
        ((torch.ones(6, 2, device="meta"), Y), "x is on meta and y is on cpu"),
        ({"x": X, "y": 3}, "y is a scalar"),
        ({"x": X * np.nan}, "x has 12 NaN"),
        ({}, "contain no tensor"),
        (None, "unsupported data of type NoneType"),
        (7, "unsupported data of type int"),
    ],
)
def test_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_source(data)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_counted_and_found(bad: float) -> None:
    x, y = X.copy(), X[:, 0].copy()
    x[4], y[2] = bad, bad
    with pytest.raises(DataError, match="x has 2 NaN or infinite values, the first in row 4"):
        as_source((x, Y))
    with pytest.raises(DataError, match="y has 1 NaN or infinite value, the first in row 2"):
        as_source((X, y))


def test_the_search_for_nan_spans_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CHECK_AT_ONCE_BYTES", 24)
    values = torch.ones(100, 1, 2)
    require_finite(values, "x")
    values[[41, 71, 99], 0, 1] = torch.nan
    with pytest.raises(DataError, match=r"x of here has 3 .* row 41"):
        require_finite(values, "x", " of here")


def test_training_needs_two_samples() -> None:
    require_trainable(as_source((X[:2], Y[:2])))
    with pytest.raises(DataError, match="a single sample: provide at least 2"):
        require_trainable(as_source((X[:1], Y[:1])))


@pytest.mark.parametrize(("n", "fraction", "held"), [(10, 0.2, 2), (2, 0.01, 1), (2, 0.99, 1), (1000, 0.333, 333)])
def test_holding_out_divides_without_loss(n: int, fraction: float, held: int) -> None:
    source = as_source((torch.arange(n), torch.arange(n)))
    train, valid = hold_out(source, fraction, seed=4)
    kept, out = (part.fetch(torch.arange(len(part)))[0].tolist() for part in (train, valid))
    assert len(out) == held and sorted(kept + out) == list(range(n))
    assert train.classes == valid.classes == n
    again, _ = hold_out(source, fraction, seed=4)
    assert again.fetch(torch.arange(len(again)))[0].tolist() == kept
    if n == 1000:
        other, _ = hold_out(source, fraction, seed=5)
        assert other.fetch(torch.arange(len(other)))[0].tolist() != kept


def test_impossible_divisions_are_refused() -> None:
    source = as_source((X, Y))
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            hold_out(source, fraction)
    with pytest.raises(DataError, match="1 samples cannot be split"):
        hold_out(as_source((X[:1], Y[:1])), 0.5)
