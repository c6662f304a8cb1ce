"""What every dump file becomes: physical memory and notes.

A container format is one file in this package. It subclasses :class:`Dump`,
and ends with ``@register_format`` on its probe; :mod:`kcrash.dump` imports all
files of the package, so adding one is adding a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from kcrash.errors import BadFormat, FaultReason, MemoryFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcrash.dump.source import Source

    #: ``(data, states)``, see Dump.read_pages().
    Pages: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.uint8]]

# Reasons in the arrays of Dump.page_states(); indices into PAGE_STATES.
PRESENT, NOT_IN_DUMP, EXCLUDED, TRUNCATED, CORRUPT = range(5)

MAX_READ = 1 << 32  # bytes of one Dump.read()


@dataclass(frozen=True, slots=True)
class Note:
    """An ELF note: ``name`` without its NUL, ``type``, descriptor bytes."""

    name: str
    type: int
    data: bytes


@dataclass(frozen=True, slots=True)
class PhysicalRange:
    """Physical bytes ``[start, end)`` that the machine had."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class VirtualRange:
    """Kernel virtual bytes ``[start, start + size)`` said by the file to lie at ``physical``."""

    start: int
    size: int
    physical: int


@dataclass(frozen=True, slots=True)
class Utsname:
    """``struct new_utsname`` as the dump's header holds it; empty strings where it does not."""

    sysname: str = ""
    nodename: str = ""
    release: str = ""
    version: str = ""
    machine: str = ""
    domainname: str = ""


@dataclass(slots=True)
class DumpInfo:
    """What the container itself says, before anything of the kernel is known.

    ``byte_order``: "little" or "big", of the container's headers (QEMU labels
    ppc64le dumps big-endian: trust it only for them). ``word_bits``: 32 or 64.
    ``machine``: ELF e_machine or None where the container has none.
    ``vmcoreinfo``: the raw text of the VMCOREINFO note, or None.
    ``phys_base``: the kdump sub header's, or None. ``dump_level``: makedumpfile's
    -d, or None where unknown. ``time``: seconds since 1970 in the header, or None.
    ``live``: it is the memory of the running system.
    ``cpus``: where the container keeps registers in a form of its own and not in notes, a mapping a
    CPU: names as the architecture's, and control registers ("cr3", "cr4", "idt_base" of x86).
    """

    format: str
    byte_order: str
    word_bits: int
    machine: int | None = None
    page_size: int = 4096
    notes: list[Note] = field(default_factory=list)
    cpus: list[Mapping[str, int]] = field(default_factory=list)
    vmcoreinfo: bytes | None = None
    utsname: Utsname = field(default_factory=Utsname)
    phys_base: int | None = None
    dump_level: int | None = None
    time: float | None = None
    nr_cpus: int | None = None
    incomplete: bool = False
    live: bool = False
    virtual_ranges: list[VirtualRange] = field(default_factory=list)
    eraseinfo: bytes | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def partial(self) -> bool:
        """True where pages were left out on purpose (crash says [PARTIAL DUMP])."""
        return bool(self.dump_level)


class Dump(ABC):
    """Physical memory of the dead machine, read from one container."""

    def __init__(self, path: str, info: DumpInfo) -> None:
        self.path = path
        self.info = info
        self.zero_excluded = False

    @abstractmethod
    def read(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes from physical ``address``; may cross pages and segments.

        Raises MemoryFault with the first address that failed and why.
        """

    @abstractmethod
    def read_pages(self, pfns: NDArray[np.uint64], page_size: int) -> Pages:
        """Many pages at once.

        ``pfns``: page frame numbers in units of ``page_size`` (a multiple of or
        equal to the container's). Returns ``(data, states)``: uint8 of shape
        (n, page_size), zeros where missing, and uint8 of shape (n,) holding
        PRESENT or why not. Decompresses in threads where that helps.
        """

    @abstractmethod
    def page_states(self, pfns: NDArray[np.uint64], page_size: int) -> NDArray[np.uint8]:
        """PRESENT or the reason, of each pfn, without reading the data."""

    @abstractmethod
    def ranges(self) -> list[PhysicalRange]:
        """Physical ranges of the machine's RAM that the container knows of, sorted, merged."""

    def data_ranges(self) -> list[PhysicalRange]:
        """Where there may be something else than zeros, for searches: what the file has room for."""
        return self.ranges()

    @property
    def cut(self) -> bool:
        """True if the file seems to end before its data do, or says itself that it is incomplete."""
        return self.info.incomplete

    @property
    def missing(self) -> str:
        """Which files of a set were not given, as a message says it; "" if none is known to be missing."""
        return ""

    def joined(self, others: Sequence[Dump]) -> Dump:
        """The one dump of which this and ``others`` are the parts. Raises BadFormat if they are not."""
        raise BadFormat(self.path, f"is a whole dump, and {others[0].path} was given too")

    def checked(self) -> Dump:
        """The dump itself, when all its files were given. Raises BadFormat if one is missing."""
        return self

    def close(self) -> None:  # noqa: B027  # a format that holds nothing open needs none
        """Give back the file. Reading afterwards is an error."""

    def try_read(self, address: int, size: int) -> bytes | None:
        """As read(), but None where it fails."""
        try:
            return self.read(address, size)
        except MemoryFault:
            return None


def check_size(address: int, size: int) -> None:
    """Raises MemoryFault for a size that only a wild length in the dump can have asked for."""
    if size > MAX_READ:
        raise MemoryFault("physical", address, FaultReason.NOT_IN_DUMP, f"{size} bytes wanted")


Sniff = Callable[[bytes], bool]
Probe = Callable[["Source"], "Dump | None"]
HEAD = 8192  # bytes of a file that a Sniff is given: sadump's media backup has its magic at 4096


@dataclass(frozen=True, slots=True)
class Format:
    """A registered container.

    ``sniff``: whether a file that starts so may be one; then ``probe`` returns an open Dump, None when
    the content is something else after all, or raises BadFormat when it is this format but broken.
    """

    name: str
    order: int
    sniff: Sniff
    probe: Probe


_formats: dict[str, Format] = {}


def register_format(name: str, sniff: Sniff, order: int = 100) -> Callable[[Probe], Probe]:
    """Decorator: make ``probe`` the opener of the container ``name``; low ``order`` is tried first."""

    def register(probe: Probe) -> Probe:
        if name in _formats:
            raise ValueError(f"dump format {name!r} is registered twice")
        _formats[name] = Format(name, order, sniff, probe)
        return probe

    return register


def formats() -> Sequence[Format]:
    """All registered formats in the order in which they are tried."""
    return sorted(_formats.values(), key=lambda entry: (entry.order, entry.name))


def merge_ranges(ranges: Iterable[tuple[int, int]]) -> list[PhysicalRange]:
    """Sorted, non-overlapping ranges that cover the ``(start, end)`` pairs."""
    merged: list[PhysicalRange] = []
    for start, end in sorted(pair for pair in ranges if pair[0] < pair[1]):
        if merged and start <= merged[-1].end:
            merged[-1] = PhysicalRange(merged[-1].start, max(merged[-1].end, end))
        else:
            merged.append(PhysicalRange(start, end))
    return merged
