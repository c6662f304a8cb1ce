"""Arrays of ``struct page`` in pieces, where no page tables make one of them (include/linux/mmzone.h).

SPARSEMEM without a virtual map has one a section of memory, DISCONTIGMEM one a node, until Linux commit
bb1c50d3967f ("mm: remove CONFIG_DISCONTIGMEM") in v5.14; both are of 32-bit machines mostly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import MemoryFault
from kcrash.types.model import ArrayType, PointerType

if TYPE_CHECKING:
    from kcrash.session import Session

SECTION = "struct mem_section"
NODE = "struct pglist_data"
HAS_MEM_MAP = 2
MAP_MASK = ~0xFF  # low bits of section_mem_map are flags; more of them with time
MAX_SECTIONS = 1 << 20
MAX_NODES = 1024


class Piece(NamedTuple):
    """Frames ``[first, end)``; ``base``: where the struct page of frame 0 would be."""

    first: int
    end: int
    base: int


def pieces(session: Session) -> list[Piece]:
    """All of them, by frame; none if the kernel has neither sections nor nodes with an array."""
    return session.memo("mem_map pieces", lambda: sorted([*_sections(session), *_nodes(session)]))


def _nodes(session: Session) -> Iterator[Piece]:
    table, types = session.symbols.find_kernel("node_data"), session.types
    if table is None or not types.has(NODE, "node_mem_map"):
        return
    symbol, size = session.symbols.symbol("node_data"), types.size("struct page")
    count = min((symbol.size if symbol else 0) // session.arch.word_bytes or 1, MAX_NODES)
    for address in filter(None, session.memory.words(table, count)):
        node = session.value(NODE, address)
        first, frames = int(node.node_start_pfn), int(node.node_spanned_pages)
        base = int(node.node_mem_map) - first * size
        yield Piece(first, first + frames, base & session.word_mask)


def _sections(session: Session) -> Iterator[Piece]:
    bits = _section_bits(session)
    if bits is None or session.symbols.find_kernel("mem_section") is None:
        return
    frames = 1 << bits - session.arch.page_shift
    offset = session.types.offset(SECTION, "section_mem_map")
    last = max((piece.end for piece in session.dump.ranges()), default=0) >> bits
    for number in range(min(last + 1, MAX_SECTIONS)):
        address = _section(session, number)
        value = session.memory.word(address + offset) if address else 0
        if value & HAS_MEM_MAP:
            yield Piece(number * frames, (number + 1) * frames, value & MAP_MASK)


def _section_bits(session: Session) -> int | None:
    """SECTION_SIZE_BITS: in VMCOREINFO since v5.13; else the architecture knows."""
    told = session.vmcoreinfo.numbers.get("SECTION_SIZE_BITS") if session.vmcoreinfo else None
    found = session.layout.constants.get("SECTION_SIZE_BITS") if told is None else told
    return found if found is not None and session.arch.page_shift < found < 64 else None


def _section(session: Session, number: int) -> int:
    """The address of a struct mem_section, 0 where there is none.

    They stand in one array, or with CONFIG_SPARSEMEM_EXTREME in pages of them that an array refers to; that
    has a pointer since Linux commit 83e3c48729d9 ("mm/sparsemem: Allocate mem_section at runtime for
    CONFIG_SPARSEMEM_EXTREME=y") in v4.15.
    """
    table, size = session.symbols.address("mem_section"), session.types.size(SECTION)
    type_ = session.types.variable("mem_section")
    if isinstance(type_, ArrayType) and not isinstance(type_.target.underlying, PointerType):
        return table + number * size if number * size < type_.size else 0
    if isinstance(type_, PointerType):
        table = session.memory.word(table)
    a_root = session.arch.page_size // size
    try:
        root = session.memory.word(table + number // a_root * session.arch.word_bytes)
    except MemoryFault:
        return 0
    return root + number % a_root * size if root else 0
