"""Evaluation: exact means, and nothing changed by looking."""

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import fit
from rightbatch.data import BatchStream, Order, Sample, Source, as_source, blocks, sample
from rightbatch.data.blocks import BlockSource
from rightbatch.fitting.evaluation import BATCH_NORM_SAMPLES, CHUNK_SAMPLES, evaluate, evaluating, refresh_batch_norm
from rightbatch.loop.distributed.process_group import ProcessGroup

CPU = torch.device("cpu")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4)).double()


def classification(n: int) -> Source:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    return as_source((x, torch.randint(0, 4, (n,), generator=generator)))


def whole(source: Source) -> tuple[Tensor, Tensor]:
    return source.fetch(torch.arange(len(source)))


@pytest.mark.parametrize("n", [1, 7, CHUNK_SAMPLES, CHUNK_SAMPLES + 1, 2 * CHUNK_SAMPLES + 300])
def test_means_over_all_samples_whatever_the_chunks(n: int) -> None:
    model, source = network(), classification(n)
    found = evaluate(model, F.cross_entropy, source, CPU)
    x, y = whole(source)
    with torch.no_grad():
        output = deepcopy(model).eval()(x)
    assert found["loss"] == pytest.approx(F.cross_entropy(output, y).item(), rel=1e-12)
    assert found["accuracy"] == int((output.argmax(1) == y).sum()) / n


def test_no_accuracy_without_classes() -> None:
    x = torch.randn(9, 3, dtype=torch.float64)
    model = nn.Linear(3, 2).double()
    found = evaluate(model, F.mse_loss, as_source((x, torch.zeros(9, 2, dtype=torch.float64))), CPU)
    assert found == {"loss": pytest.approx(model(x).square().mean().item())}
    sequences = as_source((torch.randn(9, 3, dtype=torch.float64), torch.zeros(9, 2, dtype=torch.int64)))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().mean()

    assert set(evaluate(model, loss, sequences, CPU)) == {"loss"}


def test_looking_changes_nothing() -> None:
    model, source = network().train(), classification(50)
    model[1].eval()
    before, random = deepcopy(model.state_dict()), torch.get_rng_state()
    evaluate(model, F.cross_entropy, source, CPU)
    assert [m.training for m in model] == [True, False, True, True] and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not any(m.training for m in model.modules())
        assert not torch.is_grad_enabled()
        _ = 1 / 0
    assert [m.training for m in model] == [True, False, True, True] and torch.is_grad_enabled()


def test_batch_norm_is_refreshed_to_the_statistics_of_the_data() -> None:
    model, source = network(), classification(300)
    x, _ = whole(source)
    for _ in range(3):
        model(torch.randn(8, 3, dtype=torch.float64) * 9)
    momentum = model[1].momentum
    random = torch.get_rng_state()
    refresh_batch_norm(model, source, CPU)
    hidden = model[0](x).detach()
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0))
    torch.testing.assert_close(model[1].running_var, hidden.var(0))
    assert model[1].momentum == momentum
    assert torch.equal(torch.get_rng_state(), random)


def drawn(source: Source, samples: int) -> Tensor:
    return source.fetch(torch.from_numpy(Order(len(source), 0).indices(0, 0, samples)))[0]


def test_batch_norm_averages_its_chunks() -> None:
    """Of more data the plain average over chunks of 1,024, and of 4,096 samples only."""
    model, source = network(), classification(BATCH_NORM_SAMPLES + 700)
    refresh_batch_norm(model, source, CPU)
    hidden = model[0](drawn(source, BATCH_NORM_SAMPLES)).detach()
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0))
    torch.testing.assert_close(
        model[1].running_var, torch.stack([c.var(0) for c in hidden.split(CHUNK_SAMPLES)]).mean(0)
    )


def test_a_single_sample_left_over_is_left_out() -> None:
    model, source = network(), classification(CHUNK_SAMPLES + 1)
    refresh_batch_norm(model, source, CPU)
    hidden = model[0](drawn(source, CHUNK_SAMPLES)).detach()
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0))


def test_data_sorted_by_class_give_the_statistics_of_all_classes() -> None:
    """Two classes ten standard deviations apart: the mean of 4,096 drawn has standard error 0.08, asked are five."""
    n = 3 * BATCH_NORM_SAMPLES
    y = (torch.arange(n) >= n // 2).long()
    x = torch.randn(n, 1, generator=torch.Generator().manual_seed(0)) + 10 * y[:, None]
    norm = nn.BatchNorm1d(1)
    refresh_batch_norm(norm, as_source((x, y)), CPU)
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.running_mean.item() == pytest.approx(5, abs=0.4)
    assert norm.running_var.item() == pytest.approx(26, rel=0.05)


def test_layers_that_keep_no_statistics_or_are_frozen_are_left_alone() -> None:
    model, source = network(), classification(60)
    model[1].eval()
    before = deepcopy(model.state_dict())
    refresh_batch_norm(model, source, CPU)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    untracked = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)).double()
    refresh_batch_norm(untracked, source, CPU)


class OneOf(ProcessGroup):
    """One of several processes, of which the others are looked at by themselves."""

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        self.found = list(values)
        return [self.found]


def test_each_process_reads_its_own_blocks_only() -> None:
    """Six blocks of 1,500 rows, three processes: two blocks each, and together the means of one process."""
    n = 9000
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(n, 3, generator=generator, dtype=torch.float64), torch.randint(0, 4, (n,), generator=generator)

    class Rows(BlockSource):
        def _read(self, block: int) -> tuple[Tensor, Tensor]:
            reads.append(block)
            return x[block * 1500 :][:1500], y[block * 1500 :][:1500]

    model, totals = network(), []
    for rank in range(3):
        reads: list[int] = []
        source = Rows([1500] * 6, (3,), torch.float64, (), torch.int64)
        ranks = OneOf(3, rank)
        evaluate(model, F.cross_entropy, source, CPU, ranks)
        assert reads == [2 * rank, 2 * rank + 1]
        totals.append(ranks.found)
    loss, correct, *_ = (sum(column) for column in zip(*totals, strict=True))
    alone = evaluate(model, F.cross_entropy, as_source((x, y)), CPU)
    assert loss / n == pytest.approx(alone["loss"], rel=1e-12) and correct / n == alone["accuracy"]
    last = OneOf(3, 2)
    evaluate(model, F.cross_entropy, classification(1), CPU, last)  # fewer samples than processes
    evaluate(model, F.cross_entropy, classification(1), CPU, first := OneOf(3, 0))
    assert [last.found[0] > 0, first.found[0] > 0] == [True, False]


class Rows(BlockSource):
    """Twelve blocks of 100 rows, four of which are kept; counts what is read."""

    def __init__(self) -> None:
        super().__init__([100] * 12, (3,), torch.float64, (), torch.int64)
        self.whole, self.reads = whole(classification(1200)), 0

    def _read(self, block: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        x, y = (part[100 * block :][:100] for part in self.whole)
        return x, y


@pytest.fixture
def four_blocks_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "WINDOW_BYTES", 4 * 100 * 32)
    monkeypatch.setattr(sample, "SAMPLE", 150)


@pytest.mark.parametrize("most_bytes", [150 * 32, 150 * 32 - 1])
def test_the_sample_of_blocks_is_kept_where_it_is_small(
    most_bytes: int, monkeypatch: pytest.MonkeyPatch, four_blocks_kept: None
) -> None:
    monkeypatch.setattr(sample, "SAMPLE_BYTES", most_bytes)
    source = Rows()
    few = Sample(source)
    expected = source.fetch(torch.from_numpy(BatchStream(source).order.indices(0, 0, 150)))
    elsewhere = torch.arange(800, 1200)
    reads = []
    for _ in range(3):
        source.fetch(elsewhere)
        before = source.reads
        x, y = whole(few)
        assert torch.equal(x, expected[0]) and torch.equal(y, expected[1])
        reads.append(source.reads - before)
    assert min(reads) > 0 if most_bytes < 150 * 32 else reads[1:] == [0, 0]


def test_batch_norm_costs_a_run_the_reading_of_its_sample_once(no_report: None, four_blocks_kept: None) -> None:
    """Eight evaluations of an average: a window of two blocks is read, and pushes out two, once."""
    reads = []
    for norm in (nn.Identity(), nn.BatchNorm1d(5)):
        torch.manual_seed(0)
        model, source = nn.Sequential(nn.Linear(3, 5), norm, nn.Linear(5, 4)).double(), Rows()
        run = fit(
            model,
            source,
            valid=classification(20),
            batch_size=50,
            lr="averaged-distance",
            epochs=2,
            eval_every=0.25,
            progress=False,
        )
        assert sum("valid_loss" in row for row in run.history) >= 8
        reads.append(source.reads)
    assert reads[0] < reads[1] <= reads[0] + 4
