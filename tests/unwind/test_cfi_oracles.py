"""Every row of real tables against readelf, and rows of other machines against pyelftools."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile

from kcrash.symbols.elffile import ElfFile
from kcrash.types.dwarf.relocate import relocated
from kcrash.unwind import CfiTable, FrameLayout, Target
from kcrash.unwind.cfi import Fde
from kcrash.unwind.rules import Kind, Rule, same_value
from tests.unwind import readelf
from tests.unwind.support import X86, need, run, vmlinuxes

LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")

SOURCE = """
extern void *leaf(void *, int); int many(int, int, int, int, int, int, int, int);
void *grow(int n) { char area[n]; return leaf(area, n); }
int deep(int a, int b, int c)
{ int x = many(a, b, c, a, b, c, a, b); return x + many(c, b, a, x, x, x, x, x) * a; }
int loop(int n)
{ int i, s = 0; for (i = 0; i < n; i++) { if (i & 1) s += deep(i, s, n); else leaf(&s, i); } return s; }
long plain(long a) { return a + 1; }
"""


def compare(table: CfiTable, path: Path, eh: bool) -> int:
    """The number of rows that were equal; the first that is not fails the test."""
    count = 0
    for offset, start, end, rows in readelf.read(path, eh):
        fde = table.fde(offset)
        assert (fde.start, fde.start + fde.size) == (start, end)
        ours = dict(table.rows(fde))
        for address, theirs in rows.items():
            expected = {column: "u" if rule == "s" else rule for column, rule in theirs.items()}
            assert readelf.render(ours[address], list(theirs)) == expected, f"{address:x}"
            count += 1
        assert not rows or set(rows) == set(ours)
    return count


def test_eh_frame_of_a_shared_library() -> None:
    need("readelf")
    if not LIBC.exists():
        pytest.skip("no libc for this machine")
    elf = ElfFile(LIBC)
    data = elf.section_data(".eh_frame")
    assert data is not None
    table = CfiTable(data, X86, eh=True, address=elf.sections[".eh_frame"].addr, file=str(LIBC))
    assert compare(table, LIBC, True) > 10_000
    signal = [o for o in table.index[1] if table.fde(o).cie.signal]
    assert signal, "glibc marks its signal trampoline"
    assert all(row.interrupted for _at, row in table.rows(table.fde(signal[0])))


@pytest.mark.parametrize("version", ["5.10", "6.1", "6.12", "7.2"])
def test_debug_frame_of_kernels(version: str, tmp_path: Path) -> None:
    need("readelf", "objcopy")
    vmlinux = dict(vmlinuxes()).get(version)
    if vmlinux is None:
        pytest.skip("the lab has no such kernel at hand")
    small = tmp_path / "frames.o"  # readelf would apply 255 MB of relocations that are applied already
    run("objcopy", "--only-section=.debug_frame", "--remove-section=.rela*", vmlinux, small)
    data = ElfFile(vmlinux).section_data(".debug_frame")
    assert data is not None
    assert compare(CfiTable(data, X86), small, False) > 100_000


# -- other machines: numbers, sizes and byte orders

MACHINES = {
    "aarch64-linux-gnu": (8, "little", 32, 31, 29, 30),
    "powerpc64-linux-gnu": (8, "big", 66, 1, 31, 65),
    "powerpc-linux-gnu": (4, "big", 66, 1, 31, 65),
    "s390x-linux-gnu": (8, "big", 65, 15, 11, 14),
    "mips-linux-gnu": (4, "big", 66, 29, 30, 31),
    "riscv64-linux-gnu": (8, "little", 66, 2, 8, 1),
    "armv7-linux-gnueabi": (4, "little", 15, 13, 11, 14),
    "i386-linux-gnu": (4, "little", 8, 4, 5, 8),
}


def _target(name: str) -> Target:
    words, order, pc, sp, fp, column = MACHINES[name]
    return Target(
        name=name,
        word_bytes=words,
        byte_order=order,
        pc=pc,
        sp=sp,
        fp=fp,
        return_column=column,
        callee_saved=frozenset(),
        frame=FrameLayout(0, words, None),
    )


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("section", [".debug_frame", ".eh_frame"])
def test_other_machines(machine: str, section: str, tmp_path: Path) -> None:
    need("clang")
    source, target = tmp_path / "a.c", tmp_path / "a.o"
    source.write_text(SOURCE)
    options = [
        "-fasynchronous-unwind-tables" if section == ".eh_frame" else "-fno-asynchronous-unwind-tables"
    ]
    if section == ".debug_frame":
        options += ["-g", "-fno-unwind-tables", "-fno-exceptions"]
    try:
        run("clang", f"--target={machine}", "-O2", "-c", *options, "-o", target, source)
    except Exception:
        pytest.skip("this clang has no such machine")
    elf = ElfFile(target)
    data = elf.section_data(section)
    if data is None:
        pytest.skip("no such section for this machine")
    theirs = _pyelftools(target, section)
    assert theirs
    if not _relocatable(elf, section):
        pytest.skip("relocations of another kind")
    view = relocated(elf, section, data, {})
    table = CfiTable(
        view, _target(machine), eh=section == ".eh_frame", relocate=lambda offset, raw: raw + 0x1000
    )
    for entry in theirs:
        _same_rows(table, table.fde(entry.offset), entry)


def _relocatable(elf: ElfFile, section: str) -> bool:
    """Addresses of .eh_frame are differences that only a linker makes; pyelftools leaves them alone too."""
    return section == ".debug_frame" or elf.machine != 243


def _pyelftools(path: Path, section: str) -> list[FDE]:
    with path.open("rb") as file:
        info = ELFFile(file).get_dwarf_info(relocate_dwarf_sections=False)
        entries = info.CFI_entries() if section == ".debug_frame" else info.EH_CFI_entries()
        entries = [entry for entry in entries if isinstance(entry, FDE)]
        for entry in entries:
            entry.get_decoded()
        return entries


def _same_rows(table: CfiTable, fde: Fde, entry: Any) -> None:
    base = entry.header["initial_location"]
    theirs = {line["pc"] - base: line for line in entry.get_decoded().table}
    ours = {address - fde.start: row for address, row in table.rows(fde)}
    for at, line in theirs.items():
        row = ours[at]
        rules = dict(row.rules)
        assert row.cfa is not None
        if line["cfa"].expr is None:
            assert row.cfa == Rule(Kind.REGISTER, line["cfa"].reg, line["cfa"].offset)
        else:
            assert row.cfa == Rule(Kind.VALUE, expression=bytes(line["cfa"].expr))
        for number, rule in line.items():
            if isinstance(number, int):
                assert rules.get(number) == _rule(rule, number), (at, number)


def _rule(rule: Any, number: int) -> Rule | None:
    made: dict[str, Callable[[], Rule | None]] = {
        "UNDEFINED": lambda: None,
        "SAME_VALUE": lambda: same_value(number),
        "OFFSET": lambda: Rule(Kind.SAVED, offset=rule.arg),
        "VAL_OFFSET": lambda: Rule(Kind.CFA, offset=rule.arg),
        "REGISTER": lambda: Rule(Kind.REGISTER, rule.arg),
        "EXPRESSION": lambda: Rule(Kind.EXPRESSION, expression=bytes(rule.arg)),
        "VAL_EXPRESSION": lambda: Rule(Kind.VALUE, expression=bytes(rule.arg)),
    }
    return made[rule.type]()


def test_sampled_kernel_entries_against_pyelftools() -> None:
    found = list(vmlinuxes())
    if not found:
        pytest.skip("the lab has no kernel at hand")
    elf = ElfFile(found[0][1])
    data = elf.section_data(".debug_frame")
    assert data is not None
    table = CfiTable(data, X86)
    # Its decoder reads all entries of a section: give it one with a few hundred.
    offsets = sorted(table.index[1])
    start = random.Random(1).choice([o for o in offsets if o < len(data) - 100_000])
    _compare_piece(table, bytes(data), start)


def _compare_piece(table: CfiTable, data: bytes, start: int) -> None:
    import io

    from elftools.dwarf.callframe import CallFrameInfo
    from elftools.dwarf.structs import DWARFStructs

    structs = DWARFStructs(little_endian=True, dwarf_format=32, address_size=8)
    info = CallFrameInfo(io.BytesIO(data), len(data), 0, structs)
    offsets = [offset for offset in sorted(table.index[1]) if offset >= start][:400]
    for offset in offsets:
        _same_rows(table, table.fde(offset), info._parse_entry_at(offset))
