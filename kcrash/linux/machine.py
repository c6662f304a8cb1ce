"""What the machine is made of: regions of kernel addresses, physical memory, CPUs, the firmware's log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import CorruptData, KcrashError, MissingSymbol
from kcrash.linux.cpus import is_per_cpu

if TYPE_CHECKING:
    from kcrash.session import Session

MAX_RANGES = 4096
MAX_DEPTH = 32
MAX_NAME = 256
MAX_CONSOLE = 16 << 20

# Where a region begins: names that VMCOREINFO and the kernel's headers have.
REGIONS = ("PAGE_OFFSET", "VMALLOC_START", "VMEMMAP_START", "START_KERNEL_map", "MODULES_VADDR")
# Variables that say so where it is random (x86 with CONFIG_DYNAMIC_MEMORY_LAYOUT).
VARIABLES = {"VMALLOC_START": "vmalloc_base", "VMEMMAP_START": "vmemmap_base"}


def regions(session: Session) -> dict[str, int]:
    """Name (of REGIONS) -> first address, of those that are known.

    arm64's own VMEMMAP_START is where the array starts; the layout's is of frame 0.
    """
    told = session.vmcoreinfo.numbers if session.vmcoreinfo is not None else {}
    known = {**session.layout.constants, **{name: value & session.word_mask for name, value in told.items()}}
    for name, variable in VARIABLES.items():
        address = session.symbols.find_kernel(variable)
        if address is not None:
            known[name] = session.memory.word(address)
    return {name: known[name] for name in REGIONS if name in known}


# -- physical memory


class Range(NamedTuple):
    """Physical memory ``[start, end)``; ``level``: how many ranges it lies in."""

    start: int
    end: int
    name: str
    level: int = 0


# enum e820_type (arch/x86/include/asm/e820/types.h), by the names that /proc/iomem does not have.
E820_TYPES = {
    1: "E820_RAM", 2: "E820_RESERVED", 3: "E820_ACPI", 4: "E820_NVS", 5: "E820_UNUSABLE", 7: "E820_PMEM",
    12: "E820_PRAM", 128: "E820_RESERVED_KERN", 0xEFFFFFFF: "E820_SOFT_RESERVED",
}  # fmt: skip


def memory_map(session: Session) -> list[Range]:
    """What the firmware said of physical memory, where the kernel keeps that (x86); else the tree of
    resources, as /proc/iomem shows it. Raises KcrashError.
    """
    return _e820(session) or list(_resources(session))


def _e820(session: Session) -> list[Range]:
    """A pointer to struct e820_table since Linux v4.12; before, ``e820`` is a struct e820map."""
    pointer = session.symbols.find_kernel("e820_table")
    if pointer is not None and session.types.has("struct e820_table", "entries"):
        table = session.memory.word(pointer)
        return _e820_ranges(session, table, "struct e820_table", "nr_entries", "entries")
    address = session.symbols.find_kernel("e820")
    if address is not None and session.types.has("struct e820map", "map"):
        return _e820_ranges(session, address, "struct e820map", "nr_map", "map")
    return []


def _e820_ranges(session: Session, table: int, type_: str, count: str, entries: str) -> list[Range]:
    entry = "struct e820_entry" if session.types.has("struct e820_entry") else "struct e820entry"
    number = min(session.memory.u32(table + session.types.offset(type_, count)), MAX_RANGES)
    first, size = table + session.types.offset(type_, entries), session.types.size(entry)
    data = session.memory.read(first, number * size)
    reader = session.types.reader(entry, "addr", "size", "type")
    found = (reader(data[at + reader.start :][: reader.size]) for at in range(0, number * size, size))
    return [
        Range(start, start + length, E820_TYPES.get(kind, f"E820_TYPE_{kind}"))
        for start, length, kind in found
    ]


def _resources(session: Session) -> Iterator[Range]:
    """The children of iomem_resource (struct resource, include/linux/ioport.h), parents first."""
    reader = session.types.reader("struct resource", "start", "end", "name", "sibling", "child")
    root = session.symbols.address("iomem_resource")

    def read(address: int) -> tuple[int, ...]:
        return reader(session.memory.read(address + reader.start, reader.size))

    waiting, seen = [(read(root)[4], 0)], {0}
    while waiting:
        address, level = waiting.pop()
        if address in seen:
            continue
        seen.add(address)
        if level > MAX_DEPTH or len(seen) > MAX_RANGES:
            raise CorruptData(f"the tree of resources does not end at {address:x}")
        start, end, name, sibling, child = read(address)
        text = session.memory.string(name, MAX_NAME).decode("utf-8", "replace") if name else ""
        yield Range(start, end + 1, text, level)
        waiting += [(sibling, level), (child, level + 1)]


# -- CPUs


# What the kernel keeps of each CPU: a per-CPU variable, or an array with an element a CPU; its struct.
CPU_RECORDS = (
    ("cpu_info", "struct cpuinfo_x86"),
    ("cpu_data", "struct cpuinfo_arm64"),
    ("cpu_data", "struct cpuinfo_arm"),
    ("cpu_data", "struct cpuinfo_loongarch"),
    ("riscv_cpuinfo", "struct riscv_cpuinfo"),
    ("cpu_info", "struct cpu_info"),
    ("pcpu_devices", "struct pcpu"),
    ("paca_ptrs", "struct paca_struct *"),
)


def cpu_record(session: Session, cpu: int) -> tuple[str, int]:
    """``(struct, address)`` of what the kernel keeps of a CPU. Raises KcrashError."""
    for name, text in CPU_RECORDS:
        symbol, struct = session.symbols.symbol(name), text.removesuffix(" *")
        if symbol is None or symbol.module or not session.types.has(struct):
            continue
        if text != struct:
            table = session.memory.word(symbol.address)
            return struct, session.memory.word(table + cpu * session.arch.word_bytes)
        if is_per_cpu(session, name):
            return struct, symbol.address + session.per_cpu_offset(cpu) & session.word_mask
        return struct, symbol.address + cpu * session.types.size(struct)
    raise MissingSymbol("cpu_info", session.release_hint)


def hypervisor(session: Session) -> str | None:
    """What the kernel found itself running on (``x86_hyper_type``), None for nothing known."""
    address = session.symbols.find_kernel("x86_hyper_type")
    if address is None or not session.types.has("enum x86_hypervisor_type"):
        return None
    names = getattr(session.types.type("enum x86_hypervisor_type").underlying, "enumerators", {})
    value = session.memory.u32(address)
    name = next((name for name, number in names.items() if number == value), "")
    return name.removeprefix("X86_HYPER_").replace("_", " ") if value else None


# -- firmware


def opal_console(session: Session) -> bytes:
    """The console log of POWER's firmware: struct memcons (platforms/powernv/opal-msglog.c), big-endian.

    Raises KcrashError.
    """
    address = session.symbols.find_kernel("opal_memcons")
    pointer = session.memory.word(address) if address is not None else 0
    if not pointer:
        raise KcrashError("this machine has no OPAL firmware, so no log of its console")
    names = ("obuf_phys", "obuf_size", "out_pos")
    buffer, size, position = (_big_endian(session, pointer, name) for name in names)
    if not 0 < size <= MAX_CONSOLE:
        raise CorruptData(f"OPAL's console log at {pointer:x} has {size} bytes")
    data = session.physical.read(buffer, size)
    end = position & 0xFFFFFF  # MEMCONS_OUT_POS_MASK
    if position >> 31:  # MEMCONS_OUT_POS_WRAP
        data = data[end:] + data[:end]
    else:
        data = data[:end]
    return data.strip(b"\0")


def _big_endian(session: Session, address: int, member: str) -> int:
    place = session.types.compound("struct memcons").path(member)
    return int.from_bytes(session.memory.read(address + place.offset, place.type.size), "big")
