"""x86 floating-point and extended state, as the kernel's uabi form has it (arch/x86/kernel/fpu/).

Where the state is has changed: struct fpstate behind a pointer (Linux commit 87d0e5be0fac
("x86/fpu: Provide struct fpstate") in v5.16), a union in thread.fpu (v4.2), a pointer to it
(before). From v6.16 on struct fpu lies behind task_struct.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kcrash.errors import CorruptData, KcrashError
from kcrash.extensions.gcore.regsets.base import Unavailable
from kcrash.types.model import ArrayType, PointerType

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Thread
    from kcrash.session import Session

LEGACY, HEADER, EXTENDED = 512, 512, 576  # FXSAVE area, header behind it, first extended component
SW_BYTES = 464  # sw_reserved of the FXSAVE area: the xfeatures that the buffer is made for
FP, SSE, YMM, PKRU, CET_USER = 0, 1, 2, 9, 11
COMPACTED = 1 << 63
MAX_XSAVE = 1 << 16
TIF_NEED_FPU_LOAD = 14  # Linux commit 5f409e20b794 ("x86/fpu: Defer FPU state load ...") in v5.2
PF_USED_MATH = 0x2000
# Components that start at a multiple of 64 in the compacted form: CPUID(0xd, n).ecx bit 1. What Intel's
# and AMD's processors report, for kernels that do not keep it (xstate_flags).
ALIGNED = frozenset({15, 17, 18})


@dataclass(frozen=True, slots=True)
class XstateLayout:
    """Extended components of this machine, by number: as the kernel read them from CPUID.

    ``offsets``: in the standard form; ``aligned``: see ALIGNED; ``user``: mask
    of what user space may see; ``size``: of the whole in standard form;
    ``sw_bytes``: the 48 bytes of xstate_fx_sw_bytes.
    """

    offsets: Mapping[int, int]
    sizes: Mapping[int, int]
    aligned: frozenset[int]
    user: int
    size: int
    sw_bytes: bytes

    def compacted(self, xcomp_bv: int) -> dict[int, int]:
        """Offsets of the components in a buffer whose header has that xcomp_bv (Intel SDM vol. 1, 13.4.3)."""
        at, found = EXTENDED, {}
        for number in range(2, 63):
            if xcomp_bv >> number & 1:
                at = at + 63 & ~63 if number in self.aligned else at
                found[number] = at
                at += self.sizes.get(number, 0)
        return found


def to_uabi(area: bytes, init: bytes, layout: XstateLayout, features: int, pkru: int | None = None) -> bytes:
    """An XSAVE area of either form in standard form: copy_xstate_to_uabi_buf(), arch/x86/kernel/fpu/xstate.c.

    ``init``: the area of init_fpstate, which legacy components in their initial
    state are taken from; ``features``: those that user space may see; ``pkru``:
    the thread's, where the kernel keeps it apart.
    """
    xfeatures, xcomp_bv = struct.unpack_from("<QQ", area, HEADER)
    xfeatures &= features
    out = bytearray(layout.size)
    out[:LEGACY] = legacy(area, init, xfeatures)
    out[SW_BYTES:LEGACY] = layout.sw_bytes
    struct.pack_into("<Q", out, HEADER, xfeatures)
    source = layout.compacted(xcomp_bv) if xcomp_bv & COMPACTED else layout.offsets
    for number, target in layout.offsets.items():
        if number < 2 or not xfeatures >> number & 1 or number not in source:
            continue
        size = layout.sizes[number]
        piece = area[source[number] : source[number] + size]
        if number == PKRU and pkru is not None:
            piece = pkru.to_bytes(4, "little").ljust(size, b"\0")
        if target + size <= len(out):
            out[target : target + len(piece)] = piece
    return bytes(out)


def legacy(area: bytes, init: bytes, xfeatures: int) -> bytes:
    """The FXSAVE area; x87, MXCSR and SSE each from ``init`` if they are in their initial state."""
    fp = area if xfeatures & 1 << FP else init
    mxcsr = area if xfeatures & (1 << SSE | 1 << YMM) else init
    sse = area if xfeatures & 1 << SSE else init
    return (fp[:24] + mxcsr[24:32] + fp[32:160] + sse[160:416]).ljust(LEGACY, b"\0")


# -- what the kernel knows of this machine


def xstate_layout(session: Session) -> XstateLayout | None:
    """The components; None on a machine without XSAVE."""
    return session.memo("xstate layout", lambda: _layout(session))


def _layout(session: Session) -> XstateLayout | None:
    size = _regset_size(session)
    symbol = session.symbols.symbol("xstate_offsets")
    if not size or symbol is None:
        return None
    count = min(symbol.size // 4, 63) or 19
    offsets, sizes = _integers(session, "xstate_offsets", count), _integers(session, "xstate_sizes", count)
    sw_bytes = _read_variable(session, "xstate_fx_sw_bytes", 48)
    user = int.from_bytes(sw_bytes[:8], "little") or _user_mask(session)
    sw_bytes = user.to_bytes(8, "little") + sw_bytes[8:]
    known = {
        n: (offsets[n], sizes[n]) for n in range(2, count) if user >> n & 1 and offsets[n] + sizes[n] <= size
    }
    all_sizes = {n: sizes[n] for n in range(2, count) if sizes[n] < MAX_XSAVE}
    aligned = _aligned(session, count)
    return XstateLayout({n: o for n, (o, _) in known.items()}, all_sizes, aligned, user, size, sw_bytes)


def _integers(session: Session, name: str, count: int) -> tuple[int, ...]:
    data = _read_variable(session, name, 4 * count)
    return struct.unpack(f"<{count}I", data)


def _read_variable(session: Session, name: str, size: int) -> bytes:
    address = session.symbols.find_kernel(name)
    return session.memory.read(address, size) if address is not None else bytes(size)


def _aligned(session: Session, count: int) -> frozenset[int]:
    if session.symbols.find_kernel("xstate_flags") is None:
        return ALIGNED
    flags = _integers(session, "xstate_flags", count)
    return frozenset(number for number, value in enumerate(flags) if value & 2)


def _user_mask(session: Session) -> int:
    address = session.symbols.find_kernel("fpu_user_cfg")
    if address is not None:
        offset = session.types.offset("struct fpu_state_config", "max_features")
        return session.memory.u64(address + offset)
    for name in ("xfeatures_mask_all", "xfeatures_mask", "pcntxt_mask"):
        address = session.symbols.find_kernel(name)
        if address is not None:
            return session.memory.u64(address) & 0x602FF  # XFEATURE_MASK_USER_SUPPORTED
    return 3


def _regset_size(session: Session) -> int:
    """Bytes of an NT_X86_XSTATE note: what update_regset_xstate_info() put into the kernel's regsets."""
    tables = map(session.symbols.find_kernel, ("x86_64_regsets", "x86_32_regsets"))
    address = next((found for found in tables if found is not None), None)
    if address is None or not session.types.has("struct user_regset"):
        return 0
    stride = session.types.size("struct user_regset")
    reader = session.types.reader("struct user_regset", "core_note_type", "n", "size")
    for number in range(8):
        base = address + number * stride + reader.start
        kind, count, size = reader(session.memory.read(base, reader.size))
        if kind == 0x202:
            return count * size if count * size <= MAX_XSAVE else 0
    return 0


# -- a thread's state


@dataclass(frozen=True, slots=True)
class FpuState:
    """``area``: as the kernel saved it; ``features``: what user space may see of it, None for all."""

    area: bytes
    features: int | None


def fpu_address(session: Session, task: int) -> int:
    """Where a task's struct fpu lies: x86_task_fpu()."""
    types = session.types
    if not types.has("struct task_struct", "thread.fpu"):
        return task + types.size("struct task_struct")
    member = types.compound("struct task_struct").path("thread.fpu")
    address = task + member.offset
    return session.memory.word(address) if isinstance(member.type.underlying, PointerType) else address


def _buffer(session: Session, fpu: int) -> tuple[int, int | None]:
    """``(address of the saved registers, user features)``."""
    types, memory = session.types, session.memory
    if types.has("struct fpu", "fpstate"):
        state = memory.word(fpu + types.offset("struct fpu", "fpstate"))
        user = memory.u64(state + types.offset("struct fpstate", "user_xfeatures"))
        return state + types.offset("struct fpstate", "regs"), user
    member = types.compound("struct fpu").path("state")
    address = fpu + member.offset
    if isinstance(member.type.underlying, PointerType):
        address = memory.word(address)
    return address, None


def fpu_state(thread: Thread) -> FpuState | None:
    """The saved state of a thread; None if it never used the FPU. Raises Unavailable, KcrashError."""
    session, task = thread.session, thread.task
    fpu = fpu_address(session, task.address)
    if not _used(thread, fpu):
        return None
    if thread.cpu is not None and not _memory_is_current(thread, fpu):
        raise Unavailable(f"still in the registers of CPU {thread.cpu}")
    address, features = _buffer(session, fpu)
    if not address:
        return None
    layout = xstate_layout(session)
    size = _saved_size(session, layout)
    return FpuState(session.memory.read(address, size), features)


def _saved_size(session: Session, layout: XstateLayout | None) -> int:
    """Bytes of a saved area: all components, in whichever form is longer."""
    if layout is None:
        return LEGACY
    found = [layout.size, EXTENDED]
    found += [offset + layout.sizes[n] for n, offset in layout.offsets.items()]
    compacted = layout.compacted((1 << 63) - 1 & ~3 & _present(layout))
    found += [offset + layout.sizes[n] for n, offset in compacted.items()]
    return min(max(found), MAX_XSAVE)


def _present(layout: XstateLayout) -> int:
    return sum(1 << number for number in layout.sizes)


def _used(thread: Thread, fpu: int) -> bool:
    """All have state since Linux commit 2722146eb784 ("x86/fpu: Remove fpu->initialized") in v5.2."""
    types, memory = thread.session.types, thread.session.memory
    flag = types.first_member("struct fpu", ("initialized", "fpstate_active"))
    if flag is not None:
        return bool(memory.u8(fpu + types.offset("struct fpu", flag)))
    if types.has("struct fpu", "has_fpu"):
        return bool(thread.task.flags & PF_USED_MATH)
    return True


def _memory_is_current(thread: Thread, fpu: int) -> bool:
    """For a thread that was on a CPU: whether that CPU has no newer registers of it.

    True if another context owns the CPU's registers, or TIF_NEED_FPU_LOAD says that
    they are yet to be loaded.
    """
    session, cpu = thread.session, thread.cpu
    owner = session.per_cpu_address("fpu_fpregs_owner_ctx", cpu) if cpu is not None else None
    if owner is not None and session.memory.word(owner) not in (0, fpu):
        return True
    offset = session.types.first_member("struct task_struct", ("thread_info.flags",))
    if offset is None or not session.types.has("struct fpu", "last_cpu"):
        return False
    # The bits were numbered anew when x86 took the generic ones, which start with these two.
    if session.types.has("struct task_struct", "rseq.event"):
        return False
    flags = session.memory.word(thread.task.address + session.types.offset("struct task_struct", offset))
    return bool(flags >> TIF_NEED_FPU_LOAD & 1)


def _initial(session: Session) -> bytes:
    """The legacy area of init_fpstate."""
    return session.memo("init_fpstate", lambda: _read_initial(session))


def _read_initial(session: Session) -> bytes:
    address = session.symbols.find_kernel("init_fpstate")
    if address is None:
        return struct.pack("<H22xI", 0x37F, 0x1F80).ljust(LEGACY, b"\0")
    if session.types.has("struct fpstate", "regs"):
        address += session.types.offset("struct fpstate", "regs")
    return session.memory.read(address, LEGACY)


def _cut(state: FpuState) -> None:
    if len(state.area) < EXTENDED:
        raise CorruptData("the saved FPU state is too short")


def fpregs(thread: Thread) -> bytes | None:
    """NT_FPREGSET: struct user_fpregs_struct, 512 bytes (xfpregs_get())."""
    state = fpu_state(thread)
    if state is None:
        return None
    if xstate_layout(thread.session) is None:
        return state.area[:LEGACY]
    _cut(state)
    xfeatures = struct.unpack_from("<Q", state.area, HEADER)[0]
    return legacy(state.area, _initial(thread.session), xfeatures & 3)


def xstate(thread: Thread) -> bytes | None:
    """NT_X86_XSTATE (xstateregs_get()); None on a machine without XSAVE."""
    layout = xstate_layout(thread.session)
    state = fpu_state(thread) if layout is not None else None
    if layout is None or state is None:
        return None
    _cut(state)
    features = layout.user if state.features is None else state.features
    return to_uabi(state.area, _initial(thread.session), layout, features, _pkru(thread))


def _pkru(thread: Thread) -> int | None:
    """Kept apart since Linux commit 9782a712eb97 ("x86/fpu: Add PKRU storage outside of task XSAVE buffer")
    in v5.14."""
    types = thread.session.types
    if not types.has("struct task_struct", "thread.pkru"):
        return None
    offset = types.offset("struct task_struct", "thread.pkru")
    return thread.session.memory.u32(thread.task.address + offset)


def shadow_stack(thread: Thread) -> bytes | None:
    """NT_X86_SHSTK: the shadow stack pointer (ssp_get()), where the thread has one."""
    session = thread.session
    if not session.types.has("struct task_struct", "thread.features"):
        return None
    address = thread.task.address + session.types.offset("struct task_struct", "thread.features")
    if not session.memory.word(address) & 1:  # ARCH_SHSTK_SHSTK
        return None
    layout, state = xstate_layout(session), fpu_state(thread)
    if layout is None or state is None:
        return None
    _cut(state)
    xfeatures, xcomp_bv = struct.unpack_from("<QQ", state.area, HEADER)
    offset = layout.compacted(xcomp_bv).get(CET_USER)
    if offset is None or not xfeatures >> CET_USER & 1:
        raise Unavailable("no shadow stack state was saved")
    return state.area[offset + 8 : offset + 16]  # struct cet_user_state.user_ssp


def io_permissions(thread: Thread) -> bytes | None:
    """NT_386_IOPERM: the bitmap of I/O ports (ioperm_get()), where the thread has one."""
    session, types = thread.session, thread.session.types
    if types.has("struct io_bitmap", "bitmap"):
        member = types.compound("struct io_bitmap").path("bitmap")
        pointer = session.memory.word(
            thread.task.address + types.offset("struct task_struct", "thread.io_bitmap")
        )
        size = member.type.size if isinstance(member.type.underlying, ArrayType) else 8192
        return session.memory.read(pointer + member.offset, min(size, 8192)) if pointer else None
    # Before "x86/ioperm: Move iobitmap data into a struct" in Linux v5.5.
    if not types.has("struct task_struct", "thread.io_bitmap_ptr"):
        return None
    offset = types.offset("struct task_struct", "thread.io_bitmap_ptr")
    pointer = session.memory.word(thread.task.address + offset)
    return session.memory.read(pointer, 8192) if pointer else None


def xsave_layout_note(session: Session) -> bytes | None:
    """NT_X86_XSAVE_LAYOUT: {type, size, offset, flags} of each component (dump_xsave_layout_desc()).

    Linux commit ba386777a30b ("x86/elf: Add a new FPU buffer layout info to x86 core files") in v6.12.
    """
    if session.symbols.find_kernel("elf_coredump_extra_notes_write") is None:
        return None
    try:
        layout = xstate_layout(session)
        mask = _user_mask(session)
    except KcrashError:
        return None
    if layout is None or not mask:
        return None
    components = [n for n in sorted(layout.offsets) if n >= 2 and mask >> n & 1]
    return b"".join(struct.pack("<4I", n, layout.sizes[n], layout.offsets[n], 0) for n in components)
