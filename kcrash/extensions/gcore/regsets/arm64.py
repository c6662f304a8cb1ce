"""arm64: struct user_pt_regs and what follows it (user_aarch64_view, arch/arm64/kernel/ptrace.c)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kcrash.arch.arm64 import PRSTATUS
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

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Thread
    from kcrash.session import Session

EM_AARCH64 = 183
NT_PRFPREG, NT_ARM_TLS, NT_ARM_HW_BREAK, NT_ARM_HW_WATCH, NT_ARM_SYSTEM_CALL = 2, 0x401, 0x402, 0x403, 0x404
NT_ARM_SVE, NT_ARM_PAC_MASK, NT_ARM_PACA_KEYS, NT_ARM_PACG_KEYS = 0x405, 0x406, 0x407, 0x408
NT_ARM_TAGGED_ADDR_CTRL, NT_ARM_PAC_ENABLED_KEYS, NT_ARM_SSVE, NT_ARM_ZA, NT_ARM_ZT = range(0x409, 0x40E)
NT_ARM_FPMR, NT_ARM_POE, NT_ARM_GCS = 0x40E, 0x40F, 0x410
# Bits of AT_HWCAP, and of AT_HWCAP2 from 64 on (arch/arm64/include/uapi/asm/hwcap.h).
SVE, PACA, PACG, GCS, MTE, SME, SME2, FPMR, POE = 22, 30, 31, 32, 64 + 18, 64 + 23, 64 + 37, 64 + 48, 64 + 63
# Bits of thread_info.flags (arch/arm64/include/asm/thread_info.h), the same since there was SVE.
TIF_SVE, TIF_SVE_VL_INHERIT, TIF_TAGGED_ADDR, TIF_SME_VL_INHERIT = 23, 24, 26, 28
FP_STATE_SVE = 2
FPSIMD_BYTES = 528  # struct user_fpsimd_state
FPSIMD_USED = 520  # without its padding
SVE_HEADER = struct.Struct("<2I4H")
SVE_PT_REGS_SVE, SVE_PT_VL_INHERIT = 1, 2
SVCR_SM, SVCR_ZA = 1, 2
ZT_BYTES = 64
DEBUG_SLOTS = 16
ID_AA64DFR0 = 3 << 19 | 5 << 8  # sys_reg(3, 0, 0, 5, 0)
MAX_REGISTERS = 1 << 14  # bytes of the kernel's table of them
# Bits of SCTLR_EL1 by the keys that they enable, in the order of PR_PAC_AP*KEY.
ENABLED_KEYS = (31, 30, 27, 13)


def registers(thread: Thread) -> UserRegisters:
    """struct user_pt_regs, which struct pt_regs begins with."""
    return thread.entry_registers()


# -- floating point and vectors


def fpsimd(thread: Thread) -> bytes:
    """struct user_fpsimd_state: of a thread that was on a CPU, if that was in user mode and QEMU kept it."""
    if thread.cpu is not None:
        return cpu_note(thread, "CORE", NT_PRFPREG)[:FPSIMD_USED].ljust(FPSIMD_BYTES, b"\0")
    state = member(thread, "thread.uw.fpsimd_state", FPSIMD_BYTES)
    if state is None:  # a structure of its own before Linux v4.16
        state = member(thread, "thread.fpsimd_state", FPSIMD_BYTES)
    if state is None:
        raise Unavailable("this kernel's thread_struct has no floating-point state that is known")
    if uses_sve(thread):
        state = _low_halves(thread) + state[512:]
    return state[:FPSIMD_USED].ljust(FPSIMD_BYTES, b"\0")


def uses_sve(thread: Thread) -> bool:
    """Whether the state is kept with whole vectors.

    thread.fp_type says it since Linux commit baa8515281b3 ("arm64/fpsimd: Track the saved FPSIMD state
    type separately to TIF_SVE") in v6.2; before, a flag did.
    """
    kind = number(thread, "thread.fp_type", 4)
    return thread.thread_flag(TIF_SVE) if kind is None else kind == FP_STATE_SVE


def vector_bytes(thread: Thread) -> int:
    """The thread's vector length: one of several since Linux commit 5838a1557984 ("arm64/sve: Track vector
    lengths for tasks in an array") in v5.17."""
    length = number(thread, "thread.vl", 4) or number(thread, "thread.sve_vl", 2)
    if not length or length % 16 or length > 256:
        raise Unavailable(f"a vector length of {length} bytes")
    return length


def _vectors(thread: Thread, size: int) -> bytes:
    pointer = number(thread, "thread.sve_state")
    if not pointer:
        raise Unavailable("no memory holds the thread's vectors")
    return thread.session.memory.read(pointer, size)


def _low_halves(thread: Thread) -> bytes:
    """V0 to V31, which are the lowest 16 bytes of Z0 to Z31 (sve_sync_to_fpsimd())."""
    length = vector_bytes(thread)
    data = _vectors(thread, 32 * length)
    return b"".join(data[length * n : length * n + 16] for n in range(32))


def sve(thread: Thread) -> bytes | None:
    """struct user_sve_header, then either form of the registers (sve_get_common())."""
    if not supports(thread, SVE):
        return None
    length, longest = vector_bytes(thread), _longest_vector(thread)
    whole = thread.cpu is None and uses_sve(thread)
    body = _sve_registers(thread, length) if whole else fpsimd(thread)
    flags = (SVE_PT_REGS_SVE if whole else 0) | (
        SVE_PT_VL_INHERIT if thread.thread_flag(TIF_SVE_VL_INHERIT) else 0
    )
    total = SVE_HEADER.size
    header = SVE_HEADER.pack(
        total + len(body), total + _sve_bytes(longest), length, longest, flags, 0
    )  # fmt: skip
    return header + body


def _sve_bytes(length: int) -> int:
    """Z0 to Z31, P0 to P15 and FFR; FPSR and FPCR; either part rounded up to 16."""
    return (34 * length + length // 8 + 15 & ~15) + 16


def _sve_registers(thread: Thread, length: int) -> bytes:
    data = _vectors(thread, 34 * length + length // 8)
    control = member(thread, "thread.uw.fpsimd_state.fpsr", 8) or bytes(8)
    return (data.ljust(_sve_bytes(length) - 16, b"\0") + control).ljust(_sve_bytes(length), b"\0")


def _longest_vector(thread: Thread, kind: int = 0) -> int:
    """max_vl of vl_info[ARM64_VEC_SVE] (0) or [ARM64_VEC_SME] (1); sve_max_vl before v5.16."""
    session = thread.session
    table, known = session.symbols.find_kernel("vl_info"), session.types.has("struct vl_info", "max_vl")
    if table is not None and known:
        types = session.types
        table += kind * types.size("struct vl_info")
        return session.memory.u32(table + types.offset("struct vl_info", "max_vl"))
    symbol = session.symbols.find_kernel("sve_max_vl")
    if symbol is None:
        raise Unavailable("nothing tells how long vectors may be")
    return session.memory.u32(symbol)


# -- matrices and streaming vectors


def streaming_vectors(thread: Thread) -> bytes | None:
    """struct user_sve_header of streaming mode, alone while the thread is not in it (sve_get_common())."""
    if not supports(thread, SME):
        return None
    if _streaming_control(thread) & SVCR_SM:
        raise Unavailable("the thread is in streaming mode")
    length, longest = _streaming_length(thread), _longest_vector(thread, 1)
    size = SVE_HEADER.size
    return SVE_HEADER.pack(size, size + _sve_bytes(longest), length, longest, _streaming_flags(thread), 0)


def matrix(thread: Thread) -> bytes | None:
    """struct user_za_header and, if the thread has switched it on, the matrix (za_get())."""
    if not supports(thread, SME):
        return None
    length, longest = _streaming_length(thread), _longest_vector(thread, 1)
    on = _streaming_control(thread) & SVCR_ZA
    body = _matrix_state(thread, 0, length * length) if on else b""
    size, whole = SVE_HEADER.size + len(body), SVE_HEADER.size + length * length
    return SVE_HEADER.pack(size, whole, length, longest, _streaming_flags(thread), 0) + body


def lookup_table(thread: Thread) -> bytes | None:
    """ZT0, zeros while the matrix is off (zt_get())."""
    if not supports(thread, SME2):
        return None
    if not _streaming_control(thread) & SVCR_ZA:
        return bytes(ZT_BYTES)
    return _matrix_state(thread, _streaming_length(thread) ** 2, ZT_BYTES)


def _streaming_control(thread: Thread) -> int:
    """SVCR as of the last switch away from the thread."""
    must_be_saved(thread)
    return number(thread, "thread.svcr") or 0


def _streaming_length(thread: Thread) -> int:
    lengths = member(thread, "thread.vl", 8)
    length = int.from_bytes(lengths[4:], "little") if lengths else 0
    if not length or length % 16 or length > 256:
        raise Unavailable(f"a streaming vector length of {length} bytes")
    return length


def _streaming_flags(thread: Thread) -> int:
    return SVE_PT_VL_INHERIT if thread.thread_flag(TIF_SME_VL_INHERIT) else 0


def _matrix_state(thread: Thread, offset: int, size: int) -> bytes:
    pointer = number(thread, "thread.sme_state")
    if not pointer:
        raise Unavailable("no memory holds the thread's matrix")
    return thread.session.memory.read(pointer + offset, size)


def fpmr(thread: Thread) -> bytes | None:
    """The mode register of 8-bit floating point."""
    return member(thread, "thread.uw.fpmr", 8) if supports(thread, FPMR) else None


# -- the others


def tls(thread: Thread) -> bytes | None:
    """TPIDR_EL0; since Linux commit a9d691585950 ("arm64/sme: Implement support for TPIDR2") in v5.19
    TPIDR2_EL0 too."""
    pointer = member(thread, "thread.uw.tp_value", 8) or member(thread, "thread.tp_value", 8)
    second = member(thread, "thread.tpidr2_el0", 8)
    return None if pointer is None else pointer + (second or b"")


def hardware_breakpoints(thread: Thread) -> bytes | None:
    """struct user_hwdebug_state (hw_break_get())."""
    return _debug_state(thread, "core_num_brps", "thread.debug.hbp_break")


def hardware_watchpoints(thread: Thread) -> bytes | None:
    """As hardware_breakpoints()."""
    return _debug_state(thread, "core_num_wrps", "thread.debug.hbp_watch")


def _debug_state(thread: Thread, symbol: str, path: str) -> bytes | None:
    session = thread.session
    pointers, count = member(thread, path, 8 * DEBUG_SLOTS), session.symbols.find_kernel(symbol)
    if pointers is None or count is None:
        return None
    resources = session.memory.u32(count) & 0xFF | _debug_version(session) << 8
    slots = (_debug_slot(session, pointer) for pointer in struct.unpack(f"<{DEBUG_SLOTS}Q", pointers))
    return struct.pack("<I4x", resources) + b"".join(slots)


def _debug_version(session: Session) -> int:
    """ID_AA64DFR0_EL1.DebugVer as the kernel has made it fit all CPUs (debug_monitors_arch())."""
    table, types = session.symbols.symbol("arm64_ftr_regs"), session.types
    entry, register = "struct __ftr_reg_entry", "struct arm64_ftr_reg"
    if table is None or not types.has(entry, "reg") or not types.has(register, "sys_val"):
        raise Unavailable("nothing tells which debug architecture the CPUs have")
    memory, offset = session.memory, types.offset(entry, "reg")
    for address in range(table.address, table.address + min(table.size, MAX_REGISTERS), types.size(entry)):
        if memory.u32(address) == ID_AA64DFR0:
            return memory.u64(memory.word(address + offset) + types.offset(register, "sys_val")) & 15
    return 0


def _debug_slot(session: Session, event: int) -> bytes:
    """Address and control word (encode_ctrl_reg()) of a struct perf_event."""
    if not event:
        return bytes(16)
    info = session.value("struct perf_event", event).hw.info
    control = info.ctrl
    word = int(control.len) << 5 | int(control.type) << 3 | int(control.privilege) << 1 | int(control.enabled)
    return struct.pack("<QI4x", int(info.address), word)


def system_call(thread: Thread) -> bytes | None:
    """The number of the system call that the thread is in, -1 for none."""
    call = thread.entry_registers().values.get("syscallno", 0xFFFFFFFF)
    return struct.pack("<I", call & 0xFFFFFFFF)


def pac_mask(thread: Thread) -> bytes | None:
    """Where pointers carry a code: ptrauth_user_pac_mask(), of data and of instructions."""
    if not supports(thread, PACA):
        return None
    mask = (1 << 55) - (1 << thread.session.layout.constants["VA_BITS"])
    return struct.pack("<2Q", mask, mask)


def enabled_keys(thread: Thread) -> bytes | None:
    """PR_PAC_AP*KEY of the keys that are in use (ptrauth_get_enabled_keys())."""
    control = number(thread, "thread.sctlr_user") if supports(thread, PACA) else None
    if control is None:
        return None
    return struct.pack("<Q", sum((control >> bit & 1) << n for n, bit in enumerate(ENABLED_KEYS)))


def address_keys(thread: Thread) -> bytes | None:
    """Keys for instructions and for data, A and B of each."""
    return member(thread, "thread.keys_user.apia", 64) if supports(thread, PACA) else None


def generic_key(thread: Thread) -> bytes | None:
    """The generic key."""
    return member(thread, "thread.keys_user.apga", 16) if supports(thread, PACG) else None


def tagged_addresses(thread: Thread) -> bytes | None:
    """As prctl(PR_GET_TAGGED_ADDR_CTRL) (get_tagged_addr_ctrl()). Linux commit 2200aa7154cb ("arm64: mte:
    ptrace: Add NT_ARM_TAGGED_ADDR_CTRL regset") in v5.10 came with the word for MTE in thread_struct."""
    if not any(thread.session.types.has(TASK, f"thread.{name}") for name in ("mte_ctrl", "sctlr_tcf0")):
        return None
    control = number(thread, "thread.mte_ctrl") or 0
    value = int(thread.thread_flag(TIF_TAGGED_ADDR))
    if supports(thread, MTE):
        value |= (~control & 0xFFFF) << 3 | (control >> 16 & 1) << 1 | (control >> 17 & 1) << 2
    return struct.pack("<Q", value)


def permission_overlay(thread: Thread) -> bytes | None:
    """POR_EL0."""
    return member(thread, "thread.por_el0", 8) if supports(thread, POE) else None


def guarded_stack(thread: Thread) -> bytes | None:
    """struct user_gcs: features that are on, those that are locked, and GCSPR_EL0 (gcs_get())."""
    if not supports(thread, GCS):
        return None
    names = ("gcs_el0_mode", "gcs_el0_locked", "gcspr_el0")
    found = [member(thread, f"thread.{name}", 8) for name in names]
    return b"".join(value or bytes(8) for value in found)


# -- the port


register_port(
    Port(
        arch="arm64",
        kernels="all so far",
        machine=EM_AARCH64,
        word_bytes=8,
        prstatus=PRSTATUS,
        accepts=lambda process: process.session.arch.name == "arm64" and not is_compat(process),
        registers=registers,
        regsets=(
            Regset("FP", "CORE", NT_PRFPREG, fpsimd),
            Regset("TLS", "LINUX", NT_ARM_TLS, tls),
            Regset("HW_BREAK", "LINUX", NT_ARM_HW_BREAK, hardware_breakpoints),
            Regset("HW_WATCH", "LINUX", NT_ARM_HW_WATCH, hardware_watchpoints),
            Regset("FPMR", "LINUX", NT_ARM_FPMR, fpmr),
            Regset("SYSTEM_CALL", "LINUX", NT_ARM_SYSTEM_CALL, system_call),
            Regset("SVE", "LINUX", NT_ARM_SVE, sve),
            Regset("SSVE", "LINUX", NT_ARM_SSVE, streaming_vectors),
            Regset("ZA", "LINUX", NT_ARM_ZA, matrix),
            Regset("ZT", "LINUX", NT_ARM_ZT, lookup_table),
            Regset("PAC_MASK", "LINUX", NT_ARM_PAC_MASK, pac_mask),
            Regset("PAC_ENABLED_KEYS", "LINUX", NT_ARM_PAC_ENABLED_KEYS, enabled_keys),
            Regset("PACA_KEYS", "LINUX", NT_ARM_PACA_KEYS, address_keys),
            Regset("PACG_KEYS", "LINUX", NT_ARM_PACG_KEYS, generic_key),
            Regset("TAGGED_ADDR_CTRL", "LINUX", NT_ARM_TAGGED_ADDR_CTRL, tagged_addresses),
            Regset("POE", "LINUX", NT_ARM_POE, permission_overlay),
            Regset("GCS", "LINUX", NT_ARM_GCS, guarded_stack),
        ),
    )
)
