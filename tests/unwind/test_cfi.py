"""Tables made by an assembler, and broken ones."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from kcrash.errors import BadFormat
from kcrash.symbols.elffile import ElfFile
from kcrash.unwind import CfiTable
from kcrash.unwind.rules import Kind, Row, Rule, same_value
from tests.unwind.support import BIG32, X86, need, run

EXOTIC = """
    .cfi_sections {section}
    .text
    .globl f
f:  .cfi_startproc
    nop
    .cfi_def_cfa_offset 16
    .cfi_offset rbx, -16
    nop
    .cfi_remember_state
    .cfi_def_cfa rbp, 32
    .cfi_undefined r12
    .cfi_same_value r13
    .cfi_register r14, r15
    .cfi_val_offset r15, -24
    nop
    .cfi_restore_state
    nop
    .cfi_restore rbx
    .cfi_escape 0x2e, 16                    # GNU_args_size
    nop
    .cfi_escape 0x0f, 3, 0x77, 8, 0x06      # def_cfa_expression: *(rsp + 8)
    .cfi_escape 0x10, 12, 2, 0x23, 8        # expression(r12)
    .cfi_escape 0x16, 13, 2, 0x23, 16       # val_expression(r13)
    .cfi_escape 0x05, 40, 3                 # offset_extended
    .cfi_escape 0x11, 41, 0x7d              # offset_extended_sf: -3
    .cfi_escape 0x2f, 42, 3                 # GNU_negative_offset_extended
    .cfi_escape 0x15, 43, 0x7d              # val_offset_sf
    nop
    .cfi_escape 0x12, 7, 0x7e               # def_cfa_sf
    .cfi_escape 0x13, 0x7c                  # def_cfa_offset_sf
    .cfi_escape 0x06, 40                    # restore_extended
    .skip 300
    .cfi_def_cfa_offset 8
    .skip 70000
    .cfi_def_cfa_register r10
    nop
    .cfi_endproc
g:  .cfi_startproc
    .cfi_signal_frame
    nop
    .cfi_endproc
"""


@pytest.fixture(params=[".debug_frame", ".eh_frame"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> CfiTable:
    need("gcc")
    source, library = tmp_path / "a.s", tmp_path / "a.so"
    source.write_text(EXOTIC.format(section=request.param))
    run("gcc", "-shared", "-nostdlib", "-Wl,-Ttext=0x4000", "-o", library, source)
    elf = ElfFile(library)
    data = elf.section_data(request.param)
    assert data is not None
    eh = request.param == ".eh_frame"
    return CfiTable(data, X86, eh=eh, address=elf.sections[request.param].addr, bias=0x100000)


def rules(row: Row | None) -> dict[int, Rule]:
    assert row is not None
    return dict(row.rules)


def test_every_instruction(table: CfiTable) -> None:
    base = table.index[0][0] + 0x100000
    row = [table.row(base + n) for n in range(6)]
    assert row[0] is not None and row[0].cfa == Rule(Kind.REGISTER, 7, 8)
    assert rules(row[0])[16] == Rule(Kind.SAVED, offset=-8) and rules(row[0])[3] == same_value(3)
    assert row[1] is not None and row[1].cfa == Rule(Kind.REGISTER, 7, 16)
    assert rules(row[1])[3] == Rule(Kind.SAVED, offset=-16)
    assert row[2] is not None and row[2].cfa == Rule(Kind.REGISTER, 6, 32)
    second = rules(row[2])
    assert 12 not in second and second[13] == same_value(13)
    assert second[14] == Rule(Kind.REGISTER, 15) and second[15] == Rule(Kind.CFA, offset=-24)
    assert row[3] == row[1]
    assert rules(row[4])[3] == same_value(3)
    assert row[5] is not None and row[5].cfa == Rule(Kind.VALUE, expression=b"\x77\x08\x06")
    fifth = rules(row[5])
    assert fifth[12] == Rule(Kind.EXPRESSION, expression=b"\x23\x08")
    assert fifth[13] == Rule(Kind.VALUE, expression=b"\x23\x10")
    assert [fifth[n].offset for n in (40, 41, 42, 43)] == [-24, 24, 24, 24]
    assert fifth[43].kind == Kind.CFA


def test_long_advances(table: CfiTable) -> None:
    base = table.index[0][0] + 0x100000
    sixth = table.row(base + 6)
    assert sixth is not None and sixth.cfa == Rule(Kind.REGISTER, 7, 32) and 40 not in rules(sixth)
    assert table.row(base + 305) == sixth
    later, last = table.row(base + 306), table.row(base + 70306)
    assert later is not None and later.cfa == Rule(Kind.REGISTER, 7, 8)
    assert last is not None and last.cfa == Rule(Kind.REGISTER, 10, 8)
    assert table.row(base + 70307) != last and table.row(base - 1) is None


def test_signal_frame(table: CfiTable) -> None:
    start = table.index[0][1] + 0x100000
    row = table.row(start)
    assert row is not None and row.interrupted
    assert table.row(start + 1) is None


def test_rows_are_kept(table: CfiTable) -> None:
    pc = table.index[0][0] + 0x100000
    assert table.row(pc) is table.row(pc)


# -- tables made by hand


def entry(content: bytes, order: str = "<", wide: bool = False) -> bytes:
    if wide:
        return struct.pack(order + "IQ", 0xFFFFFFFF, len(content)) + content
    return struct.pack(order + "I", len(content)) + content


def simple(instructions: bytes = b"", cie: bytes = b"\x0c\x07\x08\x90\x01") -> CfiTable:
    head = struct.pack("<I", 0xFFFFFFFF) + b"\x01\0\x01\x78\x10" + cie
    body = struct.pack("<IQQ", 0, 0x1000, 0x100) + instructions
    return CfiTable(entry(head) + entry(body), X86)


def test_wide_entries_and_version_4_of_a_big_machine() -> None:
    head = struct.pack(">Q", (1 << 64) - 1) + b"\x04\0\x04\0\x04\x7c\x41" + b"\x0c\x01\x08\x94\x02\0"
    body = struct.pack(">QII", 0, 0x8000, 0x40) + b"\x42\x0e\x10\xc0\0"
    table = CfiTable(entry(head, ">", True) + entry(body, ">", True), BIG32)
    first, second = table.row(0x8000), table.row(0x8008)
    assert first is not None and first.return_column == 65 and first.cfa == Rule(Kind.REGISTER, 1, 8)
    assert rules(first)[20] == Rule(Kind.SAVED, offset=-8)
    assert rules(first)[65] == same_value(65), "a call leaves the address in the register"
    assert second is not None and second.cfa == Rule(Kind.REGISTER, 1, 16)


def test_segment_selectors_are_skipped() -> None:
    head = struct.pack("<I", 0xFFFFFFFF) + b"\x04\0\x08\x02\x01\x78\x10" + b"\x0c\x07\x08"
    body = struct.pack("<IHQQ", 0, 0x33, 0x1000, 0x100)
    row = CfiTable(entry(head) + entry(body), X86).row(0x1010)
    assert row is not None and row.cfa == Rule(Kind.REGISTER, 7, 8)


def test_entries_are_sorted_and_dead_ones_left_out() -> None:
    head = entry(struct.pack("<I", 0xFFFFFFFF) + b"\x01\0\x01\x78\x10\x0c\x07\x08")
    bodies = [
        struct.pack("<IQQ", 0, at, size) for at, size in ((0x3000, 8), (0, 64), (0x1000, 8), (0x2000, 0))
    ]
    table = CfiTable(head + b"".join(map(entry, bodies)), X86)
    assert list(table.index[0]) == [0x1000, 0x3000] and len(table) == 2
    assert table.row(0x1007) is not None and table.row(0x1008) is None and table.row(0x2000) is None


def test_relocation_hook() -> None:
    head = entry(struct.pack("<I", 0xFFFFFFFF) + b"\x01\0\x01\x78\x10\x0c\x07\x08")
    data = head + entry(struct.pack("<IQQ", 0, 0, 0x10))
    seen: list[tuple[int, int]] = []

    def relocate(offset: int, raw: int) -> int:
        seen.append((offset, raw))
        return 0xFFFFFFFFC0000000 + raw

    table = CfiTable(data, X86, relocate=relocate)
    assert table.row(0xFFFFFFFFC0000008) is not None and set(seen) == {(len(head) + 8, 0)}


def test_arm64_signed_return_addresses() -> None:
    from dataclasses import replace

    target = replace(X86, ra_sign_state=34)
    for state, instructions in ((1, b"\x2d"), (0, b"\x2d\x2d"), (1, b"\x2c")):
        table = simple(instructions)
        table.target = target
        assert rules(table.row(0x1000))[34] == Rule(Kind.CONSTANT, offset=state)
    with pytest.raises(BadFormat, match="another machine"):
        simple(b"\x2d").row(0x1000)


@pytest.mark.parametrize(
    ("instructions", "what"),
    [
        (b"\x3f", "unknown call frame instruction"),
        (b"\x0b", "no remembered state"),
        (b"\x0a" * 300, "remembered"),
        (b"\x0f\x01\x30\x0e\x08", "no register and offset"),
        (b"\x0f\x20\x30", "runs past the end"),
        (b"\x02", "middle of one"),
        (b"\x0e\x80", "middle of one|runs past"),
        (b"\x05\xff\xff\x03\x01", "register number"),
    ],
)
def test_broken_instructions(instructions: bytes, what: str) -> None:
    with pytest.raises(BadFormat, match=what):
        simple(instructions).row(0x1000)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<IIQQ", 0x100, 0, 1, 1),
        struct.pack("<IIQQ", 0xFFFFFFF3, 0, 1, 1),
        entry(struct.pack("<IQQ", 0, 0x1000, 8)),
        entry(struct.pack("<IQQ", 0x5000, 0x1000, 8)),
        entry(struct.pack("<I", 0xFFFFFFFF) + b"\x07\0" + b"\0" * 20)
        + entry(struct.pack("<IQQ", 0, 0x1000, 8)),
        entry(struct.pack("<I", 0xFFFFFFFF) + b"\x01armcc+\0" + b"\1" * 20)
        + entry(struct.pack("<IQQ", 0, 0x1000, 8)),
        entry(struct.pack("<I", 0xFFFFFFFF) + b"\x01" + b"a" * 90) + entry(struct.pack("<IQQ", 0, 0x1000, 8)),
    ],
)
def test_broken_headers(data: bytes) -> None:
    with pytest.raises(BadFormat):
        CfiTable(data, X86).row(0x1000)
