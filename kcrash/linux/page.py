"""``struct page``: the kernel's record of each page frame (include/linux/mm_types.h, mmzone.h)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kcrash.errors import FaultReason, MemoryFault
from kcrash.linux.mem_sections import pieces

if TYPE_CHECKING:
    from kcrash.session import Session


@dataclass(frozen=True, slots=True)
class Page:
    """A page frame: ``address`` of its struct page; ``count``: references."""

    address: int
    pfn: int
    flags: int
    mapping: int
    index: int
    count: int


def vmemmap(session: Session) -> int | None:
    """Where the array of all ``struct page`` starts; None if the kernel has none, but pieces of it."""
    return session.memo("vmemmap", lambda: _vmemmap(session))


def _vmemmap(session: Session) -> int | None:
    symbol = session.symbols.find_kernel("vmemmap_base")
    if symbol is not None:
        return session.memory.word(symbol)
    start = session.layout.constants.get("VMEMMAP_START")
    return _mem_map(session) if start is None else start


def _mem_map(session: Session) -> int | None:
    """FLATMEM's array, which begins with the first frame of memory, as if it began with frame 0."""
    symbol = session.symbols.find_kernel("mem_map")
    start = session.memory.word(symbol) if symbol is not None else 0
    if not start or not session.types.has("struct page"):
        return None
    first = session.layout.constants.get("PHYS_OFFSET", 0) >> session.arch.page_shift
    return start - first * session.types.size("struct page")


def pfn_to_page(session: Session, pfn: int) -> int:
    """The address of the struct page of a page frame. Raises MemoryFault if there is no such array."""
    base = vmemmap(session)
    if base is None:
        base = next((one.base for one in pieces(session) if one.first <= pfn < one.end), None)
    if base is None:
        raise MemoryFault("physical", pfn << session.arch.page_shift, FaultReason.NOT_MAPPED, "no mem_map")
    return base + pfn * session.types.size("struct page") & session.word_mask


def page_to_pfn(session: Session, page: int) -> int | None:
    """The page frame of a struct page; None if ``page`` lies outside the array of them."""
    base, size = vmemmap(session), session.types.size("struct page")
    if base is not None:
        return (page - base) // size if page >= base else None
    found = ((one, (page - one.base & session.word_mask) // size) for one in pieces(session))
    return next((pfn for one, pfn in found if one.first <= pfn < one.end), None)


def read_page(session: Session, pfn: int) -> Page:
    """Decode the struct page of a page frame. Raises MemoryFault."""
    types = session.types
    # Linux commit acc53a0b4c15 ("mm: rename page->index to page->__folio_index") in v6.16.
    index = types.first_member("struct page", ("__folio_index", "index")) or "flags"
    # Linux commit 53fbef56e07d ("mm: introduce memdesc_flags_t") in v6.18.
    flags = types.first_member("struct page", ("flags.f", "flags")) or "flags"
    count = types.first_member("struct page", ("_refcount.counter", "_count.counter")) or flags
    reader = types.reader("struct page", flags, "mapping", index, count)
    address = pfn_to_page(session, pfn)
    values = reader(session.memory.read(address + reader.start, reader.size))
    return Page(address, pfn, *values)


def page_flag_names(session: Session, flags: int) -> list[str]:
    """Names of the set bits (enum pageflags), without PG_; of several names of a bit the first."""
    names = session.memo("page flags", lambda: _flag_names(session))
    return [name for bit, name in names.items() if flags >> bit & 1]


def _flag_names(session: Session) -> dict[int, str]:
    found = session.types.find("enum", "pageflags")
    enumerators = getattr(found, "enumerators", {})
    names: dict[int, str] = {}
    last = enumerators.get("__NR_PAGEFLAGS", 64)
    for name, bit in enumerators.items():
        if name.startswith("PG_") and bit < last:
            names.setdefault(bit, name[3:])
    return dict(sorted(names.items()))
