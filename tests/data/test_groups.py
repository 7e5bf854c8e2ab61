"""Grouped samples: which members are drawn, how they are packed, and that whatever cuts the stream changes nothing."""

import lzma
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

import rightbatch
from rightbatch.data import BatchStream, GroupLoss, Packing, as_groups, as_source, hold_out, with_workers
from rightbatch.data.groups.draws import draw_members
from rightbatch.data.workers.source import WorkerSource
from rightbatch.errors import DataError, InputError

SIZES = [5, 1, 12, 3, 8, 8, 20, 4]
GROUP = np.repeat(np.arange(8), SIZES)
ROWS = len(GROUP)


def table(members: int = 4, **options: Any) -> Any:
    """x = (row, group), in no order of groups; y = 1 for the third of the members that are foreground."""
    mixed = np.random.default_rng(0).permutation(ROWS)
    x = np.stack([mixed, GROUP[mixed]], 1).astype(np.float32)
    return as_groups((x, (mixed % 3 == 0).astype(np.int64), GROUP[mixed]), members, **options)


class Groups(Dataset[Any]):
    """The same groups as items; perhaps with noise drawn at random added to what is shared."""

    def __init__(self, noise: bool = False) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return 8

    def __getitem__(self, group: int) -> Any:
        rows = np.flatnonzero(group == GROUP)
        shared = torch.full((2, 3), float(group)) + (torch.rand(()) if self.noise else 0)
        return shared, np.stack([rows, GROUP[rows]], 1).astype(np.float32), rows % 3 == 0


# Which members


def draw_slowly(words: list[int], foreground: list[bool] | None, m: int, most: int) -> list[int]:
    """The members drawn of one group, straight from the rule."""
    ranked = sorted(range(len(words)), key=words.__getitem__)
    if foreground is None:
        return ranked[:m]
    first = [j for j in ranked if foreground[j]][:most]
    return first + [j for j in ranked if not foreground[j]][: m - len(first)]


@pytest.mark.parametrize("most", [0, 1, 2, 4])
def test_members_are_those_with_the_smallest_words(most: int) -> None:
    random = np.random.default_rng(most)
    for epoch in range(30):
        groups = random.permutation(50)[: random.integers(1, 9)]
        counts = random.integers(1, 15, len(groups))
        ends = np.cumsum(counts)
        foreground = random.random(ends[-1]) < 0.4 if most else None
        places, present = draw_members(groups, counts, 4, 7, epoch, foreground, most)
        for row, (group, count, end) in enumerate(zip(groups, counts, ends, strict=True)):
            # All members, drawn from this group alone, in the sequence of their words.
            ranked = draw_members(np.array([group]), np.array([count]), int(count), 7, epoch).places[0]
            words = [int(np.flatnonzero(ranked == j)[0]) for j in range(count)]
            mine = None if foreground is None else foreground[end - count : end].tolist()
            expected = draw_slowly(words, mine, 4, most)
            assert (places[row, : len(expected)] - (end - count)).tolist() == expected
            assert present[row].tolist() == [at < len(expected) for at in range(4)]
            assert (places[row, len(expected) :] == places[row, 0]).all()


def test_every_pair_of_members_is_drawn_alike() -> None:
    """3 of 7 members, 4,000 epochs: each of 21 pairs is expected 4,000/7 times.

    One draw holds the three pairs of three members; by the covariances, Σ (found - expected)²/expected is
    1.6 χ²₆ + 0.6 χ²₁₄, of mean 18 and standard deviation 6.4, and above 46 about once in 1,000 seeds. The same sum for
    single members, over n·3/7·4/7, is 7/6 χ²₆, above 28 once in 2,000.
    """
    counts = np.zeros((7, 7))
    groups, sizes = np.array([3, 900]), np.array([7, 7])
    together = 0
    for epoch in range(4000):
        places = draw_members(groups, sizes, 3, 11, epoch).places
        counts[np.ix_(places[0], places[0])] += 1
        together += len(np.intersect1d(places[0], places[1] - 7))
    pairs, expected = counts[np.triu_indices(7, 1)], 4000 / 7
    assert ((pairs - expected) ** 2 / expected).sum() < 46
    singles = np.diag(counts)
    assert ((singles - 4000 * 3 / 7) ** 2 / (4000 * 3 / 7 * 4 / 7)).sum() < 28
    # Two groups draw independently: 9/7 in common on average, standard deviation below 1; five standard errors.
    assert abs(together / 4000 - 9 / 7) < 5 / math.sqrt(4000)


def test_the_foreground_fraction_is_kept_and_padding_marked() -> None:
    source = table(8, foreground=0.25)
    x, y = source.fetch_epoch(torch.arange(8), 5, 2)
    assert x.shape == (8, 8, 2) and y.shape == (8, 8) and y.dtype == torch.int64
    for group, size in enumerate(SIZES):
        first = sum(row % 3 == 0 for row in np.flatnonzero(group == GROUP))
        foreground = min(first, 2)
        background = min(size - first, 8 - foreground)
        assert (y[group] == 1).sum() == foreground and (y[group] == 0).sum() == background
        assert (y[group] == -100).sum() == 8 - foreground - background
        assert (x[group, :, 1] == group).all()
        present = x[group, y[group] != -100, 0]
        assert len(set(present.tolist())) == len(present)
    assert source.classes == 2 and "at most 2 foreground" in source.describe()


def test_floating_targets_are_padded_with_nan_and_foreground_can_be_told() -> None:
    y = np.stack([GROUP % 2, GROUP], 1).astype(np.float32)
    x = np.arange(ROWS, dtype=np.float32)
    source = as_groups((x, y, GROUP), 6, foreground=0.5, is_foreground=lambda y: y[:, 0] > 0)
    assert (source.x_shape, source.y_shape) == ((6,), (6, 2))
    _, y_drawn = source.fetch(torch.arange(8))
    assert y_drawn[:, :, 0].isnan().sum(1).tolist() == [1, 5, 0, 3, 0, 3, 0, 3]
    with pytest.raises(InputError, match="pass is_foreground"):
        as_groups((x, y, GROUP), 6, foreground=0.5)


# The stream


def test_cuts_resumes_workers_and_neighbours_change_nothing() -> None:
    source = table()
    x, y = (torch.cat(parts) for parts in zip(*(s.fetch(s.take(8)) for s in [BatchStream(source, 3)]), strict=True))
    stream = BatchStream(source, 3)
    pieces = []
    for size in (1, 4, 2, 1):
        state = stream.state_dict()
        stream = BatchStream(table(), 3)
        stream.load_state_dict(state)
        pieces.append(stream.fetch(stream.take(size)))
    assert torch.equal(torch.cat([piece[0] for piece in pieces]), x)
    assert torch.equal(torch.cat([piece[1] for piece in pieces]), y)
    again, _ = stream.fetch(stream.take(8))
    by_group = {int(row[0, 1]): set(row[:, 0].tolist()) for row in x}
    assert any(set(row[:, 0].tolist()) != by_group[int(row[0, 1])] for row in again)  # another epoch, other members
    assert torch.equal(source.fetch(torch.tensor([6]))[0], source.fetch(torch.tensor([1, 6]))[0][1:])


def test_a_part_held_out_draws_by_the_epoch_too() -> None:
    train, valid = hold_out(table(), 0.25, seed=1)
    whole = table()
    for part in (train, valid):
        x, y = part.fetch_epoch(torch.arange(len(part)), 9, 4)
        expected = whole.fetch_epoch(x[:, 0, 1].long(), 9, 4)
        assert torch.equal(x, expected[0]) and torch.equal(y, expected[1])


@pytest.mark.skipif(sys.platform == "win32", reason="data sets of this file cannot be sent to new processes")
def test_workers_draw_the_same_members() -> None:
    workers = with_workers(as_groups(Groups(), 4, foreground=0.5), 2)
    noisy = [with_workers(as_groups(Groups(noise=True), 4), count) for count in (1, 2)]
    assert isinstance(workers, WorkerSource)
    streams = BatchStream(workers, 2), BatchStream(as_groups(Groups(), 4, foreground=0.5), 2)
    noisy_streams = [BatchStream(source, 2) for source in noisy]
    for size in (3, 5, 2, 8):
        for a, b in (streams, noisy_streams):
            assert all(map(torch.equal, a.fetch(a.take(size)), b.fetch(b.take(size))))
    indices = torch.arange(8)
    assert torch.equal(workers.fetch(indices)[0], workers.source.fetch(indices)[0])
    assert torch.equal(workers.fetch_epoch(indices, 1, 2)[0], workers.source.fetch_epoch(indices, 1, 2)[0])


def test_many_groups_at_once_draw_as_a_few() -> None:
    groups, counts = np.arange(40_000), np.full(40_000, 3)
    whole, last = draw_members(groups, counts, 2, 0, 0), draw_members(groups[-2:], counts[-2:], 2, 0, 0)
    assert (whole.places[-2:] - 3 * 39_998 == last.places).all()


# Packing


def test_tables_and_data_sets_with_something_shared_agree() -> None:
    rows = np.arange(ROWS)
    x, y = np.stack([rows, GROUP], 1).astype(np.float32), (rows % 3 == 0).astype(np.int64)
    shared = np.repeat(np.arange(8, dtype=np.float32), 6).reshape(8, 2, 3)
    by_row, by_item = as_groups((shared, x, y, GROUP), 5, foreground=0.4), as_groups(Groups(), 5, foreground=0.4)
    of_source = as_groups((as_source((shared, np.zeros(8))), x, y, GROUP), 5, foreground=0.4)
    assert by_row.packing == by_item.packing == Packing((2, 3), (2,), 5)
    assert by_row.x_shape == by_item.x_shape == (2 * 3 + 5 * 2,)
    groups = torch.tensor([6, 0, 1])
    for source in (by_item, of_source):
        found, expected = source.fetch_epoch(groups, 1, 1), by_row.fetch_epoch(groups, 1, 1)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, expected, strict=True))
    assert by_row.packing is not None
    images, members = by_row.packing.unpack(by_row.fetch_epoch(groups, 1, 1)[0])
    assert images[:, 1, 2].tolist() == [6, 0, 1] and images.shape == (3, 2, 3)
    assert members.shape == (3, 5, 2) and (members[:, :, 1] == groups[:, None]).all()


def test_targets_of_all_members_are_looked_at_for_foreground_only() -> None:
    x, y, group = torch.randn(60, 2), torch.arange(60) % 3, torch.arange(60) // 6
    looked = []

    class Watched(torch.Tensor):
        def __getitem__(self, rows: Any) -> Any:
            looked.append(len(rows))
            return self.as_subclass(torch.Tensor)[rows]

    for foreground, expected in ((None, []), (0.5, [12])):
        source = as_groups((x, y, group), 3, foreground=foreground)
        source._groups.members.y = y.as_subclass(Watched)
        looked.clear()
        source.fetch(torch.tensor([4, 1]))
        assert looked == expected


def test_names_of_groups_need_no_numbers() -> None:
    source = as_groups((np.arange(5.0), np.arange(5.0), ["b", "a", "b", "a", "b"]), 3)
    assert sorted(source.fetch(torch.tensor([1]))[0][0].tolist()) == [0, 2, 4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: table(0), "whole number of at least 1"),
        (lambda: table(2, foreground=0.2), "rounds to 0"),
        (lambda: table(2, foreground=1.5), "above 0"),
        (lambda: as_groups((np.ones(3), np.ones(3), np.ones(2, np.int64)), 2), "of 3 members"),
        (lambda: as_groups((np.ones(3), np.ones(3), np.ones(3)), 2), "float64"),
        (
            lambda: as_groups((np.ones((3, 2)), np.ones(2), np.ones(2), [0, 2]), 2),
            "1 of . groups have no members, the first is 1",
        ),
        (
            lambda: as_groups((np.ones((2, 2)), np.ones(2), np.ones(2), [0, 0]), 2),
            "1 of . groups have no members, the first is 1",
        ),
        (lambda: as_groups((np.ones((1, 2)), np.ones(2), np.ones(2), [0, 1]), 2), "group 1 is out of range"),
        (
            lambda: as_groups((np.ones((2, 2)), np.ones(2), np.ones(2), ["a", "b"]), 2),
            "the row of its shared part",
        ),
        (lambda: as_groups((torch.ones(2, 2).double(), torch.ones(2), torch.ones(2), [0, 1]), 2), "one floating type"),
        (lambda: as_groups((np.ones((2, 2)), np.ones(2), np.ones(2), [0, 10**15]), 2), "is out of range"),
        (lambda: as_groups(Mixed(), 2).fetch(torch.arange(2)), "all must be alike"),
        (lambda: as_groups([], 2), "not supported as groups"),
        (lambda: as_groups(Squares(), 2), "item 0 of Squares is not a group"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises((DataError, InputError), match=message):
        make()


class Squares(Groups):
    def __getitem__(self, group: int) -> Any:
        return group**2


class Mixed(Groups):
    def __getitem__(self, group: int) -> Any:
        return super().__getitem__(group)[group % 2 :]


# The loss and the noise


def test_the_loss_gives_each_group_one_weight() -> None:
    output, y = torch.randn(3, 4, 5, dtype=torch.float64), torch.randint(0, 5, (3, 4))
    assert GroupLoss()(output, y).item() == pytest.approx(F.cross_entropy(output.movedim(2, 1), y).item(), rel=1e-12)
    y[0, 1:], y[2, 3:] = -100, -100
    each = [F.cross_entropy(output[g, : [1, 4, 3][g]], y[g, : [1, 4, 3][g]]) for g in range(3)]
    assert GroupLoss()(output, y).item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-12)
    values, target = torch.randn(2, 3, 1, requires_grad=True), torch.randn(2, 3)
    target[1, 2] = math.nan
    expected = ((values[0, :, 0] - target[0]).square().mean() + (values[1, :2, 0] - target[1, :2]).square().mean()) / 2
    loss = GroupLoss()(values, target)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert values.grad is not None and values.grad.isfinite().all() and values.grad[1, 2] == 0
    with pytest.raises(InputError, match=r"\(groups, members\)"):
        GroupLoss()(torch.ones(6, 5), y)
    with pytest.raises(InputError, match="reduction='none'"):
        GroupLoss(F.cross_entropy)(output, y)


def test_per_sample_norms_are_those_of_the_groups_mean_gradients() -> None:
    x, y = table(6).fetch_epoch(torch.arange(8), 0, 0)
    x = x.double() / 20
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    gradients = []
    for group in range(8):
        present = y[group] != -100
        loss = F.cross_entropy(model(x[group, present]), y[group, present])
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    stacked = torch.stack(gradients)
    variance = stacked.var(0, correction=1).sum().item()
    found = rightbatch.measure(model, GroupLoss(), x, y, method="per-example")
    assert found.samples == 8 and found.variance == pytest.approx(variance, rel=1e-10)
    assert found.gradient_norm2 == pytest.approx(stacked.mean(0).square().sum().item(), rel=1e-10)


def test_members_taken_as_independent_understate_the_noise() -> None:
    """Gradients of members are √ρ u_group + √(1 - ρ) e_member: V̂ of groups is (1 + (m - 1)ρ)/m of V̂ of members.

    V̂ over b = 400 groups and d = 60 independent coordinates has a relative standard deviation of √(2/(399·60)) = 0.9 %,
    that over members, which share u, of less than 1 %: 5 % is four deviations of the ratio.
    """
    groups, m, d, correlation = 400, 8, 60, 0.3
    shared, own = torch.randn(groups, 1, d).double(), torch.randn(groups, m, d).double()
    x = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    model = nn.Linear(d, 1, bias=False).double()  # of the loss "mean of the outputs", the gradient is the input
    loss = GroupLoss(lambda output, _: output)
    y = torch.zeros(groups, m)
    of_groups = rightbatch.measure(model, loss, x, y, method="per-example").variance
    of_members = rightbatch.measure(model, loss, x.reshape(-1, 1, d), y.reshape(-1, 1), method="per-example").variance
    understated = (of_groups / groups) / (of_members / (groups * m))  # noise of the batch's gradient: true over claimed
    assert understated == pytest.approx(1 + (m - 1) * correlation, rel=0.05)


# Real images


def cells(data_dir: Path, count: int) -> tuple[Any, Any, Any, Any]:
    """Images (n, 3, 240, 320) as bytes, boxes, labels with red cells as background, and the image of each box."""
    folder = data_dir / "detection"
    if not folder.is_dir():
        pytest.skip(f"needs the images in {folder}")
    with lzma.open(folder / "bccd_60_images.npy.xz") as file:
        images = np.lib.format.read_array(file)[:count].transpose(0, 3, 1, 2)
    with np.load(folder / "bccd_60_boxes.npz") as held:
        boxes, image, label = held["boxes"], held["box_image"], held["box_label"].astype(np.int64)
        red = [str(name) for name in held["class_names"]].index("RBC")
    label = np.where(label == red, 0, np.where(label == 0, red, label))
    kept = image < count
    return images, boxes[kept], label[kept], image[kept].astype(np.int64)


def test_blood_cells_are_found_in_their_images(data_dir: Path) -> None:
    images, boxes, labels, of_image = cells(data_dir, 16)
    source = as_groups((images, boxes, labels, of_image), 8, foreground=0.25)
    assert len(source) == 16 and source.packing == Packing((3, 240, 320), (4,), 8) and source.classes == 3
    x, y = source.fetch_epoch(torch.tensor([3, 11]), 0, 1)
    shared, drawn = source.packing.unpack(x)
    assert torch.equal((shared * 255).round().to(torch.uint8), torch.from_numpy(images[[3, 11]]))
    for row, image in enumerate((3, 11)):
        here, present = of_image == image, y[row] != -100
        held = {(*box, label) for box, label in zip(boxes[here].tolist(), labels[here].tolist(), strict=True)}
        found = list(zip(drawn[row, present].tolist(), y[row, present].tolist(), strict=True))
        assert {(*box, label) for box, label in found} <= held and len(found) == len({(*box, 0) for box, _ in found})
        assert (y[row] > 0).sum() == min(2, (labels[here] > 0).sum())


def test_the_detector_of_the_docs_trains_as_written(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("images", "boxes", "labels", "box_image")
    scope: dict[str, Any] = dict(zip(names, cells(data_dir, 16), strict=True))
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    exec(page.split("## Grouped samples")[1].split("```python")[1].split("```")[0], scope)
    assert scope["run"].history[-1]["samples"] == 2 * 16
    # The noise of this model is that between images, from each image alone.
    model, (x, y) = scope["model"].double(), scope["source"].fetch(torch.arange(3))
    found = rightbatch.measure(model, GroupLoss(), x.double(), y, method="per-example")
    assert found.reason == "all samples in one backward pass"
    gradients = []
    for row in range(3):
        present = y[row : row + 1] != -100
        loss = F.cross_entropy(model(x[row : row + 1].double())[present], y[row : row + 1][present])
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    assert found.variance == pytest.approx(torch.stack(gradients).var(0, correction=1).sum().item(), rel=1e-9)


def test_the_loss_of_groups_is_the_default_of_all_their_parts() -> None:
    """Two members and two classes: torch's cross-entropy would take the members for classes without a word."""
    source = table(2)
    workers = with_workers(table(2), 1)
    for part in (source, *hold_out(source, 0.25), workers, *hold_out(workers, 0.25)):
        assert part.loss == GroupLoss()  # type: ignore[attr-defined]
    model = nn.Linear(2, 2)
    with torch.no_grad():
        expected = GroupLoss()(model(source.fetch(torch.arange(8))[0]), source.fetch(torch.arange(8))[1])
    run = rightbatch.fit(model, source, valid=source, batch_size=4, lr=1e-12, epochs=1, progress=False)
    assert run.history[-1]["valid_loss"] == pytest.approx(expected.item(), rel=1e-5)
