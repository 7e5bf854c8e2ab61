"""Damaged files: a clear error each; nothing executed, nothing written, in bounded time and space.

A process of its own opens and reads them all, its memory limited and warnings turned to errors: this file run as a
script. Random damage is drawn from the seed that names it (`parquet 17` is seed 17), so that each case can be repeated
alone. A flipped bit among the numbers themselves may go unseen, as it must where a format has no checksum; whatever is
raised must be Rightbatch's own error, name what it is about and say so in words.
"""

import gzip
import io
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MOST_BYTES = 2**29  # of address space beyond what the imports take
MOST_S = 10
ROWS = 40

Case = tuple[str, Path | tuple[Path, Path], bool]  # its name, what is opened, whether an error is a must


# --- sound data, one set a format ---


def numbers(dtype: str = "float32") -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    return random.normal(size=(ROWS, 3)).astype(dtype), np.arange(ROWS) % 3


def write_npz(folder: Path) -> Path:
    x, y = numbers()
    np.savez(folder / "set.npz", x=x, y=y)
    return folder / "set.npz"


def write_compressed_npz(folder: Path) -> Path:
    x, y = numbers("float64")
    np.savez_compressed(folder / "set.npz", x=x, y=y)
    return folder / "set.npz"


def write_sparse_npz(folder: Path) -> Path:
    kept = {"format": b"csr", "shape": (ROWS, 5), "data": np.ones(ROWS), "indices": np.arange(ROWS) % 5}
    np.savez(folder / "set.npz", indptr=np.arange(ROWS + 1), y=np.arange(ROWS) % 2, **kept)
    return folder / "set.npz"


def write_npy(folder: Path) -> Path:
    for name, part in zip("xy", numbers(), strict=True):
        np.save(folder / f"{name}.npy", part)
    return folder


def write_shards(folder: Path) -> Path:
    for shard in range(3):
        for name, part in zip("xy", numbers(), strict=True):
            np.save(folder / f"{name}-{shard}.npy", part)
    return folder


def table() -> Any:
    import pyarrow

    x, y = numbers()
    columns = {"a": x[:, 0], "b": x[:, 1].astype("float64"), "c": np.arange(ROWS) - 5, "y": y}
    return pyarrow.table(columns)


def lists() -> Any:
    import pyarrow

    x, y = numbers()
    words = pyarrow.array(["yes", "no", "perhaps", "never"] * (ROWS // 4))
    return pyarrow.table({"x": pyarrow.array(x.tolist(), pyarrow.list_(pyarrow.float32())), "z": y, "y": words})


def write_parquet(folder: Path) -> Path:
    import pyarrow.parquet

    pyarrow.parquet.write_table(table(), folder / "set.parquet", row_group_size=16)
    return folder / "set.parquet"


def write_parquet_folder(folder: Path) -> Path:
    import pyarrow.parquet

    for number in range(2):
        pyarrow.parquet.write_table(lists(), folder / f"part-{number}.parquet", row_group_size=16)
    return folder


def write_arrow_file(folder: Path) -> Path:
    import pyarrow.ipc

    with pyarrow.ipc.new_file(folder / "set.arrow", table().schema) as file:
        file.write_table(table(), 16)
    return folder / "set.arrow"


def write_arrow_stream(folder: Path) -> Path:
    import pyarrow.ipc

    with pyarrow.ipc.new_stream(folder / "set.arrow", lists().schema) as file:
        file.write_table(lists(), 16)
    return folder / "set.arrow"


def write_saved_dataset(folder: Path) -> Path:
    write_arrow_stream(folder)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "set.arrow"}]}))
    features = {"y": {"_type": "Value"}, "z": {"_type": "ClassLabel", "names": ["p", "q", "r"]}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


def write_csv(folder: Path) -> Path:
    (folder / "set.csv").write_bytes(csv())
    return folder / "set.csv"


def write_gzipped_csv(folder: Path) -> Path:
    (folder / "set.csv.gz").write_bytes(gzip.compress(csv(), mtime=0))
    return folder / "set.csv.gz"


def csv() -> bytes:
    x, y = numbers()
    rows = [f"{a},{b},{c},{t}" for (a, b, c), t in zip(x, y, strict=True)]
    return "\n".join(["a,b,c,y", *rows, ""]).encode()


def idx() -> dict[str, bytes]:
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 5), np.uint8)
    return {
        "train-images-idx3-ubyte": struct.pack(">4B3I", 0, 0, 8, 3, 12, 4, 5) + images.tobytes(),
        "train-labels-idx1-ubyte": struct.pack(">4BI", 0, 0, 8, 1, 12) + bytes(range(12)),
    }


def write_idx(folder: Path) -> Path:
    for name, content in idx().items():
        (folder / name).write_bytes(content)
    return folder


def write_gzipped_idx(folder: Path) -> Path:
    for name, content in idx().items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    return folder


def write_images(folder: Path) -> Path:
    from PIL import Image

    random = np.random.default_rng(0)
    for number, suffix in enumerate((".png", ".jpg", ".bmp", ".webp") * 2):
        path = folder / "ab"[number % 2] / f"{number}{suffix}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 9, 3), np.uint8)).save(path)
    return folder


FORMATS: dict[str, Callable[[Path], Path]] = {
    name.removeprefix("write_"): function for name, function in list(globals().items()) if name.startswith("write_")
}
# The target is asked for by name where a format has no name for it.
TARGETED = {name for name in FORMATS if any(kind in name for kind in ("parquet", "arrow", "csv"))}


# --- damage at random ---


def cut(content: bytearray, random: np.random.Generator) -> bytearray:
    return content[: random.integers(len(content))]


def flip(content: bytearray, random: np.random.Generator) -> bytearray:
    for place in random.integers(len(content), size=random.choice([1, 4, 64])):
        content[place] ^= 1 << int(random.integers(8))
    return content


def flip_at_an_end(content: bytearray, random: np.random.Generator) -> bytearray:
    """Where headers and footers are."""
    for place in random.integers(min(200, len(content)), size=3):
        content[place if random.random() < 0.5 else -1 - place] = random.integers(256)
    return content


def blank(content: bytearray, random: np.random.Generator) -> bytearray:
    start = int(random.integers(len(content)))
    stop = start + min(int(random.integers(1, 200)), len(content) - start)
    content[start:stop] = bytes([random.choice([0, 255])]) * (stop - start)
    return content


def insert(content: bytearray, random: np.random.Generator) -> bytearray:
    place = int(random.integers(len(content)))
    return content[:place] + random.bytes(int(random.integers(1, 50))) + content[place:]


def repeat(content: bytearray, random: np.random.Generator) -> bytearray:
    return content + content[int(random.integers(len(content))) :]


def replace(content: bytearray, random: np.random.Generator) -> bytearray:
    return bytearray(
        [b"", b"a,b\n", b"\0" * 500, random.bytes(300), b"PK\3\4", "größer\n".encode() * 9][random.integers(6)]
    )


DAMAGES = (cut, flip, flip, flip_at_an_end, flip_at_an_end, blank, insert, repeat, replace)


def at_random(folder: Path, seed: int) -> Case:
    """The case of a seed; formats take turns."""
    random = np.random.default_rng(seed)
    name = list(FORMATS)[seed % len(FORMATS)]
    opened = FORMATS[name](folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    victim = files[random.integers(len(files))]
    damage = DAMAGES[random.integers(len(DAMAGES))]
    victim.write_bytes(damage(bytearray(victim.read_bytes()), random))
    return f"{name} {seed}, {damage.__name__}", opened, False


# --- damage by design: each must be refused ---


def npy(shape: Any, dtype: str = "<f4", body: bytes = b"\0" * 64) -> bytes:
    """A .npy file whose header may promise anything."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    header = header.ljust(-(-(len(header) + 11) // 64) * 64 - 11) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + body


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def objects(trap: Path) -> bytes:
    return npy((1,), "|O", pickle.dumps(Trap(trap)))


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def zip_bomb() -> bytes:
    """An archive of 5 MB that holds 1 GiB of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("x.npy", "w") as member:
            member.write(npy((2**28,), body=b""))
            for _ in range(2**6):
                member.write(bytes(2**24))
        archive.writestr("y.npy", npy((2**28,), "|i1", b""))
    return file.getvalue()


def gzip_bomb(start: bytes) -> bytes:
    """The start of a file, then 2 GiB of zeros in 2 MB: gzipped parts may follow each other."""
    return gzip.compress(start, mtime=0) + gzip.compress(bytes(2**24), mtime=0) * 2**7


def by_design(folder: Path, trap: Path) -> Iterator[Case]:
    good_x, good_y = npy((4, 4)), npy((4,), "<i8", bytes(32))

    def fresh(name: str, files: dict[str, bytes]) -> Path:
        place = folder / name.replace(" ", "-")
        place.mkdir()
        for relative, content in files.items():
            (place / relative).parent.mkdir(exist_ok=True)
            (place / relative).write_bytes(content)
        return place

    headers = {
        "10^12 rows": npy((10**12, 4)),
        "10^30 rows": npy((10**30, 4)),
        "negative rows": npy((-4, 4)),
        "a number": npy((), body=bytes(4)),
        "rows of no shape": npy("rows"),
        "fractional rows": npy((4.0, 4)),
        "truth for rows": npy((True, 4)),
        "no feature": npy((4, 0)),
        "no sample": npy((0, 4)),
        "other length": npy((3, 4)),
        "objects": objects(trap),
        "a type of its own": npy((4, 4), "<V9", bytes(200)),
        "an unknown type": npy((4, 4), "<q17"),
        "text": npy((4, 4), "<U1"),
        "dates": npy((4, 1), "<M8[s]"),
        "complex": npy((4, 1), "<c8"),
        "pairs": npy((4,), "[('a', '<f4')]"),
        "NaN": npy((4, 4), body=np.full(16, np.nan, "<f4").tobytes()),
        "infinity": npy((4, 4), body=np.full(16, np.inf, "<f4").tobytes()),
        "a deep header": b"\x93NUMPY\1\0" + struct.pack("<H", 60_000) + b"(" * 60_000,
        "a long header": b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b"{}",
        "version 9": b"\x93NUMPY\x09\0" + good_x[8:],
        "an empty header": npy((4, 4))[:8] + b"\0\0",
        "no file": b"",
        "only a magic": b"\x93NUMPY",
    }
    for what, content in headers.items():
        yield f"npy: {what}", fresh(f"npy {what}", {"x.npy": content, "y.npy": good_y}), True
        inside = fresh(f"npz {what}", {"set.npz": zipped({"x.npy": content, "y.npy": good_y})})
        yield f"npz: {what}", inside / "set.npz", True
    yield "npy: target NaN", fresh("target", {"x.npy": good_x, "y.npy": npy((4,), body=b"\xff" * 64)}), True
    shards = {"x-0.npy": good_x, "y-0.npy": good_y, "x-1.npy": npy((4, 2)), "y-1.npy": good_y}
    yield "shards: other width", fresh("shards width", shards), True
    yield "shards: one alone", fresh("shards alone", {"x-0.npy": good_x, "x-1.npy": good_x, "y-0.npy": good_y}), True

    archives = {
        "bomb": zip_bomb(),
        "names twice": zipped({"x.npy": good_x, "X.npy": good_x, "y.npy": good_y}),
        "nothing inside": zipped({}),
        "no arrays": zipped({"x.npy": b"text", "y.npy": b"text"}),
        "unknown method": zipped({"x.npy": good_x, "y.npy": good_y}).replace(b"\0\0\x08\0", b"\0\0\x63\0"),
        "encrypted": encrypted(zipped({"x.npy": good_x, "y.npy": good_y})),
    }
    for what, content in archives.items():
        yield f"npz: {what}", fresh(f"npz {what}", {"set.npz": content}) / "set.npz", True
    dense_format = npy((), "|S3", b"csr")
    dense = {"format": dense_format, "shape": npy((2,), "<i8", struct.pack("<2q", 10**9, 10**9))}
    parts = {"data": npy((0,)), "indices": npy((0,), "<i8"), "indptr": npy((1,), "<i8"), "y": good_y}
    every = {f"{name}.npy": content for name, content in {**dense, **parts}.items()}
    yield "npz: 10^18 sparse", fresh("sparse", {"set.npz": zipped(every)}) / "set.npz", True
    every["shape.npy"] = npy((3,), "<i8", struct.pack("<3q", 2, 2, 2))
    yield "npz: sparse in 3 dimensions", fresh("sparse 3", {"set.npz": zipped(every)}) / "set.npz", True
    every["shape.npy"] = npy((2,), "<i8", struct.pack("<2q", -2, 2))
    yield "npz: sparse of -2 rows", fresh("sparse -2", {"set.npz": zipped(every)}) / "set.npz", True

    every["shape.npy"] = npy((2,), "<i8", struct.pack("<2q", 2, 2))
    every["format.npy"] = npy((1,), "<U1", "é".encode("utf-32-le"))
    yield "npz: sparse in é", fresh("sparse format", {"set.npz": zipped(every)}) / "set.npz", True
    every.update({"format.npy": dense_format, "data.npy": npy((1,), "<U1", "b".encode("utf-32-le"))})
    yield "npz: sparse text", fresh("sparse text", {"set.npz": zipped(every)}) / "set.npz", True

    made = folder / "made"
    made.mkdir()
    parquet = bytearray(write_parquet(made).read_bytes())
    footers = {
        "footer beyond the file": parquet[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1",
        "footer of 4 GiB": parquet[:-8] + struct.pack("<I", 2**32 - 1) + b"PAR1",
        "empty footer": parquet[:-8] + struct.pack("<I", 0) + b"PAR1",
        "footer only": parquet[-8:],
        "encrypted": parquet[:-4] + b"PARE",
    }
    for what, content in footers.items():
        yield f"parquet: {what}", fresh(f"parquet {what}", {"set.parquet": bytes(content)}) / "set.parquet", True
    arrow = bytearray(write_arrow_file(made).read_bytes())
    ends = {
        "footer beyond the file": arrow[:-10] + struct.pack("<i", 2**31 - 1) + b"ARROW1",
        "negative footer": arrow[:-10] + struct.pack("<i", -5) + b"ARROW1",
        "message of 2 GiB": b"\xff\xff\xff\xff" + struct.pack("<i", 2**31 - 1) + bytes(40),
    }
    for what, content in ends.items():
        yield f"arrow: {what}", fresh(f"arrow {what}", {"set.arrow": bytes(content)}) / "set.arrow", True

    texts = {
        "text for numbers": b"a,y\n1,2\nthree,4\n",
        "a row too long": b"a,y\n1,2\n1,2,3,4\n",
        "a row too short": b"a,b,y\n1,2,3\n1\n",
        "no rows": b"a,b,y\n",
        "no columns": b"\n\n\n",
        "zero bytes": bytes(400),
        "an open quote": b'a,y\n"1,2\n3,4\n',
        "not UTF-8": b"a,y\n1,2\n\xff\xfe\xfd,1\n",
        "missing": b"a,y\n1,2\n,3\n",
        "infinity": b"a,y\n1,2\ninf,3\n",
        "beyond float32": b"a,y\n1,2\n1e300,3\n",
        "beyond float64": b"a,y\n1,2\n" + b"9" * 400 + b",3\n",
        "the target missing": b"a,y\n1,\n2,3\n",
        "only the target": b"y\n1\n2\n",
        "no target": b"a,b\n1,2\n",
        "UTF-16": "a,y\n1,2\n".encode("utf-16"),
    }
    for what, content in texts.items():
        yield f"csv: {what}", fresh(f"csv {what}", {"set.csv": content}) / "set.csv", True
    yield "csv: gzip bomb", fresh("bomb", {"set.csv.gz": gzip_bomb(csv() + b"1")}) / "set.csv.gz", True

    good = idx()
    images, labels = good
    for what, content in {
        "10^28 bytes": struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3) + bytes(40),
        "floats": struct.pack(">4B3I", 0, 0, 13, 3, 2, 2, 2) + bytes(32),
        "one dimension": struct.pack(">4BI", 0, 0, 8, 1, 12) + bytes(12),
        "no image": struct.pack(">4B3I", 0, 0, 8, 3, 0, 4, 5),
        "images of no size": struct.pack(">4B3I", 0, 0, 8, 3, 12, 0, 5),
        "other length": struct.pack(">4B3I", 0, 0, 8, 3, 11, 4, 5) + bytes(220),
        "one byte too many": good[images] + b"\0",
        "gzip bomb": gzip_bomb(good[images]),
        "gzip of nothing": b"\x1f\x8b",
        "all alike": good[images][:16] + bytes(240),
    }.items():
        yield f"idx: {what}", fresh(f"idx {what}", {images: content, labels: good[labels]}), True

    for what, content in {"text": b"not an image", "nothing": b"", "a PNG of 4 Gpixel": png(2**16, 2**16)}.items():
        yield f"image: {what}", fresh(f"image {what}", {"a/1.png": content, "b/1.png": png(2, 2)}), True
    for what, content in {
        "not JSON": b"{",
        "deep": b"[" * 100_000,
        "a list": b"[]",
        "names no files": b'{"_data_files": 3}',
        "names a file elsewhere": b'{"_data_files": [{"filename": "../set.arrow"}]}',
        "names what is no text": b'{"_data_files": [{"filename": null}, 3]}',
        "names nothing usable": b'{"_data_files": [3]}',
    }.items():
        yield f"saved: {what}", fresh(f"saved {what}", {"state.json": content, "dataset_info.json": b"{}"}), True


def encrypted(content: bytes) -> bytes:
    """The archive with the mark of encryption on every member."""
    marked = bytearray(content)
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = marked.find(mark)
        while at >= 0:
            marked[at + place] |= 1
            at = marked.find(mark, at + 4)
    return bytes(marked)


def png(width: int, height: int) -> bytes:
    """A PNG that expected so many grey pixels and holds few."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(6))) + chunk(b"IEND", b"")


# --- the process that reads them ---


def attempt(opened: Path, target: str | None) -> str:
    """Open and read everything; what was said against it, or nothing."""
    import torch

    from rightbatch.data import load
    from rightbatch.errors import RightbatchError

    try:
        splits = load(opened, target=target)
        for source in (splits.train, splits.test):
            if source is not None:
                for part in torch.split(torch.arange(len(source)), 64):
                    source.fetch(part)
    except RightbatchError as error:
        return str(error) or "no message"
    return ""


def contents(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in folder.rglob("*")}


def examine(folder: Path, case: Case) -> str:
    """What is wrong with how a case was met; nothing if it was met well."""
    name, opened, must_fail = case
    before = contents(folder)
    kind = name.split()[0].rstrip(":")
    signal.setitimer(signal.ITIMER_REAL, MOST_S)
    try:
        said = attempt(opened, "y" if kind in TARGETED else None)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if contents(folder) != before:
        return "files were written"
    if said and not (folder.name in said and " " in said and "Traceback" not in said and len(said) < 1500):
        return f"not clear: {said}"
    return "no error" if must_fail and not said else ""


def fuzz(folder: Path, designed: bool, seeds: range) -> None:
    """Meet all cases and write down, a line each, how that went."""
    import resource

    import PIL.Image

    PIL.Image.init()
    write_parquet(folder)
    attempt(folder / "set.parquet", "y")  # so that all is imported
    address = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError(f"over {MOST_S} s")))
    trap, place = folder / "trap", folder / "cases"
    place.mkdir()
    cases = by_design(place, trap) if designed else iter(())
    resource.setrlimit(resource.RLIMIT_AS, (address + MOST_BYTES, resource.RLIM_INFINITY))
    with (folder / "outcomes").open("w", buffering=1) as outcomes:
        for case in cases:
            outcomes.write(f"{case[0]}\t")
            outcomes.write(f"{examine(place, case)!r}\n")
        for seed in seeds:
            shutil.rmtree(place)
            place.mkdir()
            case = at_random(place, seed)
            outcomes.write(f"{case[0]}\t")
            outcomes.write(f"{examine(place, case)!r}\n")
        outcomes.write(f"trap\t{'unpickled' if trap.exists() else ''!r}\n")


def outcomes_of(folder: Path, designed: bool, seeds: range) -> list[str]:
    """Run the process; its lines."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    arguments = [str(folder), str(int(designed)), str(seeds.start), str(seeds.stop)]
    process = subprocess.run(
        [sys.executable, "-W", "error", __file__, *arguments], env=environment, capture_output=True, timeout=900
    )
    lines = (folder / "outcomes").read_text().split("\n")
    assert process.returncode == 0, (lines[-1], process.stderr.decode()[-2000:])
    return lines[:-1]


def met(folder: Path, designed: bool, seeds: range) -> None:
    lines = outcomes_of(folder, designed, seeds)
    assert len(lines) > len(seeds)
    bad = [line for line in lines if not line.endswith("\t''")]
    assert not bad, "\n".join(bad)


if __name__ == "__main__":
    fuzz(Path(sys.argv[1]), bool(int(sys.argv[2])), range(int(sys.argv[3]), int(sys.argv[4])))
else:
    pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")


def test_malformed_files(tmp_path: Path) -> None:
    met(tmp_path, True, range(60))


@pytest.mark.nightly
def test_1000_malformed_files(tmp_path: Path) -> None:
    met(tmp_path, True, range(60, 1060))
