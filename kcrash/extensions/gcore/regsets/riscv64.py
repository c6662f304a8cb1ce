"""riscv64: struct user_regs_struct and what follows it (arch/riscv/kernel/ptrace.c)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kcrash.arch.riscv64 import PRSTATUS
from kcrash.extensions.gcore.regsets.base import Port, Regset, Unavailable, UserRegisters, register_port
from kcrash.extensions.gcore.regsets.thread_state import TASK, must_be_saved

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Thread

EM_RISCV = 243
NT_PRFPREG, NT_RISCV_VECTOR = 2, 0x901
D_STATE_BYTES, D_STATE_USED = 264, 260  # struct __riscv_d_ext_state: 32 registers, fcsr, padding
SR_VS = 0x600  # of sstatus: the vector unit is on
VECTOR_MEMBERS = ("vstart", "vl", "vtype", "vcsr", "vlenb")
MAX_VLENB = 8192  # the V extension's 65,536 bits


def registers(thread: Thread) -> UserRegisters:
    """struct user_regs_struct, which struct pt_regs begins with."""
    return thread.entry_registers()


def floating_point(thread: Thread) -> bytes | None:
    """struct __riscv_d_ext_state, as __fstate_save() left it at the last switch (riscv_fpr_get())."""
    types, where = thread.session.types, "thread.fstate"
    if not types.has(TASK, where):
        return None
    must_be_saved(thread)
    state = thread.session.memory.read(thread.task.address + types.offset(TASK, where), D_STATE_BYTES)
    return state[:D_STATE_USED].ljust(D_STATE_BYTES, b"\0")


def vector(thread: Thread) -> bytes | None:
    """struct __riscv_v_regset_state, then the registers (riscv_vr_get()); since it says their length."""
    session = thread.session
    if not session.types.has(TASK, "thread.vstate.vlenb"):
        return None
    must_be_saved(thread)
    if not thread.entry_registers().values.get("status", 0) & SR_VS:
        return None
    state = session.value(TASK, thread.task.address).thread.vstate
    words = [int(state.member_(name)) for name in VECTOR_MEMBERS]
    length, pointer = words[-1], int(state.datap)
    if not 0 < length <= MAX_VLENB or not pointer:
        raise Unavailable(f"vector registers of {length} bytes at {pointer:x}")
    return struct.pack("<5Q", *words) + session.memory.read(pointer, 32 * length)


register_port(
    Port(
        arch="riscv64",
        kernels="all so far",
        machine=EM_RISCV,
        word_bytes=8,
        prstatus=PRSTATUS,
        accepts=lambda process: process.session.arch.name == "riscv64",
        registers=registers,
        regsets=(
            Regset("FP", "CORE", NT_PRFPREG, floating_point),
            Regset("VECTOR", "LINUX", NT_RISCV_VECTOR, vector),
        ),
    )
)
