"""s390x: s390_regs and what follows it (user_s390_view, arch/s390/kernel/ptrace.c)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kcrash.arch.s390x import ACCESS, PRSTATUS
from kcrash.extensions.gcore.regsets.base import Port, Regset, Unavailable, UserRegisters, register_port
from kcrash.extensions.gcore.regsets.thread_state import (
    cpu_note,
    is_compat,
    member,
    must_be_saved,
    number,
    supports,
)
from kcrash.linux.stack import read_regs, user_regs_address

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Thread

EM_S390 = 22
NT_PRFPREG = 2
NT_S390_LAST_BREAK, NT_S390_SYSTEM_CALL, NT_S390_TDB = 0x306, 0x307, 0x308
NT_S390_VXRS_LOW, NT_S390_VXRS_HIGH, NT_S390_GS_CB, NT_S390_GS_BC, NT_S390_RI_CB = range(0x309, 0x30E)
HWCAP_VXRS = 11  # bit of AT_HWCAP (arch/s390/include/asm/elf.h)
# What __peek_user() leaves of the PSW's mask, and what it says whatever there was: PSW_MASK_USER |
# PSW_MASK_RI, PSW_USER_BITS of asm/ptrace.h.
PSW_KEPT, PSW_USER_BITS = 0x0000_FF81_8000_0000, 0x0705_0000_0000_0000
TRANSACTION = 0x200  # of int_code: the program was interrupted in a transaction
TDB_BYTES, GS_BYTES, RI_BYTES = 256, 32, 64
VECTORS = 32


# -- general and access registers


def registers(thread: Thread) -> UserRegisters:
    """s390_regs: PSW, general and access registers, and the first argument of the system call."""
    found = raw_registers(thread)
    mask = found.values.get("pswm", 0)
    return found._replace(values={**found.values, "pswm": mask & PSW_KEPT | PSW_USER_BITS})


def raw_registers(thread: Thread) -> UserRegisters:
    """As registers(), with the PSW as it was.

    Access registers, which the kernel leaves alone, are saved at a switch only.
    """
    found = thread.entry_registers()
    if thread.cpu is None:
        saved = member(thread, "thread.acrs", 64) or bytes(64)
        access = dict(zip(ACCESS, struct.unpack(">8Q", saved), strict=True))
    elif thread.cpu_note is not None:
        access = {name: thread.cpu_note.registers.get(name, 0) for name in ACCESS}
    else:
        return found._replace(missing=(*found.missing, *ACCESS))
    return found._replace(values={**found.values, **access})


# -- floating point and vectors


def vectors(thread: Thread) -> tuple[bytes, bytes]:
    """The floating-point control word, and V0 to V31 (of which F0 to F15 are the upper halves).

    thread.ufpu since v6.9; before, thread.fpu, whose pointer leads to F0 to F15 only if there are no vectors.
    """
    if thread.cpu is not None:
        return _vectors_of_cpu(thread)
    control, state = member(thread, "thread.ufpu.fpc", 4), member(thread, "thread.ufpu.vxrs", 16 * VECTORS)
    if control is not None and state is not None:
        return control, state
    control, pointer = member(thread, "thread.fpu.fpc", 4), number(thread, "thread.fpu.regs")
    if control is None or not pointer:
        raise Unavailable("this kernel's thread_struct has no floating-point state that is known")
    memory = thread.session.memory
    if supports(thread, HWCAP_VXRS):
        return control, memory.read(pointer, 16 * VECTORS)
    halves = memory.read(pointer, 128)
    return control, b"".join(halves[8 * n : 8 * n + 8] + bytes(8) for n in range(16)).ljust(512, b"\0")


def _vectors_of_cpu(thread: Thread) -> tuple[bytes, bytes]:
    """Out of QEMU's notes, which are of the same form."""
    state = cpu_note(thread, "CORE", NT_PRFPREG)
    low = cpu_note(thread, "LINUX", NT_S390_VXRS_LOW)
    high = cpu_note(thread, "LINUX", NT_S390_VXRS_HIGH)
    pairs = (state[8 + 8 * n : 16 + 8 * n] + low[8 * n : 8 * n + 8] for n in range(16))
    return state[:4], b"".join(pairs) + high


def floating_point(thread: Thread) -> bytes:
    """s390_fp_regs: the control word, padding, F0 to F15."""
    control, state = vectors(thread)
    return control + bytes(4) + b"".join(state[16 * n : 16 * n + 8] for n in range(16))


def vectors_low(thread: Thread) -> bytes | None:
    """The lower halves of V0 to V15, whose upper ones are F0 to F15."""
    if not supports(thread, HWCAP_VXRS):
        return None
    state = vectors(thread)[1]
    return b"".join(state[16 * n + 8 : 16 * n + 16] for n in range(16))


def vectors_high(thread: Thread) -> bytes | None:
    """V16 to V31."""
    return vectors(thread)[1][256:512] if supports(thread, HWCAP_VXRS) else None


# -- the others


def system_call(thread: Thread) -> bytes | None:
    """The number of the system call that a signal has interrupted, else 0."""
    return member(thread, "thread.system_call", 4)


def last_break(thread: Thread) -> bytes | None:
    """Where the last branch was taken before the last exception (breaking-event address)."""
    return member(thread, "thread.last_break", 8)


def transaction(thread: Thread) -> bytes | None:
    """The transaction diagnostic block of a program that was interrupted in a transaction."""
    session = thread.session
    address = user_regs_address(session, thread.task)
    if not read_regs(session, address).get("int_code", 0) & TRANSACTION:
        return None
    return member(thread, "thread.trap_tdb", TDB_BYTES)


def guarded_storage(thread: Thread) -> bytes | None:
    """struct gs_cb, of a thread that uses guarded storage: in a CPU's registers while it runs."""
    found = _behind(thread, "thread.gs_cb", GS_BYTES)
    if found is not None:
        must_be_saved(thread)
    return found


def broadcast(thread: Thread) -> bytes | None:
    """The struct gs_cb that another thread has asked this one to load."""
    return _behind(thread, "thread.gs_bc_cb", GS_BYTES)


def instrumentation(thread: Thread) -> bytes | None:
    """struct runtime_instr_cb."""
    return _behind(thread, "thread.ri_cb", RI_BYTES)


def _behind(thread: Thread, path: str, size: int) -> bytes | None:
    pointer = number(thread, path)
    return thread.session.memory.read(pointer, size) if pointer else None


SYSTEM_CALL = Regset("SYSTEM_CALL", "LINUX", NT_S390_SYSTEM_CALL, system_call)
LAST_BREAK = Regset("LAST_BREAK", "LINUX", NT_S390_LAST_BREAK, last_break)
FLOATING_POINT = Regset("FP", "CORE", NT_PRFPREG, floating_point)
TRAPS = (
    Regset("TDB", "LINUX", NT_S390_TDB, transaction),
    Regset("VXRS_LOW", "LINUX", NT_S390_VXRS_LOW, vectors_low),
    Regset("VXRS_HIGH", "LINUX", NT_S390_VXRS_HIGH, vectors_high),
)
CONTROL_BLOCKS = (
    Regset("GS_CB", "LINUX", NT_S390_GS_CB, guarded_storage),
    Regset("GS_BC", "LINUX", NT_S390_GS_BC, broadcast),
    Regset("RI_CB", "LINUX", NT_S390_RI_CB, instrumentation),
)

register_port(
    Port(
        arch="s390x",
        kernels="all so far",
        machine=EM_S390,
        word_bytes=8,
        prstatus=PRSTATUS,
        accepts=lambda process: process.session.arch.name == "s390x" and not is_compat(process),
        registers=registers,
        regsets=(FLOATING_POINT, SYSTEM_CALL, LAST_BREAK, *TRAPS, *CONTROL_BLOCKS),
    )
)
