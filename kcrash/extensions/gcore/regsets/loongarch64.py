"""loongarch64: struct user_pt_regs and what follows (loongarch64_regsets, arch/loongarch/kernel/ptrace.c)."""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from kcrash.arch.loongarch64 import PRSTATUS
from kcrash.errors import MemoryFault
from kcrash.extensions.gcore.regsets.base import Port, Regset, Unavailable, UserRegisters, register_port
from kcrash.extensions.gcore.regsets.thread_state import TASK, cpu_note, member, must_be_saved
from kcrash.linux.tasks import Task, task_table, thread_flags

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Thread
    from kcrash.session import Session

EM_LOONGARCH = 258
NT_PRFPREG, NT_LOONGARCH_CPUCFG = 2, 0xA00
NT_LOONGARCH_LSX, NT_LOONGARCH_LASX, NT_LOONGARCH_LBT = 0xA02, 0xA03, 0xA04
NT_LOONGARCH_HW_BREAK, NT_LOONGARCH_HW_WATCH = 0xA05, 0xA06
REGISTERS, SCALAR, LSX, LASX = 32, 8, 16, 32  # how many there are, and bytes of one
FP_BYTES = 268  # struct user_fp_state without its padding
PF_USED_MATH = 0x2000
FIRST_COMMON = 22  # the lowest number that only the common flags have
CPU_DATA, SLOT = "struct cpuinfo_loongarch", struct.Struct("<2QI4x")


class Flags(NamedTuple):
    """Numbers of TIF_USEDFPU, TIF_LSX_CTX_LIVE and TIF_LASX_CTX_LIVE (asm/thread_info.h)."""

    used: int
    lsx: int
    lasx: int


OWN, COMMON = Flags(8, 17, 18), Flags(17, 25, 26)  # before and since asm-generic/thread_info_tif.h in v6.18


def registers(thread: Thread) -> UserRegisters:
    """struct user_pt_regs: what struct pt_regs begins with, but for the CPU's control registers."""
    return thread.entry_registers()


# -- floating point and vectors


def _vectors(thread: Thread) -> list[bytes]:
    """thread.fpu.fpr: each register as far as the kernel was built for vectors."""
    types, where = thread.session.types, "thread.fpu.fpr"
    if not types.has(TASK, where):
        raise Unavailable("this kernel's thread_struct has no floating-point state that is known")
    width = types.size("union fpureg")
    data = thread.session.memory.read(thread.task.address + types.offset(TASK, where), width * REGISTERS)
    return [data[at : at + width] for at in range(0, len(data), width)]


def _flags(thread: Thread) -> Flags:
    """No macro tells. C libraries use vectors, so that there are flags that only the common numbers have."""
    return thread.session.memo("loongarch thread flags", lambda: _find_flags(thread))


def _find_flags(thread: Thread) -> Flags:
    tasks = [task for task in task_table(thread.session).tasks if task.mm and task.stack]
    return COMMON if any(map(_has_common, tasks)) else OWN


def _has_common(task: Task) -> bool:
    try:
        return bool(thread_flags(task) >> FIRST_COMMON)
    except MemoryFault:
        return False


def _is_saved(thread: Thread) -> bool:
    """Whether no CPU has the thread's state: one that runs gets it when it first asks for it."""
    return thread.cpu is None or not thread.thread_flag(_flags(thread).used)


def floating_point(thread: Thread) -> bytes | None:
    """struct user_fp_state: f0 to f31, the condition flags a byte each, FCSR (fpr_get())."""
    if not _is_saved(thread):
        return cpu_note(thread, "CORE", NT_PRFPREG)[:FP_BYTES]
    flags, control = member(thread, "thread.fpu.fcc", 8), member(thread, "thread.fpu.fcsr", 4)
    return (
        b"".join(value[:SCALAR] for value in _vectors(thread)) + (flags or bytes(8)) + (control or bytes(4))
    )


def vectors(thread: Thread, size: int) -> bytes:
    """f0 to f31 with ``size`` bytes each; what the thread does not use is all ones (simd_get())."""
    if not _is_saved(thread):
        must_be_saved(thread)
    live = _live_bytes(thread)
    return b"".join(value[: min(live, size)].ljust(size, b"\xff") for value in _vectors(thread))


def _live_bytes(thread: Thread) -> int:
    if not thread.task.flags & PF_USED_MATH:
        return 0
    flags = _flags(thread)
    if not thread.thread_flag(flags.lsx):
        return SCALAR
    return LASX if thread.thread_flag(flags.lasx) else LSX


def translation(thread: Thread) -> bytes | None:
    """struct user_lbt_state: registers for running other architectures' programs (lbt_get())."""
    found = [member(thread, f"thread.lbt.{name}", 8) for name in ("scr0", "scr1", "scr2", "scr3")]
    flags, top = member(thread, "thread.lbt.eflags", 4), member(thread, "thread.fpu.ftop", 4)
    if flags is None:
        return None
    must_be_saved(thread)
    return b"".join(value or bytes(8) for value in found) + flags + (top or bytes(4))


# -- the others


def configuration(thread: Thread) -> bytes | None:
    """The words of CPUCFG, an instruction: the kernel keeps no copy."""
    raise Unavailable("only the CPU tells its configuration words")


def debug_state(thread: Thread, array: str, slots: str) -> bytes | None:
    """struct user_watch_state, or with as many slots as the kernel has (hw_break_get())."""
    session, path = thread.session, f"thread.{array}"
    if not session.types.has(TASK, path):
        return None
    events = session.value(TASK, thread.task.address).member_(path)
    found = (_debug_slot(session, int(events[number])) for number in range(len(events)))
    return struct.pack("<Q", _slot_count(session, slots)) + b"".join(found)


def _slot_count(session: Session, name: str) -> int:
    table = session.symbols.find_kernel("cpu_data")
    if table is None or not session.types.has(CPU_DATA, name):
        raise Unavailable("nothing tells how many breakpoints the CPUs have")
    return session.memory.u32(table + session.types.offset(CPU_DATA, name))


def _debug_slot(session: Session, event: int) -> bytes:
    """Address, mask and control word (encode_ctrl_reg()) of a struct perf_event."""
    if not event:
        return bytes(SLOT.size)
    info = session.value("struct perf_event", event).hw.info
    control = int(info.ctrl.len) << 10 | int(info.ctrl.type) << 8 | int(info.ctrl.enabled)
    return SLOT.pack(int(info.address), int(info.mask), control)


register_port(
    Port(
        arch="loongarch64",
        kernels="all so far",
        machine=EM_LOONGARCH,
        word_bytes=8,
        prstatus=PRSTATUS,
        accepts=lambda process: process.session.arch.name == "loongarch64",
        registers=registers,
        regsets=(
            Regset("FP", "CORE", NT_PRFPREG, floating_point),
            Regset("CPUCFG", "LINUX", NT_LOONGARCH_CPUCFG, configuration),
            Regset("LSX", "LINUX", NT_LOONGARCH_LSX, partial(vectors, size=LSX)),
            Regset("LASX", "LINUX", NT_LOONGARCH_LASX, partial(vectors, size=LASX)),
            Regset("LBT", "LINUX", NT_LOONGARCH_LBT, translation),
            Regset("HW_BREAK", "LINUX", NT_LOONGARCH_HW_BREAK,
                   partial(debug_state, array="hbp_break", slots="watch_ireg_count")),
            Regset("HW_WATCH", "LINUX", NT_LOONGARCH_HW_WATCH,
                   partial(debug_state, array="hbp_watch", slots="watch_dreg_count")),
        ),
    )
)  # fmt: skip
