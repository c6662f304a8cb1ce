"""The log in its older forms, laid out by hand (printk.c of Linux v5.4, v3.10 and v3.2)."""

from __future__ import annotations

import struct

import pytest

from kcrash.errors import CorruptData, KcrashError, MemoryFault
from kcrash.linux.printk import LogRecord, log_records
from tests.linux.synthetic import Kernel

HEADER = 16  # of struct printk_log


def record(time: int, text: bytes, level: int = 6, pairs: bytes = b"", facility: int = 0) -> bytes:
    """One record: header, text, dictionary, padding to a multiple of 4."""
    size = HEADER + len(text) + len(pairs)
    total = size + -size % 4
    head = struct.pack("<QHHHBB", time, total, len(text), len(pairs), facility, level << 5)
    return (head + text + pairs).ljust(total, b"\0")


def kernel_with(buffer: bytes, first: int, following: int, name: str = "printk_log") -> Kernel:
    """A kernel whose log_buf holds ``buffer``; the flags and the level share the last byte of a header."""
    kernel = Kernel()
    lengths = dict.fromkeys(("len", "text_len", "dict_len"), "unsigned short")
    bytes_ = dict.fromkeys(("facility", "level"), "unsigned char")
    members = {"ts_nsec": "unsigned long long", **lengths, **bytes_}
    made = kernel.struct(name, **members)
    *others, level = made.members
    made._members = [*others, level._replace(bit_offset=level.bit_offset + 5, bit_size=3)]
    log = kernel.memory.add(buffer)
    kernel.symbol("log_buf", kernel.words(log))
    for symbol, value in (
        ("log_buf_len", len(buffer)),
        ("log_first_idx", first),
        ("log_next_idx", following),
    ):
        kernel.symbol(symbol, kernel.words(value))
    return kernel


def texts(kernel: Kernel) -> list[bytes]:
    return [found.text for found in log_records(kernel.session)]


@pytest.mark.parametrize("name", ["printk_log", "log"])
def test_records_in_order(name: str) -> None:
    pairs = b"SUBSYSTEM=pci\0DEVICE=+pci:0000:00:03.0"
    data = record(0, b"Linux version") + record(1_500_000_000, b"two\nlines", pairs=pairs)
    kernel = kernel_with(data.ljust(4096, b"\0"), 0, len(data), name)
    first, second = log_records(kernel.session)
    assert first == LogRecord(0, 0, 6, 0, None, b"Linux version")
    assert (second.seq, second.time, second.text) == (1, 1_500_000_000, b"two\nlines")
    assert second.dictionary == (b"SUBSYSTEM=pci", b"DEVICE=+pci:0000:00:03.0")


def test_a_buffer_that_has_wrapped() -> None:
    """A length of 0 says that the next record is at the start."""
    newer, older = record(3, b"three") + record(4, b"four"), record(1, b"one") + record(2, b"two")
    start = 256
    buffer = newer.ljust(start, b"x") + older + bytes(HEADER)
    assert texts(kernel_with(buffer, start, len(newer))) == [b"one", b"two", b"three", b"four"]


def test_an_empty_log() -> None:
    assert texts(kernel_with(bytes(256), 32, 32)) == []


@pytest.mark.parametrize("first", [0, 5, 250, 4000, 0xFFFFFFFF])
def test_hostile_records_end(first: int) -> None:
    """Lengths that lead nowhere, indices outside of the buffer: an end in bounded time."""
    for length in (1, 15, 0xFFFF):
        head = struct.pack("<QHHHBB", 0, length, 0xFFFF, 0xFFFF, 0, 0)
        kernel = kernel_with((head * 40)[:512], first & 0xFFFFFFFF, 7)
        assert len(texts(kernel)) <= 512 // HEADER + 1


def test_an_absurd_length_is_refused() -> None:
    kernel = kernel_with(record(0, b"x"), 0, 0)
    kernel.symbol("log_buf_len", kernel.words(0xFFFFFFFF))
    with pytest.raises(CorruptData, match="log_buf_len is 4294967295 bytes"):
        texts(kernel)


# -- before records: bytes


def plain(buffer: bytes, end: int) -> Kernel:
    kernel = Kernel()
    kernel.symbol("log_buf", kernel.words(kernel.memory.add(buffer)))
    kernel.symbol("log_buf_len", kernel.words(len(buffer)))
    kernel.symbol("log_end", kernel.words(end))
    return kernel


def test_text_with_levels() -> None:
    buffer = b"<5>Linux version 3.2\n<3>error: no <7> inside\nno level\n"
    found = list(log_records(plain(buffer.ljust(128, b"\0"), len(buffer)).session))
    assert [(each.level, each.text) for each in found] == [
        (5, b"Linux version 3.2"), (3, b"error: no <7> inside"), (4, b"no level"),
    ]  # fmt: skip
    assert {each.time for each in found} == {None}


def test_text_that_has_wrapped() -> None:
    """``log_end`` counts all bytes that were ever written."""
    written = b"".join(b"<6>line %d\n" % number for number in range(100))
    size = 256
    ring = bytearray(size)
    for position, byte in enumerate(written):
        ring[position % size] = byte
    assert texts(plain(bytes(ring), len(written)))[1:] == [
        line[3:] for line in written[-size:].splitlines()[1:]
    ]


def test_nothing_to_read() -> None:
    with pytest.raises((MemoryFault, KcrashError)):
        texts(Kernel())
