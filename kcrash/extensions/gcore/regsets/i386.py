"""32-bit programs on a 64-bit kernel: struct user_regs_struct32 and what follows it (user_x86_32_view)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kcrash.arch.base import Prstatus
from kcrash.errors import KcrashError
from kcrash.extensions.gcore.regsets import x86_xstate
from kcrash.extensions.gcore.regsets.base import Port, Regset, UserRegisters, register_port
from kcrash.extensions.gcore.regsets.x86_64 import (
    NT_386_IOPERM,
    NT_PRFPREG,
    NT_X86_XSTATE,
    extra_notes,
    is_compat,
    registers,
)

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Process, Thread

EM_386 = 3
USER32_CS = 0x23
NT_386_TLS, NT_PRXFPREG = 0x200, 0x46E62B7F
TLS_ENTRIES, TLS_MIN = 3, 12  # GDT_ENTRY_TLS_ENTRIES, GDT_ENTRY_TLS_MIN of 64-bit kernels

# struct compat_elf_prstatus (include/linux/elfcore-compat.h) with user_regs_struct32, by the names of x86_64.
PRSTATUS = Prstatus(
    size=144, signal=12, pid=24, times=40, regs=72, fpvalid=140,
    registers=(
        "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rax", "ds", "es", "fs", "gs", "orig_rax", "rip", "cs",
        "rflags", "rsp", "ss",
    ),
)  # fmt: skip


def general(thread: Thread) -> UserRegisters:
    """As x86_64's: the words of the note are the lower halves."""
    return registers(thread)


def i387(thread: Thread) -> bytes | None:
    """NT_PRFPREG: struct user_i387_ia32_struct out of the FXSAVE area (convert_from_fxsr())."""
    area = x86_xstate.fpregs(thread)
    if area is None:
        return None
    control, status, tags, _opcode, ip, dp = struct.unpack_from("<HHBxHQQ", area)
    values = registers(thread).values
    head = struct.pack(
        "<7I", control | 0xFFFF0000, status | 0xFFFF0000, full_tags(tags, status, area), ip & 0xFFFFFFFF,
        values.get("cs", 0), dp & 0xFFFFFFFF, values.get("ds", 0) | 0xFFFF0000,
    )  # fmt: skip
    return head + b"".join(area[32 + 16 * n : 42 + 16 * n] for n in range(8))


def full_tags(tags: int, status: int, area: bytes) -> int:
    """Two bits a register out of FXSAVE's one: valid 0, zero 1, special 2, empty 3 (twd_fxsr_to_i387())."""
    found, top = 0xFFFF0000, status >> 11 & 7
    for number in range(8):
        tag = 3
        if tags >> number & 1:
            mantissa, exponent = struct.unpack_from("<QH", area, 32 + 16 * ((number - top) & 7))
            tag = _tag(mantissa, exponent & 0x7FFF)
        found |= tag << 2 * number
    return found


def _tag(mantissa: int, exponent: int) -> int:
    if exponent == 0x7FFF:
        return 2
    if not exponent:
        return 2 if mantissa else 1
    return 0 if mantissa >> 63 else 2


def tls(thread: Thread) -> bytes | None:
    """NT_386_TLS: a struct user_desc for each of the thread's segments (regset_tls_get())."""
    types, name = thread.session.types, "struct task_struct"
    if not types.has(name, "thread.tls_array"):
        return None
    address = thread.task.address + types.offset(name, "thread.tls_array")
    entries = [thread.session.memory.u64(address + 8 * number) for number in range(TLS_ENTRIES)]
    if not any(entries):
        return None
    return b"".join(user_desc(TLS_MIN + number, entry) for number, entry in enumerate(entries))


def user_desc(number: int, entry: int) -> bytes:
    """A segment descriptor (struct desc_struct) as user space writes it (struct user_desc, asm/ldt.h)."""
    base = entry >> 16 & 0xFFFFFF | entry >> 32 & 0xFF000000
    limit = entry & 0xFFFF | entry >> 32 & 0xF0000
    kind = entry >> 40 & 0xF
    bits = (
        entry >> 54 & 1  # seg_32bit
        | kind >> 2 << 1  # contents
        | (~kind >> 1 & 1) << 3  # read_exec_only
        | (entry >> 55 & 1) << 4  # limit_in_pages
        | (~entry >> 47 & 1) << 5  # seg_not_present
        | (entry >> 52 & 1) << 6  # useable
        | (entry >> 53 & 1) << 7  # lm
    )
    return struct.pack("<4I", number, base, limit, bits)


def accepts(process: Process) -> bool:
    """True for programs of 32-bit code; those of the x32 ABI, which are of 64-bit code, have no port."""
    if process.session.arch.name != "x86_64" or not is_compat(process):
        return False
    try:
        return process.threads[0].entry_registers().values.get("cs") == USER32_CS
    except KcrashError:
        return False


register_port(
    Port(
        arch="i386",
        kernels="on x86_64 kernels",
        machine=EM_386,
        word_bytes=4,
        prstatus=PRSTATUS,
        accepts=accepts,
        registers=general,
        regsets=(
            Regset("FP", "CORE", NT_PRFPREG, i387),
            Regset("XFP", "LINUX", NT_PRXFPREG, x86_xstate.fpregs),
            Regset("XSTATE", "LINUX", NT_X86_XSTATE, x86_xstate.xstate),
            Regset("TLS", "LINUX", NT_386_TLS, tls),
            Regset("IOPERM", "LINUX", NT_386_IOPERM, x86_xstate.io_permissions),
        ),
        extra_notes=extra_notes,
    )
)
