"""Parameters and locals against gdb: a program that died, its frames as gdb has them, its memory
out of its core."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kcrash.arch import find_arch
from kcrash.errors import FaultReason, MemoryFault
from kcrash.linux.locals import FunctionFrame, frame_functions
from kcrash.session import Session
from kcrash.symbols.elffile import ElfFile
from kcrash.types.dwarf import DwarfSource
from kcrash.unwind import Target, target_for
from kcrash.unwind.registers import Registers
from kcrash.unwind.unwinder import Frame
from tests.types import dwarf_samples as samples

SOURCE = r"""
#include <stdlib.h>
struct pair { long left; short right; };
struct bits { unsigned low : 3; int high : 13; };
static volatile long sink;
static int fixed = 41;
__attribute__((noipa)) void die_here(long code, const char *text) { sink = code; if (text[0]) abort(); }
__attribute__((noinline, noclone)) long lost(long first, int second, struct pair by_value, signed char small)
{
    die_here(1, "x");             /* first and second are in no register any more */
    return sink + by_value.left;
}
static inline __attribute__((always_inline)) long inlined(long of, unsigned char byte)
{
    long twice = of * 2;
    unsigned short narrow = byte + 300;
    struct pair both = { twice, 7 };
    sink = twice;
    return lost(twice + 1, narrow, both, -5) + twice + narrow;
}
__attribute__((noinline, noclone)) long middle(long value, int *array, double real)
{
    static long counter = 12;
    const int unchanging = 77;
    struct bits field = { 5, -100 };
    long result = 0;
    for (int at = 0; at < 3; at++) {
        long scaled = array[at] * value;
        if (at == 2)
            result += inlined(scaled, field.low) + unchanging + counter++;
        result += scaled;
    }
    return result + field.high + fixed + (long)real;
}
__attribute__((noipa)) long tail(long of) { return middle(of + 1, (int[]){ 4, 5, 6 }, 1.5) + of; }
int main(int count, char **words) { (void)words; return (int)tail(count + 20); }
"""

SCRIPT = r"""
import gdb, json
def number(value):
    code = value.type.strip_typedefs().code
    if code in (gdb.TYPE_CODE_INT, gdb.TYPE_CODE_PTR, gdb.TYPE_CODE_CHAR):
        return int(value)
    if code == gdb.TYPE_CODE_STRUCT:
        return {field.name: number(value[field]) for field in value.type.fields()}
    if code == gdb.TYPE_CODE_ARRAY:
        low, high = value.type.range()
        return [number(value[at]) for at in range(low, high + 1)]
    return float(value)
rows = []
frame = gdb.newest_frame()
while frame:
    names = {}
    block = frame.block() if frame.function() else None
    while block is not None and not block.is_static and not block.is_global:
        for symbol in block:
            if (symbol.is_variable or symbol.is_argument or symbol.is_constant) and symbol.name not in names:
                try:
                    names[symbol.name] = number(symbol.value(frame))
                except (gdb.error, ValueError) as error:
                    names[symbol.name] = None
        if block.function is not None:
            break
        block = block.superblock
    registers = {}
    for at, name in enumerate("rax rdx rcx rbx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip".split()):
        value = frame.read_register(name)
        if not value.is_optimized_out:
            registers[at] = int(value) & 0xFFFFFFFFFFFFFFFF
    kind = frame.type() == gdb.INLINE_FRAME
    rows.append([frame.pc(), frame.name(), kind, registers, names])
    frame = frame.older()
print("ROWS" + json.dumps(rows))
"""


class CoreMemory:
    """The memory of a core file, and of the program where the core has left it out."""

    def __init__(self, *files: ElfFile) -> None:
        self.loads = [load for file in files for load in _loads(file)]

    def read(self, address: int, size: int) -> bytes:
        for start, data in self.loads:
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise MemoryFault("core", address, FaultReason.NOT_MAPPED)


def _loads(elf: ElfFile) -> list[tuple[int, bytes]]:
    offset, size, count = (struct.unpack_from("<Q", elf.mm, 32)[0], *struct.unpack_from("<HH", elf.mm, 54))
    rows = [struct.unpack_from("<IIQQQQQQ", elf.mm, offset + at * size) for at in range(count)]
    return [(row[3], elf.mm[row[2] : row[2] + row[5]]) for row in rows if row[0] == 1]


class Dead:
    """As much of a Session as variables need."""

    def __init__(self, program: Path, core: Path) -> None:
        self.memory = CoreMemory(ElfFile(core), ElfFile(program))
        self.dwarf = DwarfSource(program)
        self.arch = find_arch(62, "little", 64)
        self.types = SimpleNamespace(byte_order="little", pointer_size=8)
        self.text = self.dwarf.elf.sections[".text"]

    def dwarf_at(self, address: int) -> tuple[DwarfSource, int] | None:
        inside = self.text.addr <= address < self.text.addr + self.text.size
        return (self.dwarf, 0) if inside else None

    def reading(self, key: object, make: object) -> Target:
        return target_for(self.arch)

    memo = reading


@pytest.fixture(scope="module", params=["-gdwarf-4", "-gdwarf-5"])
def died(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dead, list[Any]]:
    """The dead program, and gdb's frames of it."""
    folder = tmp_path_factory.mktemp("died")
    (folder / "died.c").write_text(SOURCE)
    (folder / "script.py").write_text(SCRIPT)
    program, core = folder / "died", folder / "core"
    flags = ["-O2", request.param, "-no-pie", "-fno-pie", "-static", "-w", "-Wl,--build-id"]
    samples.run(["gcc", *flags, str(folder / "died.c"), "-o", str(program)])
    orders = ["set print entry-values no", "run", f"generate-core-file {core}", "frame function die_here",
              f"source {folder / 'script.py'}"]  # fmt: skip
    words = [word for order in orders for word in ("-ex", order)]
    command = [samples.need("gdb"), "-nx", "-batch", *words, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("ROWS")]
    if not found:
        pytest.skip(f"SKIPPED: gdb cannot run a program here: {done.stderr[-300:]}")
    return Dead(program, core), json.loads(found[0][4:])


def frames_of(rows: list[Any]) -> list[Frame]:
    """gdb's real frames as an Unwinder's; a CFA is the caller's stack pointer."""
    real = [row for row in rows if not row[2]]
    made = []
    for level, row in enumerate(real):
        registers = Registers({int(number): value for number, value in row[3].items()})
        cfa = real[level + 1][3].get("7") if level + 1 < len(real) else None
        made.append(Frame(level, registers[16], cfa, registers, "cfi", False, None, ""))
    return made


def test_variables_are_those_of_gdb(died: tuple[Dead, list[Any]]) -> None:
    dead, rows = died
    start = next(at for at, row in enumerate(rows) if row[1] == "die_here")
    last = next(at for at, row in enumerate(rows) if row[1] == "main")
    rows = rows[start:]
    frames = frames_of(rows)
    functions: list[FunctionFrame] = []
    session = cast(Session, dead)
    for index in range(len([row for row in rows[: last - start + 1] if not row[2]])):
        functions += frame_functions(session, frames, index)
    assert [f.function for f in functions] == ["die_here", "lost", "inlined", "middle", "tail", "main"]
    known = absent = 0
    for function, row in zip(functions, rows, strict=False):
        assert [function.function, function.inlined] == row[1:3]
        mine = {local.name: local for local in function.variables}
        assert set(mine) == set(row[4]), function.function
        for name, value in row[4].items():
            local = mine[name]
            assert (local.value is None) == (value is None), (function.function, name, local.why)
            if local.value is None:
                assert local.why
                absent += 1
            else:
                assert local.value.value_() == value, (function.function, name)
                known += 1
    assert known >= 15 and absent >= 1
    lost = {local.name: local for local in functions[1].variables}
    assert lost["first"].value is not None and lost["small"].value is not None, "what the call handed over"
