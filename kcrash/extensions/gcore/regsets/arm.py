"""32-bit Arm programs: on an arm64 kernel (user_aarch32_view, arch/arm64/kernel/ptrace.c), and on one of 32
bits (user_arm_view, arch/arm/kernel/ptrace.c)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kcrash.arch import arm
from kcrash.arch.base import Prstatus
from kcrash.extensions.gcore.regsets.arm64 import fpsimd, registers
from kcrash.extensions.gcore.regsets.base import Port, Regset, Unavailable, UserRegisters, register_port
from kcrash.extensions.gcore.regsets.thread_state import cpu_note, is_compat
from kcrash.linux.mm import Vma, read_vma

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Process, Thread

EM_ARM = 40
NT_PRFPREG, NT_ARM_VFP = 2, 0x400
FPA_BYTES, VFP_BYTES = 116, 260  # struct user_fp; 32 registers of struct user_vfp and FPSCR
NO_CALL = 0xFFFFFFFF  # orig_r0 of one who was not in a system call
INFO = "struct thread_info"
STATUS_BITS, CONTROL_BITS = 0xF800009F, 0x07F79F00  # of FPSCR: VFP_FPSCR_STAT_MASK, VFP_FPSCR_CTRL_MASK
PSTATE_DIT, CPSR_DIT = 1 << 24, 1 << 21

# struct compat_elf_prstatus (include/linux/elfcore-compat.h) with compat_elf_gregset_t, by arm64's names.
PRSTATUS = Prstatus(
    size=148, signal=12, pid=24, times=40, regs=72, fpvalid=144,
    registers=(*(f"x{number}" for number in range(15)), "pc", "cpsr", "orig_x0"),
)  # fmt: skip


def general(thread: Thread) -> UserRegisters:
    """r0 to r14 lie in x0 to x14; the flags are laid out as pstate_to_compat_psr() does."""
    found = registers(thread)
    pstate = found.values.get("pstate", 0)
    flags = pstate & ~PSTATE_DIT | (CPSR_DIT if pstate & PSTATE_DIT else 0)
    return found._replace(values={**found.values, "cpsr": flags})


def vfp(thread: Thread) -> bytes | None:
    """NT_ARM_VFP: D0 to D31, which are V0 to V15, and FPSCR (compat_vfp_get())."""
    state = fpsimd(thread)
    status, control = struct.unpack_from("<2I", state, 512)
    return state[:256] + struct.pack("<I", status & STATUS_BITS | control & CONTROL_BITS)


register_port(
    Port(
        arch="arm",
        kernels="on arm64 kernels",
        machine=EM_ARM,
        word_bytes=4,
        prstatus=PRSTATUS,
        accepts=lambda process: process.session.arch.name == "arm64" and is_compat(process),
        registers=general,
        regsets=(Regset("VFP", "LINUX", NT_ARM_VFP, vfp),),
    )
)


# -- on kernels of 32 bits


def native_registers(thread: Thread) -> UserRegisters:
    """struct pt_regs; of a CPU that was stopped in user mode nobody noted that it was in no call."""
    found = thread.entry_registers()
    if thread.stopped_in_user:
        return found._replace(values={**found.values, "orig_r0": NO_CALL})
    return found


def fpa(thread: Thread) -> bytes | None:
    """NT_PRFPREG: registers of the FPA, which only its emulator has used for long (fpa_get())."""
    info, types = thread_info(thread), thread.session.types
    if not types.has(INFO, "fpstate"):
        return None
    return thread.session.memory.read(info + types.offset(INFO, "fpstate"), FPA_BYTES)


def native_vfp(thread: Thread) -> bytes | None:
    """NT_ARM_VFP (vfp_get()): D0 to D31, of which kernels without VFPv3 keep 16, and FPSCR."""
    session, types = thread.session, thread.session.types
    if not types.has(INFO, "vfpstate.hard.fpregs"):
        return None
    state = thread_info(thread) + types.offset(INFO, "vfpstate")
    cpu = _cpu_with(thread, state)
    if cpu is not None:
        return _vfp_of_cpu(thread, cpu)
    compound = types.compound(INFO)
    places = [
        (compound.path(f"vfpstate.hard.{name}"), width) for name, width in (("fpregs", 256), ("fpscr", 4))
    ]
    start = thread_info(thread)
    data = (
        session.memory.read(start + place.offset, place.type.size).ljust(width, b"\0")
        for place, width in places
    )
    return b"".join(data)


def thread_info(thread: Thread) -> int:
    """The address of the thread's struct thread_info."""
    return arm.thread_info(thread.session.types, thread.session.memory, thread.task.address)


def _cpu_with(thread: Thread, state: int) -> int | None:
    """The CPU whose registers are newer than what is in memory: vfp_current_hw_state[], which with several
    CPUs counts while the thread runs, for it is saved when it stops."""
    session = thread.session
    table = session.symbols.find_kernel("vfp_current_hw_state")
    if table is None:
        return thread.cpu
    alone = not session.types.has(INFO, "vfpstate.hard.cpu")
    cpu = 0 if alone else thread.cpu
    return cpu if cpu is not None and session.memory.u32(table + 4 * cpu) == state else None


def _vfp_of_cpu(thread: Thread, cpu: int) -> bytes:
    if thread.cpu is None:
        raise Unavailable(f"in the registers of CPU {cpu}, which has not saved them")
    return cpu_note(thread, "LINUX", NT_ARM_VFP)[:VFP_BYTES]


def gate_vma(process: Process) -> Vma | None:
    """The page of vectors, with helpers for user space (CONFIG_KUSER_HELPERS; arch/arm/kernel/process.c)."""
    gate = process.session.symbols.find_kernel("gate_vma")
    return None if gate is None else read_vma(process.session, gate)


register_port(
    Port(
        arch="arm",
        kernels="all so far",
        machine=EM_ARM,
        word_bytes=4,
        prstatus=arm.PRSTATUS,
        accepts=lambda process: process.session.arch.name == "arm",
        registers=native_registers,
        regsets=(
            Regset("FP", "CORE", NT_PRFPREG, fpa),
            Regset("VFP", "LINUX", NT_ARM_VFP, native_vfp),
        ),
        gate_vma=gate_vma,
    )
)
