"""A real process: it writes its own stack and registers, and what glibc's backtrace() makes of them.

Crosses a signal handler (whose trampoline is described by expressions), a frame
realigned by the compiler, one with a variable-length array, and hand-written code
whose CFA is an expression.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from kcrash.errors import FaultReason, MemoryFault
from kcrash.symbols.elffile import ElfFile
from kcrash.unwind import CfiTable, CodeMap, Registers, Tables, Unwinder
from tests.unwind.support import X86, need, run

SOURCE = r"""
#define _GNU_SOURCE
#include <execinfo.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

static char *top;
static FILE *out;

__attribute__((noinline)) static void report(void)
{
    void *addresses[64];
    ucontext_t here;
    char line[512];
    int count, i;
    FILE *maps;

    getcontext(&here);
    count = backtrace(addresses, 64);
    fprintf(out, "{\"backtrace\": [");
    for (i = 0; i < count; i++)
        fprintf(out, "%s%lu", i ? ", " : "", (unsigned long)addresses[i]);
    fprintf(out, "], \"registers\": [");
    for (i = 0; i < NGREG; i++)
        fprintf(out, "%s%llu", i ? ", " : "", (unsigned long long)here.uc_mcontext.gregs[i]);
    fprintf(out, "], \"maps\": [");
    maps = fopen("/proc/self/maps", "r");
    for (i = 0; fgets(line, sizeof line, maps); i++) {
        line[strcspn(line, "\n")] = 0;
        fprintf(out, "%s\"%s\"", i ? ", " : "", line);
    }
    fprintf(out, "], \"base\": %lu}\n", (unsigned long)here.uc_mcontext.gregs[REG_RSP]);
    fwrite((void *)here.uc_mcontext.gregs[REG_RSP], top - (char *)here.uc_mcontext.gregs[REG_RSP], 1, out);
    fclose(out);
    exit(0);
}

static void handler(int sig) { report(); }

void odd(void (*)(void));
asm(".globl odd\n"
    "odd: .cfi_startproc\n"
    "push %rbp\n .cfi_adjust_cfa_offset 8\n .cfi_rel_offset rbp, 0\n"
    "mov %rsp, %rbp\n"
    "sub $64, %rsp\n and $-64, %rsp\n"
    "mov %rbp, 8(%rsp)\n"
    ".cfi_escape 0x0f, 5, 0x77, 8, 0x06, 0x23, 16\n"    /* CFA = *(rsp + 8) + 16 */
    ".cfi_escape 0x10, 6, 2, 0x40, 0x1c\n"              /* rbp at CFA - 16 */
    "call *%rdi\n"
    "mov %rbp, %rsp\n pop %rbp\n .cfi_def_cfa rsp, 8\n .cfi_restore rbp\n"
    "ret\n .cfi_endproc");

static void crash(void) { raise(SIGUSR1); abort(); }
__attribute__((noinline)) static void grow(int n)
{ volatile char area[n]; area[0] = 1; odd(crash); area[1] = 2; }
__attribute__((noinline)) static void aligned(int n)
{ volatile char area[64] __attribute__((aligned(64))); area[0] = n; grow(n + area[0]); area[1] = 2; }
static int compare(const void *a, const void *b) { aligned(100); return 0; }

int main(int argc, char **argv)
{
    int numbers[] = {2, 1};

    top = (char *)__builtin_frame_address(0) + 64;
    out = fopen(argv[1], "w");
    backtrace((void *[1]){0}, 1);
    signal(SIGUSR1, handler);
    qsort(numbers, 2, sizeof(int), compare);
    return 0;
}
"""

# REG_* of <sys/ucontext.h> to DWARF.
GREGS = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, 16]


class Stack:
    def __init__(self, base: int, data: bytes) -> None:
        self.base, self.data = base, data

    def read(self, address: int, size: int) -> bytes:
        if not self.base <= address <= self.base + len(self.data) - size:
            raise MemoryFault("user", address, FaultReason.NOT_MAPPED)
        return self.data[address - self.base : address - self.base + size]


@pytest.fixture(params=["-fomit-frame-pointer", "-fno-omit-frame-pointer"])
def process(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, Any], Stack]:
    need("gcc")
    if platform.machine() != "x86_64":
        pytest.skip("the program is written for x86_64")
    source, program, output = (tmp_path / name for name in ("a.c", "a", "out"))
    source.write_text(SOURCE)
    run("gcc", "-O2", "-w", request.param, "-o", program, source)
    run(program, output)
    line, _newline, stack = output.read_bytes().partition(b"\n")
    facts = json.loads(line)
    return facts, Stack(facts["base"], stack)


def code_of(maps: list[str]) -> CodeMap:
    found = CodeMap()
    first: dict[str, int] = {}
    for line in maps:
        where, access, _offset, _device, _inode, *name = line.split()
        if not name or not name[0].startswith("/"):
            continue
        start, end = (int(part, 16) for part in where.split("-"))
        base = first.setdefault(name[0], start)
        if "x" in access:
            found.add(start, end, Tables(table_of(name[0], base)))
    return found


def table_of(path: str, base: int) -> CfiTable:
    elf = ElfFile(path)
    data = elf.section_data(".eh_frame")
    assert data is not None
    return CfiTable(data, X86, eh=True, bias=base, address=elf.sections[".eh_frame"].addr, file=path)


def test_the_whole_stack_of_a_process(process: tuple[dict[str, Any], Stack]) -> None:
    facts, stack = process
    registers = Registers(dict(zip(GREGS, facts["registers"], strict=False)))
    frames = list(Unwinder(X86, code_of(facts["maps"]), stack).unwind(registers))
    # The first is getcontext()'s place in report(), backtrace()'s a little further on.
    theirs = facts["backtrace"]
    ours = [frame.pc for frame in frames]
    through_main = theirs[1 : theirs.index(ours[-1]) + 1] if ours[-1] in theirs else theirs[1:]
    assert ours[1 : len(through_main) + 1] == through_main and len(through_main) >= 10
    assert sum(frame.interrupted for frame in frames[1:]) == 1, "one frame was interrupted by the signal"
    stacks = [frame.registers[7] for frame in frames]
    assert stacks == sorted(stacks)
