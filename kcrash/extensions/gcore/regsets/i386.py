"""32-bit x86 programs, on a 64-bit kernel and on one of 32 bits: struct user_regs_struct32 and what follows
it (user_x86_32_view, arch/x86/kernel/ptrace.c)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from kcrash.arch import i386
from kcrash.arch.base import Prstatus
from kcrash.errors import KcrashError
from kcrash.extensions.gcore.regsets import x86_xstate
from kcrash.extensions.gcore.regsets.base import Port, Regset, UserRegisters, register_port
from kcrash.extensions.gcore.regsets.x86_64 import (
    NT_386_IOPERM,
    NT_PRFPREG,
    NT_X86_XSTATE,
    TIF_FORCED_TF,
    X86_EFLAGS_TF,
    extra_notes,
    is_compat,
    qemu_note,
    registers,
)

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Process, Thread

EM_386 = 3
USER32_CS = 0x23
NT_386_TLS, NT_PRXFPREG = 0x200, 0x46E62B7F
TLS_ENTRIES, TLS_MIN = 3, {8: 12, 4: 6}  # GDT_ENTRY_TLS_ENTRIES; GDT_ENTRY_TLS_MIN by the kernel's word
NO_CALL = 0xFFFFFFFF  # orig_eax of one who was not in a system call

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
    """NT_PRFPREG of a 64-bit kernel, whose FXSAVE area has no segments: the thread's stand for them."""
    values = registers(thread).values

    def pointers(area: bytes) -> tuple[int, int, int, int]:
        ip, dp = struct.unpack_from("<QQ", area, 8)
        return ip & 0xFFFFFFFF, values.get("cs", 0), dp & 0xFFFFFFFF, values.get("ds", 0) | 0xFFFF0000

    return _i387(thread, pointers)


def native_i387(thread: Thread) -> bytes | None:
    """NT_PRFPREG of a 32-bit kernel (fpregs_get())."""

    def pointers(area: bytes) -> tuple[int, int, int, int]:
        opcode, ip, code, dp, data = struct.unpack_from("<HIIII", area, 6)
        return ip, code & 0xFFFF | opcode << 16, dp, data

    return _i387(thread, pointers)


def _i387(thread: Thread, pointers: Callable[[bytes], tuple[int, int, int, int]]) -> bytes | None:
    """struct user_i387_ia32_struct out of the FXSAVE area (convert_from_fxsr())."""
    area = x86_xstate.fpregs(thread)
    if area is None:
        return None
    control, status, tags = struct.unpack_from("<HHB", area)
    words = control | 0xFFFF0000, status | 0xFFFF0000, full_tags(tags, status, area), *pointers(area)
    return struct.pack("<7I", *words) + b"".join(area[32 + 16 * n : 42 + 16 * n] for n in range(8))


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
    first = TLS_MIN[thread.session.arch.word_bytes]
    return b"".join(user_desc(first + number, entry) for number, entry in enumerate(entries))


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


REGSETS = (
    Regset("XFP", "LINUX", NT_PRXFPREG, x86_xstate.fpregs),
    Regset("XSTATE", "LINUX", NT_X86_XSTATE, x86_xstate.xstate),
    Regset("TLS", "LINUX", NT_386_TLS, tls),
    Regset("IOPERM", "LINUX", NT_386_IOPERM, x86_xstate.io_permissions),
)

register_port(
    Port(
        arch="i386",
        kernels="on x86_64 kernels",
        machine=EM_386,
        word_bytes=4,
        prstatus=PRSTATUS,
        accepts=accepts,
        registers=general,
        regsets=(Regset("FP", "CORE", NT_PRFPREG, i387), *REGSETS),
        extra_notes=extra_notes,
    )
)


# -- on kernels of 32 bits


def native_registers(thread: Thread) -> UserRegisters:
    """The words of user_regs_struct (getreg()): the frame's, and gs, which the kernel does not use itself."""
    found = thread.entry_registers()
    values = dict(found.values)
    if thread.stopped_in_user:
        if qemu_note(thread) is not None:  # it has a zero there
            values["orig_eax"] = NO_CALL
    else:
        values.update(_gs(thread))
    if thread.thread_flag(TIF_FORCED_TF):
        values["eflags"] &= ~X86_EFLAGS_TF
    return found._replace(values=values)


def _gs(thread: Thread) -> dict[str, int]:
    """Of a CPU; else as the last switch left it in thread_struct, which kernels that save it at every entry
    have too."""
    if thread.cpu_note is not None:
        return {"gs": thread.cpu_note.registers.get("gs", 0)}
    types, name, path = thread.session.types, "struct task_struct", "thread.gs"
    if not types.has(name, path):
        return {}
    return {"gs": thread.session.memory.u16(thread.task.address + types.offset(name, path))}


register_port(
    Port(
        arch="i386",
        kernels="of 32 bits",
        machine=EM_386,
        word_bytes=4,
        prstatus=i386.PRSTATUS,
        accepts=lambda process: process.session.arch.name == "i386",
        registers=native_registers,
        regsets=(Regset("FP", "CORE", NT_PRFPREG, native_i387), *REGSETS),
        extra_notes=extra_notes,
    )
)
