"""VMware: suspended machines and snapshots (.vmss, .vmsn), the debugger's debug.guest, with their .vmem.

VMware published the first with the vmss2core tool; crash has the structures as vmware_vmss.h and
vmware_guestdump.c. Little-endian. A vmss is groups of tagged values: the group "memory" says which pages of
the memory's file lie where, the group "cpu" has the registers. The memory is a block of the
same file or, mostly, the .vmem beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct, unpack_from
from typing import NamedTuple

from kcrash.dump.base import Dump, DumpInfo, register_format
from kcrash.dump.pieces import PieceDump, Stretches
from kcrash.dump.source import FileSource, Source
from kcrash.errors import BadFormat

MAGICS = {0xBED2BED0, 0xBED2BED2, 0xBED3BED3, 0xBAD1BAD1, 0xBAD2BAD2}
OLD_MAGIC = 0xBED0BED0
GROUP = Struct("<64sQQ")
MAX_GROUPS = 4096
MAX_TAGS = 1 << 20
MAX_REGIONS = 64
MAX_CPUS = 4096
BLOCK, COMPRESSED_BLOCK = 63, 62  # sizes in a tag that mean a block
PAGE = 4096
EM_X86_64 = 62

GPREGS = ("rax", "rcx", "rdx", "rbx", "rbp", "rsp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
NAMES = {name: name for name in (*GPREGS, "rip")} | {"eflags": "rflags", "EFLAGS": "rflags"}


class Tag(NamedTuple):
    """A value: ``data``, or where a block lies and how many bytes it has (``size``)."""

    name: str
    indices: tuple[int, ...]
    data: bytes
    at: int
    size: int
    compressed: bool


@dataclass
class Machine:
    """What the groups or the guest dump's header say. ``regions``: (page in the file, page in physical
    memory, pages); ``memory``: offset and size of memory in the same file."""

    regions: dict[int, list[int]] = field(default_factory=dict)
    cpus: dict[int, dict[str, int]] = field(default_factory=dict)
    memory: tuple[int, int] | None = None
    nr_cpus: int | None = None


# -- .vmss, .vmsn


@register_format(
    "vmss", sniff=lambda head: int.from_bytes(head[:4], "little") in MAGICS | {OLD_MAGIC}, order=50
)
def probe(source: Source) -> Dump | None:
    """A suspended machine or snapshot, and the .vmem beside it, become a PieceDump."""
    if int.from_bytes(source.peek(4), "little") == OLD_MAGIC:
        raise BadFormat(source.path, "VMware state of an old release, in its 32-bit form, is not supported")
    machine = Machine()
    for name, at, size in _groups(source):
        if name in ("memory", "cpu"):
            for tag in _tags(source, at, size):
                _take(source, machine, name, tag)
    sources, stretches = [source], Stretches()
    if machine.memory is None:
        memory = _companion(source, (".vmem",))
        sources.append(memory)
        _lay_out(machine, 0, memory.size, stretches, 1)
    else:
        _lay_out(machine, *machine.memory, stretches, 0)
    return PieceDump(_info("VMware vmss", machine, sources), sources, stretches)


def _groups(source: Source) -> Iterator[tuple[str, int, int]]:
    """``(name, offset, bytes)`` of each group."""
    head = source.peek(12)
    if len(head) < 12:
        raise BadFormat(source.path, "ends within its VMware header", len(head))
    (count,) = unpack_from("<I", head, 8)
    if not 0 < count <= MAX_GROUPS:
        raise BadFormat(source.path, f"VMware state of {count} groups", 8)
    table = source.read_at(12, count * GROUP.size)
    if len(table) < count * GROUP.size:
        raise BadFormat(source.path, "ends within its list of groups", source.size)
    for name, at, size in GROUP.iter_unpack(table):
        yield name.split(b"\0")[0].decode("latin-1"), at, size


def _tags(source: Source, at: int, size: int) -> Iterator[Tag]:
    """The values of a group, up to the tag that is 0. Raises BadFormat where the file ends before it."""
    for _ in range(MAX_TAGS):
        head = source.read_at(at, 2 + 255 + 12 + 18)
        if len(head) < 2:
            raise BadFormat(source.path, "ends within a group of VMware's state", at)
        (tag,) = unpack_from("<H", head)
        if not tag:
            return
        length, count, width = tag >> 8, tag >> 6 & 3, tag & 0x3F
        name = head[2 : 2 + length].decode("latin-1")
        here = 2 + length + 4 * count
        if len(head) < here + (18 if width >= COMPRESSED_BLOCK else width):
            raise BadFormat(source.path, f"ends within the value {name!r}", at)
        indices = unpack_from(f"<{count}I", head, 2 + length)
        if width < COMPRESSED_BLOCK:
            yield Tag(name, indices, head[here : here + width], at + here, width, False)
            at += here + width
        else:
            stored, plain, pad = unpack_from("<QQH", head, here)
            start = at + here + 18 + pad
            packed = width == COMPRESSED_BLOCK
            yield Tag(name, indices, b"", start, stored if packed else plain, packed)
            at = start + stored
    raise BadFormat(source.path, f"a group of more than {MAX_TAGS} values", at)


def _take(source: Source, machine: Machine, group: str, tag: Tag) -> None:
    if group == "memory":
        _take_memory(source, machine, tag)
    elif tag.name == "cpu:numVCPUs":
        machine.nr_cpus = int.from_bytes(tag.data, "little")
    elif tag.indices and tag.indices[0] < MAX_CPUS:
        registers = machine.cpus.setdefault(tag.indices[0], {})
        if tag.data:
            _take_register(registers, tag)
        elif not tag.compressed and tag.size <= 256:
            _take_registers(registers, tag.name, source.read_at(tag.at, tag.size))


def _take_memory(source: Source, machine: Machine, tag: Tag) -> None:
    columns = {"regionPageNum": 0, "regionPPN": 1, "regionSize": 2}
    if tag.name in columns and tag.indices and tag.indices[0] < MAX_REGIONS:
        region = machine.regions.setdefault(tag.indices[0], [0, 0, 0])
        region[columns[tag.name]] = int.from_bytes(tag.data, "little")
    elif tag.name == "Memory" and not tag.data:
        if tag.compressed:
            raise BadFormat(source.path, "VMware state with compressed memory is not supported", tag.at)
        machine.memory = (tag.at, tag.size)


def _take_register(registers: dict[str, int], tag: Tag) -> None:
    """A register that has a value of its own."""
    value = int.from_bytes(tag.data, "little")
    number = tag.indices[1] if len(tag.indices) > 1 else None
    if tag.name in NAMES:
        registers[NAMES[tag.name]] = value
    elif tag.name == "CR64" and number is not None and number <= 4:
        registers[f"cr{number}"] = value
    elif tag.name == "IDTR" and number in (1, 2):  # halves of the base; 0 is the limit
        registers["idt_base"] = registers.get("idt_base", 0) | (value & 0xFFFFFFFF) << 32 * (number - 1)


def _take_registers(registers: dict[str, int], name: str, data: bytes) -> None:
    """Registers in a block, as newer releases write them."""
    if name == "gpregs" and len(data) >= 128:
        registers |= zip(GPREGS, unpack_from("<16Q", data), strict=True)
    elif name == "CR64" and len(data) >= 40:
        registers |= {f"cr{number}": value for number, value in enumerate(unpack_from("<5Q", data))}
    elif name == "IDTR" and len(data) >= 10:
        (registers["idt_base"],) = unpack_from("<Q", data, 2)


def _with_selectors(registers: dict[str, int]) -> dict[str, int]:
    """The registers, with the code and stack selectors that Linux has where the CPU ran.

    Nobody has described where a vmss keeps them, and what reads registers goes by the privilege in CS:
    the half of the address space that the CPU ran in tells that (arch/x86/include/asm/segment.h).
    """
    if "cs" in registers or "rip" not in registers:
        return registers
    user = not registers["rip"] >> 63
    return registers | ({"cs": 0x33, "ss": 0x2B} if user else {"cs": 0x10, "ss": 0x18})


# -- debug.guest

GUEST = Struct("<IIBBIQQQII4Q")
GUEST_VERSION = 4
STATE_SIZE = 391
IDT_AT, REGS_AT = 108, 158
PT_REGS = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx",
           "rsi", "rdi", "orig_rax", "rip", "cs", "rflags", "rsp", "ss")  # fmt: skip


def _is_guest(head: bytes) -> bool:
    """It has no magic: its numbers must fit together."""
    if len(head) < GUEST.size:
        return False
    version, cpus, one, _, _, zero, last, pages, _, count, *holes = GUEST.unpack_from(head)
    if (version, one, zero) != (GUEST_VERSION, 1, 0) or count > 2 or not 0 < cpus <= MAX_CPUS:
        return False
    return bool(last + 1 == (pages + sum(holes[1 : 2 * count : 2])) * PAGE)


@register_format("vmware guest dump", sniff=_is_guest, order=60)
def probe_guest(source: Source) -> Dump | None:
    """A debug.guest, and the debug.vmem beside it, become a PieceDump."""
    _, cpus, _, _, _, _, _, pages, _, count, *holes = GUEST.unpack(source.peek(GUEST.size))
    machine = Machine(nr_cpus=cpus)
    for number in range(cpus):
        state = source.read_at(GUEST.size + number * STATE_SIZE, STATE_SIZE)
        if len(state) == STATE_SIZE:
            machine.cpus[number] = _guest_registers(state)
    at = ppn = 0
    for number in range(count + 1):
        here = holes[2 * number] - ppn if number < count else pages - at
        if here < 0:
            raise BadFormat(source.path, f"VMware guest dump whose hole {number} is out of order", 46)
        machine.regions[number] = [at, ppn, here]
        at += here
        ppn += here + (holes[2 * number + 1] if number < count else 0)
    memory = _companion(source, (".vmem",))
    stretches = Stretches()
    _lay_out(machine, 0, memory.size, stretches, 1)
    return PieceDump(_info("VMware guest dump", machine, [source, memory]), [source, memory], stretches)


def _guest_registers(state: bytes) -> dict[str, int]:
    found = dict(zip(PT_REGS, unpack_from("<21Q", state, REGS_AT), strict=True))
    found["cr0"], found["cr2"], found["cr3"], found["cr4"] = unpack_from("<I3Q", state)
    (found["idt_base"],) = unpack_from("<Q", state, IDT_AT)
    return found


# -- both


def _companion(source: Source, suffixes: Sequence[str]) -> Source:
    """The file of the same name that has the memory. Raises BadFormat."""
    path = Path(source.path)
    for suffix in suffixes:
        beside = path.with_suffix(suffix)
        if beside.exists():
            return FileSource(str(beside))
    raise BadFormat(
        source.path, f"has no memory, and there is no {path.with_suffix(suffixes[0]).name} beside it"
    )


def _lay_out(machine: Machine, offset: int, size: int, stretches: Stretches, source: int) -> None:
    """The regions of memory that the file holds, all of it from 0 on if there are none."""
    regions = [region for _, region in sorted(machine.regions.items()) if region[2]]
    for page, ppn, pages in regions or [[0, 0, size // PAGE]]:
        stretches.add(ppn * PAGE, pages * PAGE, offset + page * PAGE, source=source)


def _info(form: str, machine: Machine, sources: Sequence[Source]) -> DumpInfo:
    cpus: list[Mapping[str, int]] = [
        _with_selectors(registers) for _, registers in sorted(machine.cpus.items()) if registers
    ]
    return DumpInfo(
        format=form,
        byte_order="little",
        word_bits=64,
        machine=EM_X86_64,
        nr_cpus=machine.nr_cpus,
        cpus=cpus,
        details={"regions": len(machine.regions), "memory": sources[-1].path},
    )
