"""ARM's unwind tables: instructions by hand from EHABI (IHI 0038, 10.3), a kernel's against readelf -u."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kcrash.arch.arm import ARM
from kcrash.errors import BadFormat, FaultReason, MemoryFault
from kcrash.symbols.elffile import ElfFile
from kcrash.unwind.exidx import UNTOLD, ExidxTable
from kcrash.unwind.memory import BlockReader
from kcrash.unwind.recover import find_cfa, recover
from kcrash.unwind.registers import Registers
from kcrash.unwind.rules import Row
from kcrash.unwind.target import target_for
from tests.lab import kernels, lab
from tests.lab.architectures import ARCHITECTURES

INDEX, CODE, EXTAB, STACK = 0xC1000000, 0xC0300000, 0xC1100000, 0xC2000000
TARGET = target_for(ARM)


class Memory:
    """Unwind instructions at EXTAB, and a stack whose words say their own addresses."""

    def __init__(self, extab: bytes = b"") -> None:
        self.extab = extab

    def read(self, address: int, size: int) -> bytes:
        if EXTAB <= address <= EXTAB + len(self.extab) - size:
            return self.extab[address - EXTAB :][:size]
        if not STACK <= address < STACK + 0x10000:
            raise MemoryFault("kernel", address, FaultReason.NOT_MAPPED)
        words = range(address & -4, (address + size + 3) & -4, 4)
        return struct.pack(f"<{len(words)}I", *words)[address % 4 :][:size]


def prel31(place: int, address: int) -> int:
    return address - place & 0x7FFFFFFF


def table(*words: int, extab: bytes = b"") -> ExidxTable:
    """Functions of 256 bytes from CODE on, with these second words."""
    pairs = ((prel31(INDEX + 8 * n, CODE + 256 * n), word) for n, word in enumerate(words))
    index = b"".join(struct.pack("<2I", *pair) for pair in pairs)
    return ExidxTable(index, TARGET, Memory(extab), address=INDEX, file="table")


def inline(*code: int) -> int:
    return int.from_bytes(bytes((0x80, *code)).ljust(4, b"\xb0"), "big")


def caller(row: Row | None, **registers: int) -> dict[int, int]:
    """What the caller has, where the registers hold these and r4 to r14 their number times 16."""
    values = {n: n * 16 for n in range(4, 15)} | {13: STACK + 0x100}
    values |= {ARM.dwarf[name]: value for name, value in registers.items()}
    known, reader = Registers(values), BlockReader(Memory(), TARGET)
    assert row is not None and row.cfa is not None
    cfa = find_cfa(row.cfa, known, reader, TARGET)
    found = recover(row, cfa, known, reader, TARGET).values
    return {**found, 15: found[row.return_column]}


def test_a_function_that_pushes_registers_and_takes_room() -> None:
    # push {r4-r6, lr}; sub sp, #8
    found = caller(table(inline(0x01, 0xAA)).row(CODE + 8))
    base = STACK + 0x108
    assert [found[n] for n in (4, 5, 6, 14, 13)] == [base, base + 4, base + 8, base + 12, base + 16]
    assert found[15] == base + 12 and found[7] == 7 * 16


def test_the_stack_pointer_comes_from_a_register() -> None:
    # mov fp, sp (r11); what was pushed before: {r11, lr}
    found = caller(table(inline(0x9B, 0x84, 0x80)).row(CODE + 8), r11=STACK + 0x40)
    assert (found[11], found[14], found[13]) == (STACK + 0x40, STACK + 0x44, STACK + 0x48)


def test_large_frames_and_floating_point_registers() -> None:
    # vsp += 0x204 + (2 << 2); vpop {d8-d9}; pop {r4, lr}
    code = bytes((0xB2, 0x02, 0xB9, 0xA8, 0xB0, 0xB0))
    extab = struct.pack(">I", 0x81010000 | code[0] << 8 | code[1]) + code[2:]
    extab = b"".join(extab[at : at + 4][::-1] for at in range(0, len(extab), 4))
    found = caller(table(prel31(INDEX + 4, EXTAB), extab=extab).row(CODE + 4))
    base = STACK + 0x100 + 0x20C + 8 * 2 + 4
    assert (found[4], found[14], found[13]) == (base, base + 4, base + 8)


def test_a_leaf_keeps_its_return_address_and_a_popped_pc_wins() -> None:
    assert caller(table(inline(0xB0)).row(CODE + 4), lr=0xC0301234)[15] == 0xC0301234
    found = caller(table(inline(0x88, 0x00)).row(CODE + 4))
    assert found[15] == STACK + 0x100 and found[14] == 14 * 16


def test_at_its_start_a_function_has_done_nothing() -> None:
    found = caller(table(inline(0xA8)).row(CODE), lr=0xC0301234)
    assert (found[13], found[15]) == (STACK + 0x100, 0xC0301234)


def test_the_nearest_function_below_counts() -> None:
    two = table(1, inline(0xA8))
    assert two.row(CODE + 4) is UNTOLD and two.row(CODE) is UNTOLD
    assert two.row(CODE + 0x10000) is two.row(CODE + 0x104) is not UNTOLD
    assert two.row(CODE - 4) is None


@pytest.mark.parametrize(
    "code, what",
    [
        ((0x80, 0x00), "refused"),
        ((0x9D,), "0x9d"),
        ((0x9F,), "0x9f"),
        ((0xB1, 0x00), "refused"),
        ((0xB4,), "0xb4"),
        ((0x82, 0x00), "stack pointer"),
        ((0x84, 0x80, 0x9B), "0x9b"),
        ((0xB2, 0xFF, 0xFF), "cut off"),
    ],
)
def test_what_no_kernel_has_is_refused(code: tuple[int, ...], what: str) -> None:
    with pytest.raises(BadFormat, match=what):
        table(int.from_bytes(bytes((0x80, *code)).ljust(4, b"\x00"), "big")).row(CODE + 4)


def test_instructions_elsewhere() -> None:
    with pytest.raises(BadFormat, match="not mapped"):
        table(prel31(INDEX + 4, 0xC7000000)).row(CODE + 4)
    with pytest.raises(BadFormat, match="personality"):
        table(prel31(INDEX + 4, EXTAB), extab=struct.pack("<I", 0x83000000)).row(CODE + 4)
    with pytest.raises(BadFormat, match="personality"):
        table(0x81000000).row(CODE + 4)


# -- a kernel's


class Image:
    """Memory of a vmlinux's sections."""

    def __init__(self, elf: ElfFile) -> None:
        self._elf = elf

    def read(self, address: int, size: int) -> bytes:
        for section in self._elf.section_list:
            if section.addr <= address < section.addr + section.size and section.addr:
                at = section.offset + address - section.addr
                return bytes(self._elf.mm[at : at + size])
        raise MemoryFault("kernel", address, FaultReason.NOT_MAPPED)


@pytest.fixture(scope="module")
def vmlinux() -> Path:
    lab.require("6.12", arch="armhf")
    return kernels.kernel("6.12", ARCHITECTURES["armhf"]).vmlinux


@pytest.mark.lab
def test_a_kernels_functions_as_readelf_reads_them(vmlinux: Path) -> None:
    elf = ElfFile(str(vmlinux))
    section, data = elf.sections[".ARM.unwind_idx"], elf.section_data(".ARM.unwind_idx")
    assert data is not None
    ours = ExidxTable(data, TARGET, Image(elf), address=section.addr, file="vmlinux")
    checked = 0
    for start, popped, room in readelf(vmlinux):
        if room is None or 13 in popped:
            continue  # cannot be unwound; entry code, of which registers are known otherwise
        found = ours.row(start + 1)  # some are of one instruction
        assert found is not None and found.cfa is not None, hex(start)
        if found.cfa.register == 13:
            assert found.cfa.offset == room, hex(start)
        assert {number for number, rule in found.rules if rule.kind == 3} == popped, hex(start)
        checked += 1
    assert checked > 30_000


def readelf(vmlinux: Path) -> Iterator[tuple[int, set[int], int | None]]:
    """``(start, registers popped, bytes of the frame)`` of each; None for what cannot be unwound."""
    done = subprocess.run(["readelf", "-u", str(vmlinux)], capture_output=True, text=True, check=True)
    for text in re.split(r"\n\n(?=0x)", done.stdout)[1:]:
        start, popped, room = int(text.split(" ", 1)[0].rstrip(":"), 16), set[int](), 0
        for names in re.findall(r"pop \{(.*?)\}", text):
            registers = re.findall(r"\br(\d+)\b", names)
            popped |= set(map(int, registers))
            room += 4 * len(registers)
            room += sum(8 for _ in re.findall(r"\b[dD]\d+\b", names))
        room += sum(int(sign + size) for sign, size in re.findall(r"vsp = vsp ([+-]) (\d+)", text))
        yield start, popped, None if "cantunwind" in text else room
