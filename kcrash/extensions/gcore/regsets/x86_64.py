"""x86_64: struct user_regs_struct and what follows it (arch/x86/kernel/ptrace.c)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kcrash.arch.x86_64 import FAST_PATHS, PRSTATUS
from kcrash.errors import KcrashError
from kcrash.extensions.gcore.regsets import x86_xstate
from kcrash.extensions.gcore.regsets.base import (
    Note,
    Port,
    Regset,
    UserRegisters,
    register_port,
)
from kcrash.linux.mm import Vma, read_vma

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Process, Thread
    from kcrash.session import Session

EM_X86_64 = 62
NT_PRFPREG, NT_386_IOPERM, NT_X86_XSTATE, NT_X86_SHSTK, NT_X86_XSAVE_LAYOUT = 2, 0x201, 0x202, 0x204, 0x205
NO_CALL = (1 << 64) - 1  # orig_rax of one who was not in a system call
TIF_FORCED_TF, X86_EFLAGS_TF = 24, 0x100
QEMU_SEGMENTS, QEMU_KERNEL_GS = 152, 432
SEGMENT_NAMES = ("cs", "ds", "es", "fs", "gs", "ss")
# thread.fs, thread.gs held the bases before Linux commit 296f781a4b78 ("x86/asm/64: Rename thread_struct's
# fs and gs to fsbase and gsbase") in v4.7.
BASES = {"fs_base": ("fsbase", "fs"), "gs_base": ("gsbase", "gs")}
SELECTORS = {"ds": "ds", "es": "es", "fs": "fsindex", "gs": "gsindex"}
CALLEE_SAVED = ("rbx", "rbp", "r12", "r13", "r14", "r15")


# -- general registers


def registers(thread: Thread) -> UserRegisters:
    """The words of user_regs_struct (getreg()): the frame's, and segments and bases of thread_struct."""
    found = thread.entry_registers()
    values = dict(found.values)
    if thread.stopped_in_user:
        values.update(_of_cpu(thread, values))
    else:
        values.update(_of_thread(thread))
        values.update(_kernel_mode_bases(thread))
    if thread.thread_flag(TIF_FORCED_TF):
        values["rflags"] &= ~X86_EFLAGS_TF
    return found._replace(values=values)


def _of_thread(thread: Thread) -> dict[str, int]:
    """Segments and bases as the last switch away from the thread, or arch_prctl(), left them."""
    session, found = thread.session, {}
    types, name = session.types, "struct task_struct"
    for register, members in BASES.items():
        member = types.first_member(name, [f"thread.{m}" for m in members])
        if member is not None:
            found[register] = session.memory.word(thread.task.address + types.offset(name, member))
    for register, member in SELECTORS.items():
        path = f"thread.{member}"
        if types.has(name, path):
            found[register] = session.memory.u16(thread.task.address + types.offset(name, path))
    for register in ("fs", "gs"):
        if not found.get(f"{register}_base") and found.get(register):
            found[f"{register}_base"] = _descriptor_base(thread, found[register])
    return found


def _descriptor_base(thread: Thread, selector: int) -> int:
    """The base of a segment in thread.tls_array, for those that set_thread_area() made."""
    index = (selector >> 3) - 12  # GDT_ENTRY_TLS_MIN
    types, name = thread.session.types, "struct task_struct"
    if selector & 4 or not 0 <= index < 3 or not types.has(name, "thread.tls_array"):
        return 0
    address = thread.task.address + types.offset(name, "thread.tls_array") + 8 * index
    low, high = thread.session.memory.u32(address), thread.session.memory.u32(address + 4)
    return low >> 16 | (high & 0xFF) << 16 | high & 0xFF000000


def _of_cpu(thread: Thread, values: dict[str, int]) -> dict[str, int]:
    """A CPU that was stopped in user mode: its note has all; QEMU's has no orig_rax, but a zero."""
    qemu = qemu_note(thread)
    if qemu is None:
        return {}
    found = {"orig_rax": NO_CALL}
    for number, name in enumerate(SEGMENT_NAMES):
        selector, base = struct.unpack_from("<I12xQ", qemu, QEMU_SEGMENTS + 24 * number)
        found[name] = selector
        if name in ("fs", "gs"):
            found[f"{name}_base"] = base
    return found


def _kernel_mode_bases(thread: Thread) -> dict[str, int]:
    """What the CPU had of a thread that was on it, in the kernel: newer than thread_struct with FSGSBASE.

    crash_save_cpu()'s note has the inactive gs base (x86_gsbase_read_cpu_inactive()), QEMU's has both.
    """
    qemu, note = qemu_note(thread), thread.cpu_note
    if qemu is not None:
        (fs_base,) = struct.unpack_from("<Q", qemu, QEMU_SEGMENTS + 24 * 3 + 16)
        (gs_base,) = struct.unpack_from("<Q", qemu, QEMU_KERNEL_GS)
        return {"fs_base": fs_base, "gs_base": gs_base}
    if note is None or not note.registers.get("fs_base"):
        return {}
    return {name: note.registers[name] for name in ("fs_base", "gs_base") if name in note.registers}


def qemu_note(thread: Thread) -> bytes | None:
    """QEMU's struct QEMUCPUState of the CPU (target/i386/arch_dump.c)."""
    if thread.cpu is None:
        return None
    notes = [note.data for note in thread.session.dump.info.notes if note.name == "QEMU"]
    found = notes[thread.cpu] if thread.cpu < len(notes) else b""
    return found if len(found) >= QEMU_KERNEL_GS + 8 else None


# -- kernels whose fast system calls save half of pt_regs


def partial_registers(thread: Thread) -> UserRegisters:
    """As registers(); the callee-saved ones come from unwinding the kernel stack.

    Before Linux commit 21d375b6b34f ("x86/entry/64: Remove the SYSCALL64 fast path") in v4.16 a system
    call left their places in pt_regs as they were, unless it went the slow way.
    """
    found = registers(thread)
    if thread.stopped_in_user or found.values.get("orig_rax", NO_CALL) == NO_CALL:
        return found
    values, missing = dict(found.values), []
    recovered = thread.unwound_registers()
    for name in CALLEE_SAVED:
        value = recovered.get(name)
        if value is None:
            missing.append(name)
        values[name] = value or 0
    return UserRegisters(values, f"{found.origin}, callee-saved ones by unwinding", tuple(missing))


def has_fast_path(session: Session) -> bool:
    """True if system calls may save part of pt_regs only."""
    return any(session.symbols.find_kernel(name) is not None for name in FAST_PATHS)


# -- the mapping above user space


def gate_vma(process: Process) -> Vma | None:
    """The vsyscall page (get_gate_vma(), arch/x86/entry/vsyscall/vsyscall_64.c)."""
    session = process.session
    mode, gate = session.symbols.find_kernel("vsyscall_mode"), session.symbols.find_kernel("gate_vma")
    if mode is None or gate is None or session.memory.u32(mode) == 2 or not _may_vsyscall(process):
        return None
    found = read_vma(session, gate)
    return found if found.start < found.end else None


def _may_vsyscall(process: Process) -> bool:
    """MM_CONTEXT_HAS_VSYSCALL in mm->context.flags, since v5.11; before, all but 32-bit programs
    (mm->context.ia32_compat)."""
    session, name = process.session, "struct mm_struct"
    if session.types.has(name, "context.ia32_compat"):
        offset = session.types.offset(name, "context.ia32_compat")
        return not session.memory.u16(process.mm.address + offset)
    if not session.types.has(name, "context.flags"):
        return True
    offset = session.types.offset(name, "context.flags")
    return bool(session.memory.u16(process.mm.address + offset) & 2)


# -- the ports


def is_compat(process: Process) -> bool:
    """True for 32-bit programs on a 64-bit kernel, by the loader that started them."""
    compat = process.session.symbols.find_kernel("compat_elf_format")
    return compat is not None and process.mm.binfmt == compat


def extra_notes(session: Session) -> list[Note]:
    """What the kernel writes behind all threads."""
    try:
        data = x86_xstate.xsave_layout_note(session)
    except KcrashError:
        return []
    return [] if data is None else [Note("LINUX", NT_X86_XSAVE_LAYOUT, data)]


REGSETS = (
    Regset("FP", "CORE", NT_PRFPREG, x86_xstate.fpregs),
    Regset("XSTATE", "LINUX", NT_X86_XSTATE, x86_xstate.xstate),
    Regset("IOPERM", "LINUX", NT_386_IOPERM, x86_xstate.io_permissions),
    Regset("SHSTK", "LINUX", NT_X86_SHSTK, x86_xstate.shadow_stack),
)

register_port(
    Port(
        arch="x86_64",
        kernels="v4.16 and later",
        machine=EM_X86_64,
        word_bytes=8,
        prstatus=PRSTATUS,
        accepts=lambda process: _is_ours(process) and not has_fast_path(process.session),
        registers=registers,
        regsets=REGSETS,
        extra_notes=extra_notes,
        gate_vma=gate_vma,
    )
)

register_port(
    Port(
        arch="x86_64",
        kernels="before v4.16",
        machine=EM_X86_64,
        word_bytes=8,
        prstatus=PRSTATUS,
        accepts=lambda process: _is_ours(process) and has_fast_path(process.session),
        registers=partial_registers,
        regsets=REGSETS,
        gate_vma=gate_vma,
    )
)


def _is_ours(process: Process) -> bool:
    return process.session.arch.name == "x86_64" and not is_compat(process)
