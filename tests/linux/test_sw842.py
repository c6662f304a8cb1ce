"""842: streams made by hand, by the description in the kernel's lib/842/842.h, and one of the kernel's."""

from __future__ import annotations

import contextlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kcrash.errors import CorruptData
from kcrash.linux.sw842 import decompress

REPEAT, ZEROS, SHORT, END = 0x1B, 0x1C, 0x1D, 0x1E
D8, D2_COPIES, COPY8, COPIES4 = 0x00, 0x08, 0x19, 0x18  # templates: 8; 2 aaa; c; bb


class Stream:
    """Bits, the highest first, and what they stand for."""

    def __init__(self) -> None:
        self.bits = ""
        self.out = b""

    def put(self, value: int, count: int) -> None:
        self.bits += f"{value:0{count}b}"

    def data(self, eight: bytes) -> None:
        self.put(D8, 5)
        self.put(int.from_bytes(eight, "big"), 64)
        self.out += eight

    def copy(self, template: int, places: list[int], size: int, bits: int) -> None:
        """Copies from ``places``, which lie within the ring of 2**bits entries behind the end."""
        self.put(template, 5)
        ring, found = size << bits, b""
        for place in places:
            assert len(self.out) - ring <= place <= len(self.out) - size and place % size == 0
            self.put(place % ring // size, bits)
            found += self.out[place : place + size]
        self.out += found

    def end(self) -> bytes:
        self.put(END, 5)
        padded = self.bits + "0" * (-len(self.bits) % 64)
        return int(padded, 2).to_bytes(len(padded) // 8, "big")


@pytest.mark.parametrize("seed", range(12))
def test_rings(seed: int) -> None:
    """Up to more than 2 KiB, so that each ring has gone round."""
    chance, stream = Random(seed), Stream()
    stream.data(b"abcdefgh")
    for number in range(chance.randint(1, 500)):
        known, kind = len(stream.out), chance.randint(0, 3)
        low = max(known - 2048, 0)
        if kind == 0:
            stream.data(number.to_bytes(8, "big"))
        elif kind == 1:
            stream.copy(COPY8, [chance.randrange(low, known, 8)], 8, 8)
        elif kind == 2:
            stream.copy(COPIES4, [chance.randrange(low, known, 4) for _ in range(2)], 4, 9)
        else:
            stream.put(ZEROS, 5)
            stream.out += bytes(8)
    assert decompress(stream.end(), len(stream.out)) == stream.out


def test_what_the_kernel_makes() -> None:
    """By sw842_compress() of lib/842/842_compress.c, v4.4, built as a program of its own; a CRC ends it."""
    made = bytes.fromhex("039bbb0b83832b21011bdd5d0800180080b201901c81640f209905c83641f211cd81d8e8c2d2d9e0")
    page = b"swapped out " * 8 + bytes(16) + b"tail"
    assert decompress(made, len(page)) == page


def test_mixed_template() -> None:
    """Two bytes of data, then three copies of two; none sees what its own template writes."""
    stream = Stream()
    stream.data(b"abcdefgh")
    stream.put(D2_COPIES, 5)
    stream.put(int.from_bytes(b"xy", "big"), 16)
    for index in (3, 0, 1):
        stream.put(index, 8)
    assert decompress(stream.end(), 16) == b"abcdefghxyghabcd"
    stream = Stream()
    stream.data(b"abcdefgh")
    stream.put(D2_COPIES, 5)
    stream.put(0, 16)
    for index in (4, 0, 0):
        stream.put(index, 8)
    with pytest.raises(CorruptData, match="behind what is written"):
        decompress(stream.end(), 16)


def test_repeats_and_a_tail() -> None:
    stream = Stream()
    stream.data(b"abcdefgh")
    stream.put(REPEAT, 5)
    stream.put(2, 6)
    stream.put(SHORT, 5)
    stream.put(3, 3)
    stream.put(int.from_bytes(b"xyz", "big"), 24)
    assert decompress(stream.end(), 35) == b"abcdefgh" * 4 + b"xyz"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([(0x1A, 5)], "no template 0x1a"),
        ([(REPEAT, 5), (0, 6)], "nothing to repeat"),
        ([(D8, 5), (1, 32)], "is cut"),
        ([(D8, 5), (1, 64), (END, 5)], "to 8 bytes, not 16"),
        ([(ZEROS, 5)] * 3, "more than 16 bytes"),
    ],
)
def test_damaged(values: list[tuple[int, int]], message: str) -> None:
    stream = Stream()
    for value in values:
        stream.put(*value)
    padded = stream.bits + "0" * (-len(stream.bits) % 8)
    with pytest.raises(CorruptData, match=message):
        decompress(int(padded, 2).to_bytes(len(padded) // 8, "big"), 16)


@given(st.binary(max_size=300))
def test_noise(data: bytes) -> None:
    with contextlib.suppress(CorruptData):
        assert len(decompress(data, 4096)) == 4096
