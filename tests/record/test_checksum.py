"""Truncation and alteration are told from wholeness."""

import hashlib
from pathlib import Path

import pytest

from rightbatch.errors import DamagedFileError, RunFolderError
from rightbatch.record.checksum import CHECKSUM_LINE_BYTES, open_verified, write_checksummed

LONG = bytes(range(256)) * 9000  # more than two chunks


@pytest.mark.parametrize("content", [b"", b"x", LONG])
def test_round_trip_and_the_digest_by_hand(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_checksummed(path, lambda file: [file.write(content[:5]), file.write(content[5:])])
    with open_verified(path) as file:
        assert file.tell() == 0 and file.read(len(content)) == content
    line = path.read_bytes()[-CHECKSUM_LINE_BYTES:]
    assert line == b"sha256 " + hashlib.sha256(content).hexdigest().encode() + b"\n" and CHECKSUM_LINE_BYTES == 72


def test_every_truncation_and_every_altered_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_checksummed(path, lambda file: file.write(b"some content, and more of it"))
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(DamagedFileError, match="truncated"), open_verified(path):
            pass
        path.write_bytes(whole[:cut] + bytes([whole[cut] ^ 16]) + whole[cut + 1 :])
        with pytest.raises(DamagedFileError, match="is damaged"), open_verified(path):
            pass
    for longer in (whole + b"\n", b" " + whole, whole + whole):
        path.write_bytes(longer)
        with pytest.raises(DamagedFileError), open_verified(path):
            pass


def test_damage_deep_in_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_checksummed(path, lambda file: file.write(LONG))
    content = bytearray(path.read_bytes())
    content[len(LONG) - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="SHA-256"), open_verified(path):
        pass


def test_what_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(RunFolderError, match="cannot read") as caught, open_verified(path):
            pass
        assert not isinstance(caught.value, DamagedFileError)
