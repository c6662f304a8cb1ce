"""LZO with runs of zeros: against a codec that knows the older form, and hand-made streams of the newer."""

from __future__ import annotations

import contextlib
import struct

import lzallright
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kcrash.errors import CorruptData
from kcrash.linux.lzo_rle import decompress, is_versioned

END = b"\x11\x00\x00"
PIECES = st.one_of(
    st.binary(max_size=200),
    st.tuples(st.binary(min_size=1, max_size=9), st.integers(1, 600)).map(lambda pair: pair[0] * pair[1]),
)


@given(st.lists(PIECES, max_size=12).map(b"".join).filter(bool))
def test_plain_streams(data: bytes) -> None:
    packed = bytes(lzallright.LZOCompressor().compress(data))
    assert decompress(packed, len(data)) == data


def _literals(data: bytes) -> bytes:
    """A first instruction that copies 4 to 238 literals."""
    return bytes((17 + len(data),)) + data


def _zeros(count: int, literals: bytes = b"") -> bytes:
    """A run of 4 to 2051 zeros and up to three literals after it."""
    run = count - 4
    return (
        bytes((0x18 | run & 7,)) + struct.pack("<H", 0xFFFC | len(literals)) + bytes((run >> 3,)) + literals
    )


@pytest.mark.parametrize("count", [4, 11, 12, 300, 2051])
@pytest.mark.parametrize("literals", [b"", b"x", b"xyz"])
def test_runs_of_zeros(count: int, literals: bytes) -> None:
    stream = b"\x11\x01" + _literals(b"abcd") + _zeros(count, literals) + END
    assert is_versioned(stream)
    assert decompress(stream, 4 + count + len(literals)) == b"abcd" + bytes(count) + literals


def test_a_copy_after_zeros() -> None:
    # 0b01LDDDSS: three bytes from eight back.
    stream = b"\x11\x01" + _literals(b"abcd") + _zeros(4) + b"\x5c\x00" + END
    assert decompress(stream, 11) == b"abcd\0\0\0\0abc"


def test_version_0_has_no_runs() -> None:
    stream = b"\x11\x00" + _literals(b"abcd") + _zeros(4) + END
    with pytest.raises(CorruptData):
        decompress(stream, 8)


@given(st.binary(max_size=300), st.booleans())
def test_garbage(data: bytes, versioned: bool) -> None:
    with contextlib.suppress(CorruptData):
        assert len(decompress(b"\x11\x01" + data if versioned else data, 4096)) == 4096


@pytest.mark.parametrize("size", [10, 4095])
def test_too_much_output(size: int) -> None:
    stream = b"\x11\x01" + _literals(b"abcd") + _zeros(2051) + _zeros(2041) + END
    assert decompress(stream, 4096) == b"abcd".ljust(4096, b"\0")
    with pytest.raises(CorruptData):
        decompress(stream, size)
