"""The kernel's log (kernel/printk/): the lockless ringbuffer, records, or plain text.

Three forms, newest first: ``struct printk_ringbuffer`` since Linux commit
896fbe20b4e2 ("printk: use the lockless ringbuffer") in v5.10; variable-length
``struct printk_log`` (``struct log`` at first) records since v3.5; before, bytes
with ``<level>`` marks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import CorruptData, MemoryFault, MissingSymbol

if TYPE_CHECKING:
    from kcrash.session import Session

MAX_LOG_BYTES = 1 << 30
NO_LPOS = 3  # kernel/printk/printk_ringbuffer.h: a record without text; any odd lpos holds no data
COMMITTED, FINALIZED = 1, 2
CALLER_IS_CPU = 0x80000000


class LogRecord(NamedTuple):
    """One record: ``seq`` counts from boot; ``time``: nanoseconds since boot, None if unknown;
    ``level``: 0 to 7; ``caller``: thread id, or CPU number with bit 31 set, None where the kernel
    does not keep it; ``text``: raw bytes, perhaps of several lines; ``dictionary``: key=value pairs."""

    seq: int
    time: int | None
    level: int
    facility: int
    caller: int | None
    text: bytes
    dictionary: tuple[bytes, ...] = ()


def log_records(session: Session) -> Iterator[LogRecord]:
    """Every record still in the log, oldest first.

    Raises MemoryFault, MissingSymbol or CorruptData; what was yielded stands.
    """
    types, symbols = session.types, session.symbols
    if symbols.find_kernel("prb") is not None and types.has("struct printk_ringbuffer"):
        return _ringbuffer(session)
    if types.has("struct printk_log") or types.has("struct log", "ts_nsec"):
        return _variable_records(session)
    return _plain(session)


# -- the lockless ringbuffer


def _ringbuffer(session: Session) -> Iterator[LogRecord]:
    types, memory = session.types, session.memory
    ring = memory.word(session.symbols.address("prb"))
    fields = types.reader(
        "struct printk_ringbuffer", "desc_ring.count_bits", "desc_ring.descs", "desc_ring.infos",
        "desc_ring.head_id.counter", "desc_ring.tail_id.counter", "text_data_ring.size_bits",
        "text_data_ring.data",
    )  # fmt: skip
    values = fields(memory.read(ring + fields.start, fields.size))
    count_bits, descs, infos, head, tail, size_bits, data = values
    if count_bits > 24 or size_bits > 30:
        raise CorruptData(f"printk ringbuffer claims 2^{count_bits} records, 2^{size_bits} bytes")
    count = 1 << count_bits
    table = _Descriptors(session, count, descs, infos)
    text = memory.read(data, 1 << size_bits)
    mask = session.word_mask >> 2
    record, last = tail & mask, head & mask
    for _ in range(count):
        found = table.record(record, text)
        if found is not None:
            yield found
        if record == last:
            return
        record = record + 1 & mask


class _Descriptors:
    """The descriptor and info arrays, read whole and decoded by index."""

    def __init__(self, session: Session, count: int, descs: int, infos: int) -> None:
        types, read = session.types, session.memory.read
        self.count = count
        self.desc = types.reader(
            "struct prb_desc", "state_var.counter", "text_blk_lpos.begin", "text_blk_lpos.next"
        )
        self.desc_size = types.size("struct prb_desc")
        self.info_size = types.size("struct printk_info")
        self.has_caller = types.has("struct printk_info", "caller_id")
        paths = ["seq", "ts_nsec", "text_len", "facility", "level"]
        paths += ["caller_id"] if self.has_caller else []
        paths += (
            ["dev_info.subsystem", "dev_info.device"] if types.has("struct printk_info", "dev_info") else []
        )
        self.info = types.reader("struct printk_info", *paths)
        self.descs = read(descs, count * self.desc_size)
        self.infos = read(infos, count * self.info_size)
        self.state_shift = session.arch.word_bits - 2
        self.id_mask = session.word_mask >> 2
        self.word = session.arch.word_bytes

    def record(self, number: int, text: bytes) -> LogRecord | None:
        """The record with that id; None if it was not finished or is gone."""
        index = number % self.count
        state, begin, next_ = self.desc(self.descs, index * self.desc_size + self.desc.start)
        state &= (self.id_mask << 2) | 3
        if state & self.id_mask != number or state >> self.state_shift not in (COMMITTED, FINALIZED):
            return None
        seq, time, length, facility, level, *rest = self.info(
            self.infos, index * self.info_size + self.info.start
        )
        caller = rest.pop(0) if self.has_caller else None
        return LogRecord(seq, time, level, facility, caller,
                         self._text(text, begin, next_, length), _dictionary(rest))  # fmt: skip

    def _text(self, ring: bytes, begin: int, next_: int, length: int) -> bytes:
        """A data block: an id, then the text; one that would cross the end starts at index 0."""
        if begin & 1:
            return b""
        size = len(ring)
        start = begin % size
        if begin // size != next_ // size and next_ % size:
            start = 0
        start += self.word
        return ring[start : start + length]


def _dictionary(parts: list[bytes]) -> tuple[bytes, ...]:
    names = (b"SUBSYSTEM=", b"DEVICE=")
    values = (part.split(b"\0", 1)[0] for part in parts)
    return tuple(name + value for name, value in zip(names, values, strict=False) if value)


# -- records of variable length


def _variable_records(session: Session) -> Iterator[LogRecord]:
    types, memory, symbols = session.types, session.memory, session.symbols
    name = "struct printk_log" if types.has("struct printk_log") else "struct log"
    # Linux commit 15ff2069cb7f ("printk: Add caller information to printk() output.") in v5.1.
    caller = ("caller_id",) if types.has(name, "caller_id") else ()
    reader = types.reader(name, "ts_nsec", "len", "text_len", "dict_len", "facility", "level", *caller)
    size = memory.u32(symbols.address("log_buf_len"))
    if size > MAX_LOG_BYTES:
        raise CorruptData(f"log_buf_len is {size} bytes")
    buffer = memory.read(memory.word(symbols.address("log_buf")), size)
    position = memory.u32(symbols.address("log_first_idx"))
    end = memory.u32(symbols.address("log_next_idx"))
    header = types.size(name)
    for seq in range(size // header + 1):
        if position == end or position + header > size:
            return
        time, length, text_len, dict_len, facility, level, *by = reader(buffer, position + reader.start)
        if length == 0:  # the rest of the buffer is unused: go on at its start
            position = 0
            continue
        text = buffer[position + header : position + header + text_len]
        pairs = buffer[position + header + text_len :][:dict_len]
        dictionary = tuple(part for part in pairs.split(b"\0") if part)
        yield LogRecord(seq, time, level, facility, by[0] if by else None, text, dictionary)
        position += length


# -- bytes


def _plain(session: Session) -> Iterator[LogRecord]:
    memory, symbols = session.memory, session.symbols
    size = memory.u32(symbols.address("log_buf_len"))
    if not 0 < size <= MAX_LOG_BYTES:
        raise CorruptData(f"log_buf_len is {size} bytes")
    start = symbols.address("log_buf")
    pointer = memory.word(start)
    try:
        buffer = memory.read(pointer, size)
    except MemoryFault:  # an array rather than a pointer
        buffer = memory.read(start, size)
    end = memory.u32(symbols.address("log_end"))
    if end > size:
        buffer = buffer[end % size :] + buffer[: end % size]
    else:
        buffer = buffer[:end]
    for seq, line in enumerate(buffer.replace(b"\0", b"").splitlines()):
        level = int(line[1:2]) if line[:1] == b"<" and line[2:3] == b">" and line[1:2].isdigit() else 4
        yield LogRecord(seq, None, level, 0, None, line[3:] if line[2:3] == b">" else line)


# -- printk_safe and NMI buffers (gone with Linux commit 93d102f094be in v5.15)


def safe_buffers(session: Session) -> Iterator[tuple[str, int, int, bytes]]:
    """``(variable, cpu, address, text)`` of each per-CPU buffer. MissingSymbol if there are none."""
    from kcrash.linux.cpus import possible_cpus

    names = [n for n in ("nmi_print_seq", "safe_print_seq") if session.symbols.find_kernel(n) is not None]
    if not names or not session.types.has("struct printk_safe_seq_buf", "buffer"):
        raise MissingSymbol("safe_print_seq", session.release_hint)
    type_ = "struct printk_safe_seq_buf"
    limit = session.types.compound(type_).member("buffer").type.size
    for cpu in possible_cpus(session):
        for name in names:
            address = session.per_cpu_address(name, cpu) or 0
            used = session.memory.u32(address + session.types.offset(type_, "len"))
            start = address + session.types.offset(type_, "buffer")
            yield name, cpu, address, session.memory.read(start, min(used, limit))


# -- the audit queue


def audit_buffers(session: Session) -> Iterator[bytes]:
    """Texts still queued for the audit daemon (kernel/audit.c)."""
    queue = session.symbols.find_kernel("audit_queue") or session.symbols.find_kernel("audit_skb_queue")
    if queue is None:
        raise MissingSymbol("audit_queue", session.release_hint)
    reader = session.types.reader("struct sk_buff", "next", "len", "data")
    header = session.types.size("struct nlmsghdr") if session.types.has("struct nlmsghdr") else 16
    node, seen = session.memory.word(queue), set()
    while node not in (queue, 0):
        if node in seen:
            raise CorruptData(f"audit queue loops at {node:x}")
        seen.add(node)
        node, length, data = reader(session.memory.read(node + reader.start, reader.size))
        length = min(length, 65536)
        message = session.memory.read(data, length) if length else b""
        yield message[header:] if len(message) >= struct.calcsize("IHHII") else message
