"""32-bit Arm programs on an arm64 kernel (user_aarch32_view, arch/arm64/kernel/ptrace.c)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kcrash.arch.base import Prstatus
from kcrash.extensions.gcore.regsets.arm64 import fpsimd, registers
from kcrash.extensions.gcore.regsets.base import Port, Regset, UserRegisters, register_port
from kcrash.extensions.gcore.regsets.thread_state import is_compat

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Thread

EM_ARM = 40
NT_ARM_VFP = 0x400
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
