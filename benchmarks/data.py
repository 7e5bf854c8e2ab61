"""Mini-batches beside torch's `DataLoader` and torchdata's: `python benchmarks/data.py [--write] [--only disk]`.

`make peers` runs it in an environment of its own that also holds torchdata; without that its rows are omitted.
"""

import argparse
import json
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from loaders import (
    DISK_WAYS,
    EPOCH,
    LOADER_WAYS,
    MEMORY_WAYS,
    OURS,
    STREAM_WAYS,
    WAYS,
    Items,
    MappedRows,
    Pictures,
    Rows,
    StatefulDataLoader,
    Ways,
    Work,
    in_memory,
    loader_of_batches,
    write_rows,
)
from markdown import machine, write_page
from torch import Tensor
from torch.utils.data import Dataset

from rightbatch.data import BatchStream, Source, as_source
from rightbatch.data.block_order import BlockOrder
from rightbatch.record import read_history
from rightbatch.report.curves import course_figure
from rightbatch.report.saving import save_figure

PAGE = Path(__file__).resolve().parents[1] / "docs" / "data_speed.md"
ROWS, FEATURES, BATCH = 5_000_000, 100, 1000
ROUNDS, PASSES, LOOKS = 7, 3, 10
EXAMPLE = PAGE.parents[1] / "examples" / "larger_than_memory.py"
FIGURE = PAGE.parent / "figures" / "five_million.svg"


def throughput(title: str, work: Work, ways: Ways, n: int | None = None) -> Iterator[str]:
    """Rows of samples per second: all ways take turns, each an epoch at a time."""
    n = len(work.dataset) if n is None else n  # type: ignore[arg-type]
    epochs = {way: begin(work) for way, begin in ways.items()}
    samples_per_s: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(ROUNDS + 1):
        for way, epoch in epochs.items():
            begin_s, samples = time.perf_counter(), 0
            for batch in epoch():
                samples += len(batch["x"] if type(batch) is dict else batch[0])
            assert samples == n
            if number:  # the first warms up
                samples_per_s[way].append(samples / (time.perf_counter() - begin_s))
    for way in ways:
        ratios = [ours / theirs for ours, theirs in zip(samples_per_s[OURS], samples_per_s[way], strict=True)]
        yield f"| {title} | {way} | {statistics.median(samples_per_s[way]):,.0f} | {spread(ratios, way)} |"


def spread(ratios: Sequence[float], way: str) -> str:
    """The median and the range of the ratios."""
    return "" if way == OURS else f"**{statistics.median(ratios):.2f}**, {min(ratios):.2f} to {max(ratios):.2f}"


def from_memory() -> Iterator[str]:
    for batch in (32, 128, 1000):
        work = Work(in_memory(100_000, 100), batch)
        yield from throughput(f"tensors in memory, 100,000 x 100, {batch}", work, MEMORY_WAYS)


def from_loaders() -> Iterator[str]:
    """A `DataLoader` taken over beside the same one read directly."""
    for workers in (0, 2):
        for title, dataset in (("rows", Items(in_memory(20_000, 100))), ("pictures", Pictures(2000))):
            yield from throughput(f"{title}, {workers} workers, 32", Work(dataset, 32, workers), LOADER_WAYS)


def from_streams() -> Iterator[str]:
    tensors = in_memory(EPOCH, 100)
    for batch in (32, 1000):
        for title, rows in (("samples", Rows(tensors)), ("views of one tensor", Rows(tensors, views=True))):
            yield from throughput(f"a stream of {title}, {batch}", Work(rows, batch), STREAM_WAYS, EPOCH)
        ways = {OURS: STREAM_WAYS[OURS], "DataLoader, 256 as they come": loader_of_batches}
        yield from throughput(f"a stream of batches of 256, {batch}", Work(Rows(tensors, 256), batch), ways, EPOCH)


def from_pictures() -> Iterator[str]:
    ways = {way: begin for way, begin in WAYS.items() if "whole" not in way}
    for workers in (0, 2):
        for batch in (32, 256):
            title = f"pictures, {workers} workers, {batch}"
            yield from throughput(title, Work(Pictures(2000), batch, workers), ways)


def from_disk(folder: Path) -> Iterator[str]:
    """One pass by each way in a process of its own, in turns; the files are in the system's cache."""
    for name in ("x.npy", "y.npy"):
        with (folder / name).open("rb") as file:
            while file.read(2**26):
                pass
    passes: dict[str, list[dict[str, float]]] = {way: [] for way in DISK_WAYS}
    for _ in range(PASSES):
        for way in DISK_WAYS:
            command = [sys.executable, __file__, "--folder", str(folder), "--pass", way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            passes[way].append(json.loads(done.stdout))
    for way, each in passes.items():
        ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in zip(passes[OURS], each, strict=True)]
        speed = ROWS / statistics.median(one["seconds"] for one in each)
        files, own = (max(one[name] for one in each) for name in ("files_mb", "own_mb"))
        yield f"| {way} | {speed:,.0f} | {spread(ratios, way)} | {own:,.0f} | {files:,.0f} |"


def one_pass(way: str, folder: Path) -> dict[str, float]:
    """Seconds of all batches of one epoch, and the most memory at ten looks beyond what was there before."""
    torch.set_num_threads(1)
    before = resident_mb()
    work = Work(MappedRows(folder), BATCH)
    total = len(work.dataset)  # type: ignore[arg-type]
    looks, looking_s = [before], 0.0
    begin_s, samples = time.perf_counter(), 0
    for x, _ in DISK_WAYS[way](work)():
        samples += len(x)
        if samples * LOOKS >= total * len(looks):
            look_s = time.perf_counter()
            looks.append(resident_mb())
            looking_s += time.perf_counter() - look_s
    assert samples == total
    seconds = time.perf_counter() - begin_s - looking_s
    files, own = (max(kind) - kind[0] for kind in zip(*looks, strict=True))
    return {"seconds": seconds, "files_mb": files, "own_mb": own}


def resident_mb() -> tuple[float, float]:
    """Memory of this process that is of files, which the system can take back, and its own, which it cannot."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    rss, own = (int(text.split(f"\n{name}:")[1].split()[0]) / 1024 for name in ("Rss", "Anonymous"))
    return rss - own, own


def training(folder: Path) -> Iterator[str]:
    """Rows about the example that trains on 5,000,000 rows of the disk; draws its report's figure."""
    command = [sys.executable, __file__, "--folder", str(folder), "--example"]
    if not (folder / f"data-{ROWS}").exists():
        subprocess.run(command, check=True, capture_output=True)
    run = folder / f"run-{ROWS}"
    shutil.rmtree(run, ignore_errors=True)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    *told, used_mb = done.stdout.splitlines()
    history = read_history(run / "events.jsonl")
    save_figure(course_figure(history), FIGURE)
    steps = history.steps
    rows = {
        "samples, features": f"{ROWS:,} x {FEATURES}",
        "steps": f"{len(steps['step']):,}",
        "batch size": f"{min(steps['batch_size']):,.0f} to {max(steps['batch_size']):,.0f}",
        "epochs": f"{steps['epoch'][-1]:.2f}",
        "seconds, evaluations included": f"{history.stop['seconds']:,.1f}",
        "peak memory of its own beyond the imports, MB": f"{float(used_mb):,.0f}",
        "what it says": next(line for line in told if line.startswith("validation loss")),
    }
    yield from (f"| {name} | {value} |" for name, value in rows.items())


def run_example(folder: Path) -> None:
    """Run the example in this process; print last the most memory of its own it had, in MB, looking each 0.1 s."""
    looks, over = [resident_mb()[1]], threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            looks.append(resident_mb()[1])

    looking = threading.Thread(target=look)
    looking.start()
    try:
        sys.argv = [str(EXAMPLE), "--folder", str(folder), "--samples", str(ROWS)]
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    finally:
        over.set()
        looking.join()
    print(max(looks) - looks[0])


class Many(Source):
    """As many samples as one likes; each is its number."""

    def __init__(self, n: int) -> None:
        self._n = n
        self.x_shape, self.x_dtype, self.y_shape, self.y_dtype = (), torch.int64, (), torch.int64
        self.y_range, self.notes = None, ()

    def __len__(self) -> int:
        return self._n

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return indices, indices


class ManyBlocks(Many):
    """The same in blocks of 100,000."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.block_ends, self.window = BlockOrder.even(n, 100_000).ends, 16


def resumes(folder: Path) -> Iterator[str]:
    """Rows of the time from nothing but the data and a state to the first batch, at 90 % of an epoch."""
    small, million = in_memory(10_000, 100), in_memory(1_000_000, 100)
    cases: list[tuple[str, Source, Dataset[Any] | None]] = [
        ("tensors in memory, 10,000 x 100", as_source(small), small),
        ("tensors in memory, 1,000,000 x 100", as_source(million), million),
        ("on disk, 5,000,000 x 100", as_source(MappedRows(folder).paths), MappedRows(folder)),
        ("the order alone, 4,000,000", Many(4_000_000), None),
        ("the order alone, 10¹⁰", Many(10**10), None),
        ("the order alone, 10¹⁰ in blocks of 100,000", ManyBlocks(10**10), None),
    ]
    for title, source, dataset in cases:
        saved = BatchStream(source)
        saved.seek(0, len(source) * 9 // 10)
        ours = median_ms(partial(first_batch, source, saved.state_dict()))
        yield f"| {title} | {OURS} | {ours:,.2f} |"
        if dataset is not None and StatefulDataLoader is not None:
            yield f"| | StatefulDataLoader | {1e3 * stateful_resume_s(dataset):,.0f} |"


def first_batch(source: Source, state: dict[str, Any]) -> Tensor:
    batches = BatchStream(source)
    batches.load_state_dict(state)
    return batches.fetch(batches.take(BATCH))[0]


def stateful_resume_s(dataset: Dataset[Any]) -> float:
    loader = StatefulDataLoader(dataset, BATCH, shuffle=True)
    batches = iter(loader)
    for _ in range(len(dataset) * 9 // 10 // BATCH):  # type: ignore[arg-type]
        next(batches)
    state = loader.state_dict()
    loader = StatefulDataLoader(dataset, BATCH, shuffle=True)
    begin_s = time.perf_counter()
    loader.load_state_dict(state)
    next(iter(loader))
    return time.perf_counter() - begin_s


def median_ms(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(9):
        begin_s = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin_s)
    return 1e3 * statistics.median(seconds)


def main() -> None:
    """Run and print, or write to docs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("memory", "loaders", "streams", "pictures", "disk", "resume", "training"))
    parser.add_argument("--folder", type=Path, help="where the 4 GB on disk are, or are put to stay")
    parser.add_argument("--pass", dest="way", choices=list(DISK_WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--example", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write docs/data_speed.md")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(one_pass(options.way, options.folder)))
        return
    torch.set_num_threads(1)
    if options.example:
        run_example(options.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if options.only in (None, "disk", "resume") and not (folder / "y.npy").exists():
            write_rows(folder, ROWS, FEATURES)
        head = "| data, samples a batch | way | samples a second | rightbatch is faster by |"
        disk_head = "| way | samples a second | rightbatch is faster by | memory of its own, MB | pages of files, MB |"
        resume_head = "| data | way | ms |"
        parts: dict[str, tuple[str, Callable[[], Iterator[str]]]] = {
            "memory": (head, from_memory),
            "loaders": (head, from_loaders),
            "streams": (head, from_streams),
            "pictures": (head, from_pictures),
            "disk": (disk_head, lambda: from_disk(folder)),
            "resume": (resume_head, lambda: resumes(folder)),
            "training": ("| | |", lambda: training(folder)),
        }
        for name, (columns, rows) in parts.items():
            if options.only not in (None, name):
                continue
            lines = [columns, "|" + "---|" * (columns.count("|") - 1)]
            for row in rows():
                print(row, flush=True)
                lines.append(row)
            if options.write:
                write_page(PAGE, __doc__, lines, f"data-{name}")
    if not options.write:
        print(machine())


if __name__ == "__main__":
    main()
