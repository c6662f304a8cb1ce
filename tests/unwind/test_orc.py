"""ORC: every layout there has been, tables in and out of order, and what CFI says of the same code."""

from __future__ import annotations

import random
import struct

import pytest

from kcrash.arch.loongarch64 import LOONGARCH64
from kcrash.errors import BadFormat
from kcrash.symbols.elffile import ElfFile
from kcrash.unwind import CfiTable, OrcTable, choose_layout
from kcrash.unwind import orc as orc_
from kcrash.unwind.orc import (
    ORC_FIRST,
    ORC_RENUMBERED,
    ORC_SIGNAL,
    ORC_TYPED,
    Base,
    OrcEntry,
    OrcLayout,
    OrcType,
    decode_entry,
)
from kcrash.unwind.rules import Kind, Row, Rule, same_value
from kcrash.unwind.target import RegsLayout, target_for
from tests.unwind.support import X86, vmlinuxes

# The same eight facts as each kernel writes them: arch/x86/include/asm/orc_types.h at the commits
# that the layouts cite. (type, sp base, bp base, signal) -> flags.
CALL, CALL_BP = (OrcType.CALL, Base.SP, Base.UNDEFINED, False), (OrcType.CALL, Base.BP, Base.PREV_SP, False)
REGS, PARTIAL = (
    (OrcType.REGS, Base.SP, Base.UNDEFINED, True),
    (OrcType.REGS_PARTIAL, Base.SP, Base.UNDEFINED, True),
)
NOTHING = (OrcType.UNDEFINED, Base.UNDEFINED, Base.UNDEFINED, False)
END = (OrcType.END_OF_STACK, Base.UNDEFINED, Base.UNDEFINED, False)
SWITCH, REALIGNED = (
    (OrcType.CALL, Base.SP_INDIRECT, Base.UNDEFINED, False),
    (OrcType.CALL, Base.R10, Base.BP, False),
)
FLAGS = {
    ORC_FIRST: {CALL: 0x005, CALL_BP: 0x014, REGS: 0x105, PARTIAL: 0x205, NOTHING: 0, END: 0x400,
                SWITCH: 0x009, REALIGNED: 0x046},
    ORC_SIGNAL: {CALL: 0x005, CALL_BP: 0x014, REGS: 0x505, PARTIAL: 0x605, NOTHING: 0, END: 0x800,
                 SWITCH: 0x009, REALIGNED: 0x046},
    ORC_TYPED: {CALL: 0x205, CALL_BP: 0x214, REGS: 0xB05, PARTIAL: 0xC05, NOTHING: 0, END: 0x100,
                SWITCH: 0x209, REALIGNED: 0x246},
    ORC_RENUMBERED: {CALL: 0x203, CALL_BP: 0x284, REGS: 0xB03, PARTIAL: 0xC03, NOTHING: 0, END: 0x100,
                     SWITCH: 0x209, REALIGNED: 0x246},
}  # fmt: skip
LAYOUTS = list(FLAGS)
LOONGARCH_HASH = "d9f45aafc6d2a2889d601ec9e3fe1092dac249dc"  # scripts/orc_hash.sh of v6.12 and v7.2


def content(
    layout: OrcLayout, facts: list[tuple[OrcType, Base, Base, bool]], sp: int = 16, bp: int = -16
) -> bytes:
    return b"".join(struct.pack("<hhH", sp, bp, FLAGS[layout][fact]) for fact in facts)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_layouts(layout: OrcLayout) -> None:
    for fact, flags in FLAGS[layout].items():
        found = decode_entry(struct.pack("<hhH", -8, 24, flags), 0, layout)
        if fact in (NOTHING, END):
            assert found.type is fact[0]
        else:
            assert found == OrcEntry(fact[0], fact[1], -8, fact[2], 24, fact[3])


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_the_layout_is_seen_in_the_table(layout: OrcLayout) -> None:
    data = content(layout, [CALL] * 50 + [CALL_BP] * 5 + [REGS, PARTIAL, NOTHING, END, SWITCH])
    assert choose_layout(data) is layout
    members = {"sp_reg": 4, "bp_reg": 4, "type": layout.type_mask.bit_count()}
    if layout.signal:
        members["signal"] = 1
    assert choose_layout(data, members=members) is layout
    # Types rule out what the table alone might suggest.
    assert choose_layout(b"", members=members).type_mask == layout.type_mask


def test_the_header_decides() -> None:
    for header, layout in orc_.HEADERS.items():
        assert choose_layout(content(ORC_FIRST, [CALL] * 9), header + b"\0\0") is layout
    with pytest.raises(BadFormat, match="unknown ORC format 00"):
        choose_layout(b"", b"\0" * 20)


def row(layout: OrcLayout, fact: tuple[OrcType, Base, Base, bool]) -> Row | None:
    return orc_.make_row(decode_entry(content(layout, [fact]), 0, layout), X86)


def test_rows_of_calls() -> None:
    call = row(ORC_TYPED, CALL)
    assert call == Row(
        Rule(Kind.REGISTER, 7, 16),
        ((16, Rule(Kind.SAVED, offset=-8)), (7, Rule(Kind.CFA)), (6, same_value(6))),
        16,
        False,
        "orc",
    )
    saved = row(ORC_TYPED, CALL_BP)
    assert saved is not None and saved.cfa == Rule(Kind.REGISTER, 6, 16)
    assert dict(saved.rules)[6] == Rule(Kind.SAVED, offset=-16)
    realigned = row(ORC_TYPED, REALIGNED)
    assert realigned is not None and realigned.cfa == Rule(Kind.REGISTER, 10)
    assert dict(realigned.rules)[6] == Rule(Kind.AT_REGISTER, 6, -16)
    assert row(ORC_TYPED, NOTHING) is None
    end = row(ORC_TYPED, END)
    assert end is not None and end.cfa is None


def test_rows_of_saved_registers() -> None:
    regs = row(ORC_FIRST, REGS)
    assert regs is not None and regs.interrupted and (regs.method, regs.regs_offset) == ("regs", 0)
    assert dict(regs.rules)[6] == Rule(Kind.SAVED, offset=32, size=8), (
        "of the interrupted code, not of the handler"
    )
    partial = row(ORC_SIGNAL, PARTIAL)
    assert partial is not None and partial.interrupted and partial.regs_offset == -128
    rules = dict(partial.rules)
    assert rules[16] == Rule(Kind.SAVED, offset=0, size=8) and rules[7] == Rule(Kind.SAVED, offset=24, size=8)
    assert rules[10] == same_value(10) and rules[6] == same_value(6) and 15 not in rules


def test_stack_switches_before_and_after_5_12() -> None:
    """Linux commit 87ccc826bf1c ("x86/unwind/orc: Change REG_SP_INDIRECT")."""
    switch = row(ORC_FIRST, SWITCH)
    assert switch is not None and switch.cfa == Rule(Kind.FROM_REGISTER, 7, 16)
    hint = orc_.make_row(OrcEntry(OrcType.REGS, Base.SP_INDIRECT, 8, Base.UNDEFINED, 0, True), X86)
    assert hint is not None and hint.cfa == Rule(Kind.AT_REGISTER, 7, 8)


@pytest.mark.parametrize("flags", [0x20F, 0x2F3, 0x703])
def test_unknown_codes(flags: int) -> None:
    with pytest.raises(BadFormat, match="unknown codes"):
        decode_entry(struct.pack("<hhH", 0, 0, flags), 0, ORC_RENUMBERED)


def test_nonsense_bases() -> None:
    for entry in (
        OrcEntry(OrcType.CALL, Base.PREV_SP, 0, Base.UNDEFINED, 0, False),
        OrcEntry(OrcType.CALL, Base.SP, 8, Base.R10, 0, False),
    ):
        with pytest.raises(BadFormat):
            orc_.make_row(entry, X86)


# -- tables

START = 0xFFFFFFFF81000000


def make(places: list[int], facts: list[tuple[OrcType, Base, Base, bool]], bias: int = 0) -> OrcTable:
    address = 0xFFFFFFFF82C5D44C
    offsets = b"".join(struct.pack("<i", at - (address + 4 * i)) for i, at in enumerate(places))
    return OrcTable(offsets, content(ORC_TYPED, facts), X86, address=address, layout=ORC_TYPED, bias=bias)


def types(table: OrcTable, pcs: list[int]) -> list[OrcType | None]:
    return [None if (entry := table.entry(pc)) is None else entry.type for pc in pcs]


def test_lookup_in_order_with_bias() -> None:
    bias = 0x1B800000
    table = make([START, START + 16, START + 32], [CALL, REGS, NOTHING], bias)
    pcs = [START - 1, START, START + 15, START + 16, START + 31, START + 99]
    expected = [None, OrcType.CALL, OrcType.CALL, OrcType.REGS, OrcType.REGS, OrcType.UNDEFINED]
    assert types(table, [pc + bias for pc in pcs]) == expected
    assert table.row(START + bias) is table.row(START + bias + 1), "rows are shared"
    assert table.row(5) is None and len(table) == 3


def test_tables_of_files_are_sorted_here() -> None:
    places = [START + 32, START, START + 16, START + 16]
    table = make(places, [REGS, CALL, PARTIAL, NOTHING])
    assert types(table, [START, START + 16, START + 40]) == [OrcType.CALL, OrcType.REGS_PARTIAL, OrcType.REGS]


def test_stack_switches_are_known() -> None:
    table = make([START, START + 8], [CALL, SWITCH])
    assert not table.switches_stack(START) and table.switches_stack(START + 8)


def test_sizes_must_fit() -> None:
    with pytest.raises(BadFormat):
        OrcTable(b"\0" * 8, b"\0" * 6, X86, address=0, layout=ORC_TYPED)
    assert OrcTable(b"", b"", X86, address=0, layout=ORC_TYPED).row(START) is None


@pytest.mark.parametrize("version", ["5.10", "6.1", "6.12", "7.2"])
def test_orc_and_cfi_agree_on_kernels(version: str) -> None:
    """objtool reads machine code and the compiler writes CFI: neither knows of the other."""
    vmlinux = dict(vmlinuxes()).get(version)
    if vmlinux is None:
        pytest.skip("the lab has no such kernel at hand")
    elf = ElfFile(vmlinux)
    frames, entries, offsets = map(elf.section_data, (".debug_frame", ".orc_unwind", ".orc_unwind_ip"))
    header = elf.section_data(".orc_header")
    assert frames is not None and entries is not None and offsets is not None
    layout = choose_layout(entries, bytes(header) if header is not None else None)
    assert choose_layout(entries).types == layout.types, "without the header too"
    assert choose_layout(entries).bases == layout.bases
    cfi = CfiTable(frames, X86)
    orc = OrcTable(offsets, entries, X86, address=elf.sections[".orc_unwind_ip"].addr, layout=layout)
    same = sum(_agrees(cfi, orc, pc) for pc in _sample(cfi, 5000))
    assert same > 4900  # the rest: stack switches, prologues that one of the two counts later


def _sample(cfi: CfiTable, count: int) -> list[int]:
    pick = random.Random(7)
    entries = map(cfi.fde, pick.sample(list(cfi.index[1]), count))
    return [fde.start + pick.randrange(fde.size) for fde in entries]


def _agrees(cfi: CfiTable, orc: OrcTable, pc: int) -> bool:
    ours, theirs = cfi.row(pc), orc.row(pc)
    if ours is None or theirs is None or ours.cfa is None:
        return theirs is None  # alternatives' and cold code that objtool leaves out
    rules = dict(ours.rules)
    return theirs.cfa == ours.cfa and dict(theirs.rules)[6] == rules[6]


# -- LoongArch


def loongarch(sp: int, fp: int, ra: int, kind: int, bases: tuple[int, int, int], signal: int = 0) -> bytes:
    """struct orc_entry, arch/loongarch/include/asm/orc_types.h."""
    sp_reg, fp_reg, ra_reg = bases
    return struct.pack("<3hH", sp, fp, ra, sp_reg | fp_reg << 4 | ra_reg << 8 | kind << 12 | signal << 15)


def test_loongarch_entries() -> None:
    """Types: 1 end of stack, 2 call, 3 registers; bases: 0 undefined, 1 the caller's sp, 2 sp, 3 fp."""
    layout = choose_layout(b"", bytes.fromhex(LOONGARCH_HASH))
    assert layout is choose_layout(b"", members={"sp_reg": 4, "ra_offset": 16, "type": 3, "signal": 1})
    entries = [
        loongarch(80, -16, -8, 2, (2, 1, 1)),
        loongarch(16, 0, 0, 2, (2, 0, 0)),
        loongarch(0, -16, -8, 2, (3, 1, 1)),
        loongarch(0, 0, 0, 3, (2, 0, 0), 1),
        loongarch(0, 0, 0, 1, (0, 0, 0)),
        loongarch(0, 0, 0, 0, (0, 0, 0)),
    ]
    locations = [0x1000 + 0x20 * number for number in range(len(entries))]
    ip = b"".join(struct.pack("<i", at - 4 * number) for number, at in enumerate(locations))
    target = target_for(LOONGARCH64, RegsLayout(320, {1: (8, 8), 3: (24, 8), 4096: (264, 8)}))
    table = OrcTable(ip, b"".join(entries), target, address=0, layout=layout)
    rows = [table.row(at + 4) for at in locations]
    sp, fp, ra = 3, 22, 1
    assert rows[0] is not None and rows[0].cfa == Rule(Kind.REGISTER, sp, 80)
    saved = {ra: Rule(Kind.SAVED, offset=-8), sp: Rule(Kind.CFA), fp: Rule(Kind.SAVED, offset=-16)}
    assert dict(rows[0].rules) == saved and rows[0].return_column == ra
    assert rows[1] is not None and dict(rows[1].rules)[ra] == same_value(ra)
    assert rows[2] is not None and rows[2].cfa == Rule(Kind.REGISTER, fp, 0)
    assert rows[3] is not None and rows[3].regs_offset == 0 and rows[3].interrupted
    assert rows[4] is not None and rows[4].cfa is None and rows[5] is None
    with pytest.raises(BadFormat, match="unknown codes"):
        decode_entry(loongarch(0, 0, 0, 2, (2, 9, 1)), 0, layout)
    with pytest.raises(BadFormat, match="cut"):
        decode_entry(entries[0][:6], 0, layout)
