"""x86_64: page-table entries against the manual, registers of a core against gdb, where the kernel lies."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kcrash.arch.base import Entry, EntryKind, KernelLayout
from kcrash.arch.x86_64 import DWARF, PRSTATUS, call_target, make_paging, pushed_registers
from kcrash.dump.notes import parse_notes
from kcrash.errors import FaultReason, MemoryFault
from kcrash.locate import locate
from kcrash.session import open_session
from kcrash.symbols.elffile import ElfFile
from tests.lab import kernels, lab

# Intel SDM volume 3, tables 4-15 to 4-20 (4-level paging): bits of an entry.
PRESENT, PAGE_SIZE, NO_EXECUTE = 1, 1 << 7, 1 << 63
MAXPHYADDR = 52


def field(value: int, high: int, low: int) -> int:
    """Bits ``high:low`` of an entry, in their place."""
    return value & ((1 << high + 1) - (1 << low))


entries = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.builds(lambda frame, flags: frame << 12 | flags, st.integers(0, 2**40 - 1), st.integers(0, 0xFFF)),
)


@pytest.mark.parametrize("five_level", [False, True])
@given(value=entries)
def test_present_entries_are_the_manual_s(five_level: bool, value: int) -> None:
    """The address is in bits 51:12, of 2 MiB pages 51:21, of 1 GiB pages 51:30."""
    paging = make_paging(five_level)
    value |= PRESENT
    names = [level.name for level in paging.levels]
    assert names == [*(["PGD", "P4D"] if five_level else ["PGD"]), "PUD", "PMD", "PTE"]
    for index, name in enumerate(names):
        low = {"PUD": 30, "PMD": 21}.get(name) if value & PAGE_SIZE else None
        low = 12 if name == "PTE" else low
        kind = EntryKind.TABLE if low is None else EntryKind.LEAF
        assert paging.decode(value, index) == Entry(kind, field(value, MAXPHYADDR - 1, low or 12))


@given(value=entries)
def test_entries_that_are_not_present(value: int) -> None:
    """Zero is nothing; PROT_NONE (bit 8 of the last level) is a page with its address inverted
    (arch/x86/include/asm/pgtable-invert.h), anything else is the kernel's own."""
    paging = make_paging(False)
    value &= ~PRESENT
    entry = paging.decode(value, 3)
    if not value:
        assert entry.kind is EntryKind.ABSENT
    elif value & 1 << 8:
        assert entry == Entry(EntryKind.LEAF, field(~value & (1 << 64) - 1, MAXPHYADDR - 1, 12))
    else:
        assert entry.kind is EntryKind.OTHER
    assert paging.decode(value, 0).kind in (EntryKind.ABSENT, EntryKind.OTHER)


@settings(max_examples=50)
@given(values=st.lists(entries, min_size=1, max_size=64))
def test_a_table_decodes_as_its_entries_do(values: list[int]) -> None:
    paging = make_paging(True)
    assert paging.decode_table is not None
    mapped, physical = paging.decode_table(np.array(values, "u8"))
    one_by_one = [paging.decode(value, 4) for value in values]
    assert mapped.tolist() == [entry.kind is EntryKind.LEAF for entry in one_by_one]
    for where, entry in zip(physical.tolist(), one_by_one, strict=True):
        assert entry.kind is not EntryKind.LEAF or where == entry.address


def test_the_encryption_bit_is_no_address() -> None:
    """AMD SME: sme_me_mask of VMCOREINFO."""
    paging = make_paging(False, 1 << 47)
    assert paging.decode(0x123000 | 1 << 47 | PRESENT, 3) == Entry(EntryKind.LEAF, 0x123000)
    assert paging.decode(0x123000 | 1 << 47 | PRESENT, 0) == Entry(EntryKind.TABLE, 0x123000)


@pytest.mark.parametrize(("five_level", "bits"), [(False, 48), (True, 57)])
def test_the_reach_of_the_tables(five_level: bool, bits: int) -> None:
    paging = make_paging(five_level)
    assert paging.canonical_bits == bits == paging.levels[0].shift + paging.levels[0].bits
    assert paging.user_end == 1 << bits - 1
    for upper, lower in zip(paging.levels, paging.levels[1:], strict=False):
        assert upper.shift == lower.shift + lower.bits == lower.shift + 9


def test_flag_names() -> None:
    paging = make_paging(False)
    assert paging.flag_names(0x8000000000000867) == ["PRESENT", "RW", "USER", "ACCESSED", "DIRTY", "NX"]
    assert "PROTNONE" in paging.flag_names(0x100) and "GLOBAL" in paging.flag_names(0x101)


# -- a core of a real process

SOURCE = """
#include <stdlib.h>
int main(void) {
    __asm__ volatile("mov $0x1111111122222222, %rbx; mov $0x33, %r12; mov $-5, %r13; mov $0x7f00dead, %r15");
    abort();
}
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The core that gdb writes of a process at its abort; the program is beside it."""
    folder = tmp_path_factory.mktemp("core")
    (folder / "program.c").write_text(SOURCE)
    subprocess.run(["gcc", "-g", "-o", "program", "program.c"], cwd=folder, check=True)
    steps = ("run", "generate-core-file core")
    argv = ["gdb", "-nx", "-batch", *(word for step in steps for word in ("-ex", step)), "program"]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    return folder / "core"


def status_note(core: Path) -> bytes:
    """The NT_PRSTATUS of a core."""
    data = core.read_bytes()
    start, size, count = (
        int.from_bytes(data[at : at + n], "little") for at, n in ((32, 8), (54, 2), (56, 2))
    )
    for number in range(count):
        kind, _flags, offset, _vaddr, _paddr, length = struct.unpack_from(
            "<IIQQQQ", data, start + number * size
        )
        if kind == 4:
            notes = parse_notes(data[offset : offset + length], "little")
            return next(note.data for note in notes if note.name == "CORE" and note.type == 1)
    raise AssertionError("no notes")


def test_registers_of_a_core_are_gdb_s(core: Path) -> None:
    argv = ["gdb", "-nx", "-batch", "-ex", "info registers", "-ex", "info inferiors", "program", "core"]
    text = subprocess.run(argv, cwd=core.parent, check=True, capture_output=True, text=True).stdout
    told = {name: int(value, 16) for name, value in re.findall(r"^(\w+) +(0x[0-9a-f]+) ", text, re.M)}
    told["rflags"] = told.pop("eflags")
    note = status_note(core)
    assert len(note) == PRSTATUS.size
    words = struct.unpack_from(f"<{len(PRSTATUS.registers)}Q", note, PRSTATUS.regs)
    ours = dict(zip(PRSTATUS.registers, words, strict=True))
    shared = told.keys() & ours.keys()
    assert len(shared) >= 24 and {name: ours[name] for name in shared} == {
        name: told[name] for name in shared
    }
    assert ours["r12"] == 0x33 or ours["rbx"]  # the process's own, not zeroes


def test_the_other_fields_of_a_core_are_readelf_s(core: Path) -> None:
    note = status_note(core)
    pid = re.search(r"process (\d+)", subprocess.run(
        ["gdb", "-nx", "-batch", "-ex", "info inferiors", "program", "core"],
        cwd=core.parent, check=True, capture_output=True, text=True,
    ).stdout)  # fmt: skip
    assert pid is not None and struct.unpack_from("<I", note, PRSTATUS.pid)[0] == int(pid[1])
    assert struct.unpack_from("<h", note, PRSTATUS.signal)[0] == 6  # SIGABRT
    seconds = struct.unpack_from("<8q", note, PRSTATUS.times)
    assert all(0 <= value < 10**6 for value in seconds)


# -- code


class Code:
    """Bytes at address 0."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, address: int, size: int) -> bytes:
        if address < 0 or address + size > len(self.data):
            raise MemoryFault("code", address, FaultReason.NOT_IN_DUMP)
        return self.data[address : address + size]


FUNCTIONS = """
int other(int, int, int, int, int, int);
int many(int a, int b, int c, int d, int e, int f) {
    int x = other(a, b, c, d, e, f), y = other(b, c, d, e, f, a), z = other(x, y, a, b, c, d);
    return x + y * z + a - b * c + d / (e | 1) + f;
}
int few(int a) { int x = other(a, 1, 2, 3, 4, 5); return x * a; }
int none(int a) { return a + 1; }
"""


def test_pushed_registers_and_calls_are_objdump_s(tmp_path: Path) -> None:
    (tmp_path / "f.c").write_text(FUNCTIONS)
    subprocess.run(["gcc", "-O2", "-fno-schedule-insns2", "-c", "f.c"], cwd=tmp_path, check=True)
    elf = ElfFile(tmp_path / "f.o")
    code = elf.section_data(".text")
    assert code is not None
    text = subprocess.run(
        ["objdump", "-d", "f.o"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    parts = re.split(r"^([0-9a-f]{16}) <(\w+)>:\n", text, flags=re.M)[1:]
    seen = 0
    for start, _name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        lead = re.match(r"(?:.*\t(?:endbr64|push +%\w+) *\n)*", body)
        told = [DWARF[name] for name in re.findall(r"push +%(\w+)", lead[0] if lead else "")]
        ours = pushed_registers(bytes(code)[int(start, 16) :])
        assert ours[: len(told)] == told
        seen += len(told)
        for at in re.findall(r"^ +([0-9a-f]+):\te8 ", body, re.M):
            after = int(at, 16) + 5
            assert call_target(Code(bytes(code)), after) == after  # not linked yet: the distance is 0
    assert seen >= 6


# -- where the kernel lies


@pytest.fixture(params=tuple(kernels.SUITES))
def dumps(request: pytest.FixtureRequest) -> lab.Dumps:
    """QEMU's dump of a kernel."""
    if not lab.cached(request.param) and not os.environ.get("KCRASH_LAB"):
        pytest.skip(f"no dumps of {request.param} yet: python -m tests.lab makes them, or set KCRASH_LAB=1")
    return lab.dumps(request.param, names=["qemu-elf"])


def facts(layout: KernelLayout) -> tuple[object, ...]:
    return layout.kaslr, layout.phys_base, len(layout.paging.levels), layout.top_table, dict(layout.constants)


@pytest.mark.lab
def test_registers_tell_what_vmcoreinfo_does(dumps: lab.Dumps, monkeypatch: pytest.MonkeyPatch) -> None:
    """KASLR, phys_base, paging, the direct map: from CR3 and IDT of QEMU's notes as from VMCOREINFO."""
    session = open_session([str(dumps.vmlinux), str(dumps.forms["qemu-elf"])])
    told = facts(session.layout)
    monkeypatch.setattr(session.dump.info, "vmcoreinfo", None)
    assert facts(locate(session.dump, session.vmlinux).layout) == told
    session.close()
