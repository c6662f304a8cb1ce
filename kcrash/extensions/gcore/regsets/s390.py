"""31-bit programs on an s390x kernel (user_s390_compat_view, arch/s390/kernel/ptrace.c)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kcrash.arch.base import Prstatus
from kcrash.arch.s390x import ACCESS, GPRS
from kcrash.extensions.gcore.regsets.base import Port, Regset, UserRegisters, register_port
from kcrash.extensions.gcore.regsets.s390x import (
    CONTROL_BLOCKS,
    EM_S390,
    FLOATING_POINT,
    NT_S390_LAST_BREAK,
    SYSTEM_CALL,
    TRAPS,
    last_break,
    raw_registers,
)
from kcrash.extensions.gcore.regsets.thread_state import is_compat

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Thread

NT_S390_HIGH_GPRS = 0x300
# PSW32_MASK_USER | PSW32_MASK_RI, PSW32_USER_BITS (asm/compat.h); PSW_MASK_BA: addresses of 31 bits.
PSW_KEPT, PSW_USER_BITS, ADDRESS_MODE = 0xFF80, 0x070D_0000, 0x8000_0000

# struct compat_elf_prstatus (include/linux/elfcore-compat.h) with s390_compat_regs.
ACRS = tuple(f"a{number}" for number in range(16))
PRSTATUS = Prstatus(
    size=224, signal=12, pid=24, times=40, regs=72, fpvalid=216,
    registers=("pswm", "pswa", *GPRS, *ACRS, "orig_gpr2"),
)  # fmt: skip


def general(thread: Thread) -> UserRegisters:
    """s390_compat_regs: the PSW in its short form, the lower halves of the general registers."""
    found = raw_registers(thread)
    values = dict(found.values)
    mask = values.get("pswm", 0)
    values["pswm"] = mask >> 32 & PSW_KEPT | PSW_USER_BITS
    values["pswa"] = values.get("pswa", 0) & 0x7FFF_FFFF | mask & ADDRESS_MODE
    for number, name in enumerate(ACCESS):
        pair = values.get(name, 0)
        values |= {f"a{2 * number}": pair >> 32, f"a{2 * number + 1}": pair & 0xFFFF_FFFF}
    return found._replace(values=values)


def short_last_break(thread: Thread) -> bytes | None:
    """As a number of 32 bits (s390_compat_last_break_get())."""
    found = last_break(thread)
    return None if found is None else bytes(4) + found[4:]


def high_halves(thread: Thread) -> bytes:
    """The upper halves of the general registers."""
    values = thread.entry_registers().values
    return struct.pack(">16I", *(values.get(name, 0) >> 32 for name in GPRS))


register_port(
    Port(
        arch="s390",
        kernels="on s390x kernels",
        machine=EM_S390,
        word_bytes=4,
        prstatus=PRSTATUS,
        accepts=lambda process: process.session.arch.name == "s390x" and is_compat(process),
        registers=general,
        regsets=(
            FLOATING_POINT,
            SYSTEM_CALL,
            Regset("LAST_BREAK", "LINUX", NT_S390_LAST_BREAK, short_last_break),
            *TRAPS,
            Regset("HIGH_GPRS", "LINUX", NT_S390_HIGH_GPRS, high_halves),
            *CONTROL_BLOCKS,
        ),
    )
)
