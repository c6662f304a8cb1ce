"""ppc64le and ppc64: struct user_pt_regs and what follows it (arch/powerpc/kernel/ptrace/ptrace-view.c)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kcrash.arch.ppc64 import PRSTATUS
from kcrash.extensions.gcore.regsets.base import Port, Regset, Unavailable, UserRegisters, register_port
from kcrash.extensions.gcore.regsets.thread_state import (
    TASK,
    cpu_note,
    is_compat,
    member,
    must_be_saved,
    number,
    supports,
)
from kcrash.linux.stack import user_regs_address

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Thread

EM_PPC64 = 21
NT_PRFPREG, NT_PPC_VMX, NT_PPC_VSX = 2, 0x100, 0x102
NT_PPC_TAR, NT_PPC_PPR, NT_PPC_DSCR, NT_PPC_EBB, NT_PPC_PMU = range(0x103, 0x108)
NT_PPC_TM_CGPR, NT_PPC_TM_CFPR, NT_PPC_TM_CVMX, NT_PPC_TM_CVSX, NT_PPC_TM_SPR = range(0x108, 0x10D)
NT_PPC_TM_CTAR, NT_PPC_TM_CPPR, NT_PPC_TM_CDSCR = range(0x10D, 0x110)
NT_PPC_PKEY, NT_PPC_DEXCR, NT_PPC_HASHKEYR = 0x110, 0x111, 0x112
# Bits of AT_HWCAP2 (arch/powerpc/include/uapi/asm/cputable.h): the ISA's versions, transactional memory.
ARCH_2_07, ARCH_3_1, HTM = 64 + 31, 64 + 18, 64 + 30
MSR_TRANSACTION = 3 << 33  # MSR_TS_MASK
MMU_FTR_PKEY = 0x800  # of cur_cpu_spec->mmu_features
REGS_BYTES, GREGS_BYTES, MSR = 352, 384, 264  # struct user_pt_regs, elf_gregset_t; where the msr is
VECTORS_BYTES = 33 * 16  # struct thread_vr_state


# -- the registers that every thread has


def registers(thread: Thread) -> UserRegisters:
    """struct user_pt_regs, the msr with the modes of floating-point exceptions that the thread asked for.

    For softe, which the kernel keeps another state in, it says 1, since the Linux commit "powerpc/ptrace:
    Hard wire PT_SOFTE value to 1 in gpr_get() too" in v5.11 and in older kernels that have it.
    """
    found = thread.entry_registers()
    if _entering(thread):
        found = found._replace(origin=f"kernel stack, as of the last entry (CPU {thread.cpu} was entering)")
    msr = found.values.get("msr", 0) | (number(thread, "thread.fpexc_mode", 4) or 0)
    return found._replace(values={**found.values, "msr": msr, "softe": 1})


def _entering(thread: Thread) -> bool:
    """True if its CPU stood at an exception's first instructions, the program's registers still in it.

    But for pc and msr, which are in SRR0 and SRR1: no dump has these.
    """
    note = thread.cpu_note
    user_end = thread.session.layout.paging.user_end
    return note is not None and not note.user and 0 < note.registers.get("r1", 0) < user_end


def _of_cpu(thread: Thread, kind: int, size: int) -> bytes:
    """A note of QEMU's, each named CORE; registers of ``size`` bytes in the order of memory."""
    data, session = cpu_note(thread, "CORE", kind, still=_entering(thread)), thread.session
    if session.dump.info.byte_order == session.arch.byte_order:
        return data
    return b"".join(data[at : at + size][::-1] for at in range(0, len(data), size))


def _halves(thread: Thread, path: str, *, upper: bool) -> bytes | None:
    """One doubleword of each of 32 registers (TS_FPROFFSET, TS_VSRLOWOFFSET), then the control word.

    The upper ones are the floating-point registers.
    """
    state = member(thread, path, 33 * 16)
    if state is None:
        return None
    first = 0 if upper is (thread.session.arch.byte_order == "big") else 8
    return b"".join(state[at + first : at + first + 8] for at in range(0, 512, 16)) + state[512:520]


def floating_point(thread: Thread) -> bytes | None:
    """Thirty-two registers and fpscr (fpr_get())."""
    if thread.cpu is not None:
        return _of_cpu(thread, NT_PRFPREG, 8)
    return _halves(thread, "thread.fp_state", upper=True)


def vmx(thread: Thread) -> bytes | None:
    """Thirty-two vector registers, vscr, vrsave (vr_get()), of a thread that has used them."""
    if not number(thread, "thread.used_vr", 4):
        return None
    if thread.cpu is not None:  # QEMU leaves vrsave out: it is as of the last switch
        return _with_vrsave(thread, _of_cpu(thread, NT_PPC_VMX, 16)[:VECTORS_BYTES], "thread.vrsave")
    return _with_vrsave(thread, member(thread, "thread.vr_state", VECTORS_BYTES), "thread.vrsave")


def _with_vrsave(thread: Thread, found: bytes | None, vrsave: str) -> bytes | None:
    if found is None:
        return None
    order = thread.session.arch.byte_order
    word = ((number(thread, vrsave) or 0) & 0xFFFFFFFF).to_bytes(4, order)  # type: ignore[arg-type]
    return found + word.ljust(16, b"\0")


def vsx(thread: Thread) -> bytes | None:
    """The other halves of the floating-point registers (vsr_get()), of a thread that has used them."""
    if not number(thread, "thread.used_vsr", 4):
        return None
    if thread.cpu is not None:
        return _of_cpu(thread, NT_PPC_VSX, 8)
    found = _halves(thread, "thread.fp_state", upper=False)
    return found[:256] if found else None


# -- special registers, which the kernel saves at a switch


def special(path: str, size: int = 8, feature: int | None = None) -> Callable[[Thread], bytes | None]:
    """Bytes of a member of task_struct, for processes that were told of a feature of the CPU."""

    def read(thread: Thread) -> bytes | None:
        if feature is not None and not supports(thread, feature):
            return None
        found = member(thread, path, size)
        if found is not None:
            must_be_saved(thread)
        return found

    return read


def ppr(thread: Thread) -> bytes | None:
    """The program's priority: saved in struct pt_regs since v4.20, before in thread_struct."""
    found = _entry(thread, "ppr")
    return member(thread, "thread.ppr", 8) if found is None else found


def _entry(thread: Thread, name: str) -> bytes | None:
    """A word of struct pt_regs that is no register of user_pt_regs."""
    session = thread.session
    if not session.types.has("struct pt_regs", name):
        return None
    where = user_regs_address(session, thread.task) + session.types.offset("struct pt_regs", name)
    return session.memory.read(where, 8)


def branches(thread: Thread) -> bytes | None:
    """ebbrr, ebbhr and bescr, of a thread that uses event-based branches (ebb_get())."""
    used = number(thread, "thread.used_ebb", 4)
    return special("thread.ebbrr", 24, ARCH_2_07)(thread) if used else None


def keys(thread: Thread) -> bytes | None:
    """amr, iamr and uamor (pkey_get()), where the machine has protection keys.

    The first two are in struct pt_regs since v5.11, all three were in thread_struct before.
    """
    session = thread.session
    if session.types.has(TASK, "thread.amr"):
        disabled = session.symbols.find_kernel("pkey_disabled")
        return None if disabled is None or session.memory.u32(disabled) else special("thread.amr", 24)(thread)
    default = session.symbols.find_kernel("default_uamor")
    if default is None or not _machine_has(thread, MMU_FTR_PKEY):
        return None
    amr, iamr = (_entry(thread, name) for name in ("amr", "iamr"))
    return None if amr is None or iamr is None else amr + iamr + session.memory.read(default, 8)


def _machine_has(thread: Thread, feature: int) -> bool:
    """A bit of cur_cpu_spec->mmu_features."""
    session = thread.session
    pointer = session.symbols.find_kernel("cur_cpu_spec")
    if pointer is None or not session.types.has("struct cpu_spec", "mmu_features"):
        return False
    spec = session.memory.word(pointer)
    return bool(session.memory.u32(spec + session.types.offset("struct cpu_spec", "mmu_features")) & feature)


def dexcr(thread: Thread) -> bytes | None:
    """dexcr and hdexcr (dexcr_get()): the second is the hypervisor's, and in no memory."""
    if not supports(thread, ARCH_3_1) or member(thread, "thread.dexcr", 8) is None:
        return None
    raise Unavailable("hdexcr is in the CPUs' registers only")


# -- transactions: the registers that an abort would bring back


def in_transaction(read: Callable[[Thread], bytes | None]) -> Callable[[Thread], bytes | None]:
    """``read``, for a thread that was in a transaction (MSR_TM_ACTIVE())."""

    def checked(thread: Thread) -> bytes | None:
        if not supports(thread, HTM) or not thread.entry_registers().values.get("msr", 0) & MSR_TRANSACTION:
            return None
        must_be_saved(thread)
        return read(thread)

    return checked


def checkpointed(thread: Thread) -> bytes | None:
    """struct user_pt_regs as the transaction found it (tm_cgpr_get())."""
    found = member(thread, "thread.ckpt_regs", REGS_BYTES)
    if found is None:
        return None
    order = thread.session.arch.byte_order
    modes = number(thread, "thread.fpexc_mode", 4) or 0
    msr = int.from_bytes(found[MSR : MSR + 8], order) | modes  # type: ignore[arg-type]
    return (found[:MSR] + msr.to_bytes(8, order) + found[MSR + 8 :]).ljust(GREGS_BYTES, b"\0")  # type: ignore[arg-type]


def checkpointed_vsx(thread: Thread) -> bytes | None:
    """See vsx()."""
    found = _halves(thread, "thread.ckfp_state", upper=False)
    return found[:256] if found and number(thread, "thread.used_vsr", 4) else None


TRANSACTIONS = (
    Regset("TM_CGPR", "LINUX", NT_PPC_TM_CGPR, in_transaction(checkpointed)),
    Regset(
        "TM_CFPR",
        "LINUX",
        NT_PPC_TM_CFPR,
        in_transaction(lambda thread: _halves(thread, "thread.ckfp_state", upper=True)),
    ),
    Regset(
        "TM_CVMX",
        "LINUX",
        NT_PPC_TM_CVMX,
        in_transaction(
            lambda thread: _with_vrsave(
                thread, member(thread, "thread.ckvr_state", VECTORS_BYTES), "thread.ckvrsave"
            )
        ),
    ),
    Regset("TM_CVSX", "LINUX", NT_PPC_TM_CVSX, in_transaction(checkpointed_vsx)),
    Regset("TM_SPR", "LINUX", NT_PPC_TM_SPR, special("thread.tm_tfhar", 24, HTM)),
    Regset("TM_CTAR", "LINUX", NT_PPC_TM_CTAR, in_transaction(special("thread.tm_tar"))),
    Regset("TM_CPPR", "LINUX", NT_PPC_TM_CPPR, in_transaction(special("thread.tm_ppr"))),
    Regset("TM_CDSCR", "LINUX", NT_PPC_TM_CDSCR, in_transaction(special("thread.tm_dscr"))),
)

REGSETS = (
    Regset("FP", "CORE", NT_PRFPREG, floating_point),
    Regset("VMX", "LINUX", NT_PPC_VMX, vmx),
    Regset("VSX", "LINUX", NT_PPC_VSX, vsx),
    *TRANSACTIONS,
    Regset("PPR", "LINUX", NT_PPC_PPR, ppr),
    Regset("DSCR", "LINUX", NT_PPC_DSCR, special("thread.dscr")),
    Regset("TAR", "LINUX", NT_PPC_TAR, special("thread.tar")),
    Regset("EBB", "LINUX", NT_PPC_EBB, branches),
    Regset("PMU", "LINUX", NT_PPC_PMU, special("thread.siar", 40, ARCH_2_07)),
    Regset("DEXCR", "LINUX", NT_PPC_DEXCR, dexcr),
    Regset("HASHKEYR", "LINUX", NT_PPC_HASHKEYR, special("thread.hashkeyr", 8, ARCH_3_1)),
    Regset("PKEY", "LINUX", NT_PPC_PKEY, keys),
)


def _port(name: str) -> Port:
    return Port(
        arch=name,
        kernels="all so far",
        machine=EM_PPC64,
        word_bytes=8,
        prstatus=PRSTATUS,
        accepts=lambda process: process.session.arch.name == name and not is_compat(process),
        registers=registers,
        regsets=REGSETS,
    )


register_port(_port("ppc64le"))
register_port(_port("ppc64"))
