"""ORC: the kernel's own unwind tables, of x86_64 and of LoongArch.

Sources: asm/orc_types.h and kernel/unwind_orc.c of arch/x86 and arch/loongarch, and
scripts/orc_hash.sh of the kernel. Two sorted arrays: .orc_unwind_ip holds 32-bit
offsets, each relative to its own place; .orc_unwind six or eight bytes for each of them,
good for all code up to the next one.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from kcrash.errors import BadFormat
from kcrash.unwind.rules import Kind, Row, Rule, same_value
from kcrash.unwind.target import Target

HEADER_SIZE = 20
MAX_MEMO = 65_536
IRET_FRAME = 128  # offset of ip in struct pt_regs: IRET_FRAME_OFFSET in asm/ptrace.h


class OrcType(Enum):
    """What an entry describes, whatever the layout calls it."""

    UNDEFINED = "undefined"  # nothing known, or the end of a section
    END_OF_STACK = "end of stack"
    CALL = "call"
    REGS = "regs"  # a whole struct pt_regs at the base
    REGS_PARTIAL = "regs partial"  # only what the CPU pushes: ip, cs, flags, sp, ss


class Base(Enum):
    """What the previous stack or frame pointer is computed from."""

    UNDEFINED = "undefined"
    PREV_SP = "prev_sp"
    AX = "ax"
    DX = "dx"
    DI = "di"
    BP = "bp"
    SP = "sp"
    R10 = "r10"
    R13 = "r13"
    BP_INDIRECT = "(bp)"
    SP_INDIRECT = "(sp)"


_DWARF = {Base.AX: 0, Base.DX: 1, Base.DI: 5, Base.BP: 6, Base.SP: 7, Base.R10: 10, Base.R13: 13}


@dataclass(frozen=True, slots=True)
class OrcLayout:
    """One form of ``struct orc_entry``: {s16 sp_offset, s16 bp_offset, u16 of bit fields}.

    In the bit fields sp_reg is bits 0-3 and bp_reg bits 4-7 in every layout. ``signal``, ``end``: masks, 0
    where the layout has no such bit. ``types`` and ``bases``: meaning of the codes. ``has_return``: an s16
    ra_offset follows the other two, and bits 8-11 are ra_reg; else calls push the return address.
    """

    name: str
    type_mask: int
    signal: int
    end: int
    types: tuple[OrcType, ...]
    bases: tuple[Base, ...]
    has_return: bool = False

    @property
    def entry_size(self) -> int:
        """Bytes."""
        return 8 if self.has_return else 6

    def type_code(self, flags: int) -> int:
        """The number of the type in the bit fields."""
        return (flags & self.type_mask) // (self.type_mask & -self.type_mask)


_OLD_TYPES = (OrcType.CALL, OrcType.REGS, OrcType.REGS_PARTIAL)
_NEW_TYPES = (
    OrcType.UNDEFINED,
    OrcType.END_OF_STACK,
    OrcType.CALL,
    OrcType.REGS,
    OrcType.REGS_PARTIAL,
)
_OLD_BASES = (
    Base.UNDEFINED,
    Base.PREV_SP,
    Base.DX,
    Base.DI,
    Base.BP,
    Base.SP,
    Base.R10,
    Base.R13,
    Base.BP_INDIRECT,
    Base.SP_INDIRECT,
)
_NEW_BASES = (
    Base.UNDEFINED,
    Base.AX,
    Base.DX,
    Base.SP,
    Base.BP,
    Base.DI,
    Base.R10,
    Base.R13,
    Base.PREV_SP,
    Base.SP_INDIRECT,
    Base.BP_INDIRECT,
)

# Newest first. Linux commit 1735858caa4b ("objtool/x86: Reorder ORC register numbering") in v7.1:
ORC_RENUMBERED = OrcLayout("renumbered", 0x700, 0x800, 0, _NEW_TYPES, _NEW_BASES)
# Linux commit fb799447ae29 ("x86,objtool: Split UNWIND_HINT_EMPTY in two") in v6.4: no end bit, five types.
ORC_TYPED = OrcLayout("typed", 0x700, 0x800, 0, _NEW_TYPES, _OLD_BASES)
# Linux commit ffb1b4a41016 ("x86/unwind/orc: Add 'signal' field to ORC metadata") in v6.3.
ORC_SIGNAL = OrcLayout("signal", 0x300, 0x400, 0x800, _OLD_TYPES, _OLD_BASES)
# Linux commit ee9f8fce9964 ("x86/unwind: Add the ORC unwinder") in v4.14; the end bit since
# "x86/unwind/orc: Detect the end of the stack" in v4.18.
ORC_FIRST = OrcLayout("first", 0x300, 0, 0x400, _OLD_TYPES, _OLD_BASES)

# Linux commit cb8a2ef0848c ("LoongArch: Add ORC stack unwinder support") in v6.9.
ORC_LOONGARCH = OrcLayout(
    "loongarch", 0x7000, 0x8000, 0, _NEW_TYPES, (Base.UNDEFINED, Base.PREV_SP, Base.SP, Base.BP), True
)

# The hash of the definitions in orc_types.h: .orc_header, since Linux commit b9f174c811e3
# ("x86/unwind/orc: Add ELF section with ORC version identifier") in v6.4.
HEADERS = {
    bytes.fromhex("137c36ad7627c4dd55932176bb0ecdbd5041fc82"): ORC_RENUMBERED,
    bytes.fromhex("fe5d32bf581bd63b2ca9a5c65ba5a625eab3fe24"): ORC_TYPED,
    bytes.fromhex("db84aed4103b31dd51e017f8f79783ca985c2c51"): ORC_SIGNAL,
    bytes.fromhex("d9f45aafc6d2a2889d601ec9e3fe1092dac249dc"): ORC_LOONGARCH,
}


def choose_layout(
    entries: bytes | memoryview, header: bytes | None = None, members: Mapping[str, int] | None = None
) -> OrcLayout:
    """The layout of a table, from what the kernel says of itself.

    ``header``: content of .orc_header; ``members``: width in bits of each member
    of struct orc_entry as the kernel's types tell it; ``entries``: content of
    .orc_unwind, which decides what the two leave open (kernels of v6.3 and v6.4 and
    of Red Hat exist without a header, and types do not tell the numbering).
    Raises BadFormat for a header that is not known.
    """
    if header is not None:
        found = HEADERS.get(bytes(header[:HEADER_SIZE]))
        if found is None:
            raise BadFormat(".orc_header", f"unknown ORC format {bytes(header[:HEADER_SIZE]).hex()}")
        return found
    if members and "ra_offset" in members:
        return ORC_LOONGARCH
    flags = _flag_counts(entries)
    if members:
        candidates = [layout for layout in _LAYOUTS if _fits(layout, members)]
        return _by_content(flags, candidates or _LAYOUTS)
    return _by_content(flags, _LAYOUTS)


_LAYOUTS = [ORC_RENUMBERED, ORC_TYPED, ORC_SIGNAL, ORC_FIRST]


def _fits(layout: OrcLayout, members: Mapping[str, int]) -> bool:
    width = layout.type_mask.bit_count()
    return members.get("type", width) == width and ("signal" in members) == bool(layout.signal)


def _flag_counts(entries: bytes | memoryview) -> Counter[int]:
    """How often each combination of bit fields occurs."""
    words = array("H", bytes(entries[: len(entries) // 6 * 6]))
    if sys.byteorder == "big":
        words.byteswap()
    return Counter(words[2::3])


def _by_content(flags: Counter[int], candidates: list[OrcLayout]) -> OrcLayout:
    """The layout under which most of the entries are what most code is: a call found from the stack pointer.

    The two oldest differ in their end bit alone: bit 11 is never set in the first.
    """
    ends = any(flag & 0x800 for flag in flags)

    def score(layout: OrcLayout) -> tuple[int, bool]:
        hits = sum(count for flag, count in flags.items() if _is_plain_call(layout, flag))
        return hits, bool(layout.end & 0x800) == ends

    return max(candidates, key=score)


def _is_plain_call(layout: OrcLayout, flag: int) -> bool:
    kind, base = layout.type_code(flag), flag & 0xF
    is_call = kind < len(layout.types) and layout.types[kind] is OrcType.CALL
    return is_call and base < len(layout.bases) and layout.bases[base] is Base.SP


class OrcEntry(NamedTuple):
    """A decoded entry. ``ra_base``: UNDEFINED where the return address still is in its register."""

    type: OrcType
    sp_base: Base
    sp_offset: int
    bp_base: Base
    bp_offset: int
    signal: bool
    ra_base: Base = Base.PREV_SP
    ra_offset: int = -8


def decode_entry(data: bytes | memoryview, offset: int, layout: OrcLayout, order: str = "<") -> OrcEntry:
    """The entry at ``offset``. Raises BadFormat for codes that the layout does not have."""
    try:
        sp_offset, bp_offset, *more, flags = struct.unpack_from(
            order + ("hhhH" if layout.has_return else "hhH"), data, offset
        )
    except struct.error:
        raise BadFormat(".orc_unwind", "the section is cut", offset) from None
    code, codes = layout.type_code(flags), [flags >> shift & 0xF for shift in (0, 4, *(8 for _ in more))]
    if code >= len(layout.types) or max(codes) >= len(layout.bases):
        raise BadFormat(".orc_unwind", f"unknown codes {flags:#x}", offset)
    kind, (sp_base, bp_base, *ra_base) = layout.types[code], (layout.bases[code] for code in codes)
    if layout.types is _OLD_TYPES and sp_base is Base.UNDEFINED:
        kind = OrcType.END_OF_STACK if flags & layout.end else OrcType.UNDEFINED
    # Before there was a bit for it, saved registers alone meant an interrupt.
    signal = bool(flags & layout.signal) if layout.signal else kind is not OrcType.CALL
    return OrcEntry(kind, sp_base, sp_offset, bp_base, bp_offset, signal, *ra_base, *more)


class OrcTable:
    """The tables of the kernel or of one module.

    ``offsets`` and ``entries``: contents of .orc_unwind_ip and .orc_unwind, of a
    file or of memory; ``address``: where the former stands (as linked, or in
    memory); ``bias``: what is added to it and to all code addresses. Tables of
    files may be unsorted: the kernel sorts at boot before Linux commit
    f14bf6a350df ("x86/unwind/orc: Remove boot-time ORC unwind tables sorting") in
    v5.6, and those of modules when they are loaded. Raises BadFormat.
    """

    def __init__(
        self,
        offsets: bytes | memoryview,
        entries: bytes | memoryview,
        target: Target,
        *,
        address: int,
        layout: OrcLayout,
        bias: int = 0,
        file: str = ".orc_unwind_ip",
    ) -> None:
        self.count = len(offsets) // 4
        if len(offsets) % 4 or len(entries) != self.count * layout.entry_size:
            raise BadFormat(file, f"{len(offsets)} bytes of offsets for {len(entries)} bytes of entries")
        self.target = target
        self.layout = layout
        self._address = address + bias & target.mask
        self._offsets = offsets
        self._entries = entries
        self._order: Any = None  # index of the entry of each location; None if they are in order
        self._locations: Any = None  # numpy int64, relative to _address
        self._rows: dict[bytes, Row | None] = {}  # by the bytes of an entry: a few hundred differ
        self._memo: dict[int, Row | None] = {}

    def __len__(self) -> int:
        return self.count

    def _load(self) -> Any:
        import numpy as np

        offsets = np.frombuffer(self._offsets, self.target.order + "i4")
        locations = offsets.astype(np.int64) + np.arange(0, 4 * self.count, 4, dtype=np.int64)
        if np.any(locations[1:] < locations[:-1]):
            # Of several entries for one address the last counts, and a section's end counts least.
            real = [self._entry(i).type is not OrcType.UNDEFINED for i in range(self.count)]
            self._order = np.lexsort((np.array(real), locations))
            locations = locations[self._order]
        self._locations = locations
        return locations

    def _entry(self, index: int) -> OrcEntry:
        return decode_entry(self._entries, index * self.layout.entry_size, self.layout, self.target.order)

    def entry(self, pc: int) -> OrcEntry | None:
        """The entry for a runtime address; None before the first. The last has no end. Raises BadFormat."""
        index = self._find(pc)
        return None if index is None else self._entry(index)

    def _find(self, pc: int) -> int | None:
        locations = self._locations if self._locations is not None else self._load()
        half = self.target.mask // 2 + 1
        relative = (pc - self._address & self.target.mask ^ half) - half
        index = int(locations.searchsorted(relative, "right")) - 1
        if index < 0:
            return None
        return int(self._order[index]) if self._order is not None else index

    def row(self, pc: int) -> Row | None:
        """The row that holds at ``pc``, None where ORC knows nothing. Raises BadFormat."""
        try:
            return self._memo[pc]
        except KeyError:
            pass
        index = self._find(pc)
        row = None if index is None else self._row(index)
        if len(self._memo) >= MAX_MEMO:
            self._memo.clear()
        self._memo[pc] = row
        return row

    def _row(self, index: int) -> Row | None:
        size = self.layout.entry_size
        key = bytes(self._entries[index * size : (index + 1) * size])
        if key not in self._rows:
            self._rows[key] = make_row(self._entry(index), self.target)
        return self._rows[key]

    def switches_stack(self, pc: int) -> bool:
        """True where inline assembly has switched the stack, of which the compiler's CFI knows nothing.

        Linux commit aafeb14e9da2 ("objtool: Support stack-swizzle") in v5.12.
        """
        entry = self.entry(pc)
        return entry is not None and entry.sp_base is Base.SP_INDIRECT and entry.type is OrcType.CALL


def make_row(entry: OrcEntry, target: Target) -> Row | None:
    """The rules that an entry stands for, as unwind_next_frame() applies them; None for UNDEFINED."""
    if entry.type is OrcType.UNDEFINED:
        return None
    if entry.type is OrcType.END_OF_STACK:
        return Row(None, (), target.return_column, False, "orc")
    cfa = _cfa_rule(entry, target)
    if entry.type is OrcType.CALL:
        rules = {
            target.return_column: _return_rule(entry, target),
            target.sp: Rule(Kind.CFA),
            target.fp: _fp_rule(entry, target),
        }
        return Row(cfa, tuple(rules.items()), target.return_column, entry.signal, "orc")
    fields = target.regs.fields if target.regs is not None else {}
    if entry.type is OrcType.REGS:
        saved = {number: Rule(Kind.SAVED, 0, at, b"", size) for number, (at, size) in fields.items()}
        return Row(cfa, tuple(saved.items()), target.pc, entry.signal, "regs", 0)
    saved = {
        number: Rule(Kind.SAVED, 0, at - IRET_FRAME, b"", size)
        for number, (at, size) in fields.items()
        if at >= IRET_FRAME
    }
    # Entry code that has not saved them yet has not changed them either: Linux commit 81b67439d147
    # ("x86/unwind/orc: Fix premature unwind stoppage due to IRET frames") in v5.7. Said of those that an
    # entry can be based on only.
    for number in _DWARF.values():
        saved.setdefault(number, same_value(number))
    saved[target.fp] = _fp_rule(entry, target)
    return Row(cfa, tuple(saved.items()), target.pc, entry.signal, "regs", -IRET_FRAME)


def _cfa_rule(entry: OrcEntry, target: Target) -> Rule:
    base, offset = entry.sp_base, entry.sp_offset
    if base is Base.SP_INDIRECT:
        # Since Linux commit 87ccc826bf1c ("x86/unwind/orc: Change REG_SP_INDIRECT") in v5.12 the offset is
        # added to what was read. That is what stack switches in C need; before, only hints of entry code
        # for saved registers used this base, and added the offset before reading.
        kind = Kind.FROM_REGISTER if entry.type is OrcType.CALL else Kind.AT_REGISTER
        return Rule(kind, target.sp, offset)
    if base is Base.BP_INDIRECT:
        return Rule(Kind.AT_REGISTER, target.fp, offset)
    number = {**_DWARF, Base.SP: target.sp, Base.BP: target.fp}.get(base)
    if number is None:
        raise BadFormat(".orc_unwind", f"the stack pointer cannot be based on {base.value}")
    return Rule(Kind.REGISTER, number, offset if base in (Base.SP, Base.BP) else 0)


def _return_rule(entry: OrcEntry, target: Target) -> Rule:
    if entry.ra_base is Base.UNDEFINED:
        return same_value(target.return_column)
    if entry.ra_base is Base.PREV_SP:
        return Rule(Kind.SAVED, 0, entry.ra_offset)
    raise BadFormat(".orc_unwind", f"the return address cannot be based on {entry.ra_base.value}")


def _fp_rule(entry: OrcEntry, target: Target) -> Rule:
    if entry.bp_base is Base.UNDEFINED:
        return same_value(target.fp)
    if entry.bp_base is Base.PREV_SP:
        return Rule(Kind.SAVED, 0, entry.bp_offset)
    if entry.bp_base is Base.BP:
        return Rule(Kind.AT_REGISTER, target.fp, entry.bp_offset)
    raise BadFormat(".orc_unwind", f"the frame pointer cannot be based on {entry.bp_base.value}")
