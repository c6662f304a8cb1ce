"""What unwinding needs to know of a CPU and of memory, and nothing more."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from kcrash.arch.base import FrameLayout

if TYPE_CHECKING:
    from kcrash.arch.base import Arch, CallCode, Prologue


#: Addresses, each from the first up to its end.
Ranges = tuple[tuple[int, int], ...]


class MemoryReader(Protocol):
    """Where stacks are read from."""

    def read(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises MemoryFault."""


@dataclass(frozen=True, slots=True)
class RegsLayout:
    """``struct pt_regs`` of one kernel: DWARF number -> (byte offset, bytes); ``size`` of the whole.

    ``record``: offset of the frame record in it, None for none; ``record_type``: of the word
    that tells what an empty record stands for, None in kernels without one.
    """

    size: int
    fields: Mapping[int, tuple[int, int]]
    record: int | None = None
    record_type: int | None = None


# arch/x86/include/asm/ptrace.h: the same words at the same places in every kernel so far. cs and ss
# count as words: the bits above their 16 are zero without FRED, and FRED's are no part of them.
X86_64_REGS = RegsLayout(
    168,
    {
        15: (0, 8), 14: (8, 8), 13: (16, 8), 12: (24, 8), 6: (32, 8), 3: (40, 8), 11: (48, 8), 10: (56, 8),
        9: (64, 8), 8: (72, 8), 0: (80, 8), 2: (88, 8), 1: (96, 8), 4: (104, 8), 5: (112, 8), 16: (128, 8),
        51: (136, 2), 49: (144, 8), 7: (152, 8), 52: (160, 2),
    },
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Target:
    """One CPU, as far as frames go. Registers by DWARF number.

    ``pc``: where a frame's own pc is kept; ``return_column``: where a call leaves
    the return address (the same on x86_64; 32 and 30 on arm64).
    ``null_call``: bytes that a call pushes, by which a jump to address 0 is
    undone; 0 where the return address stays in ``return_column``.
    ``canonical``: what to do with a return address that was read (arm64's
    pointer authentication bits), None for nothing; ``ra_sign_state``: arm64's
    pseudo-register that tells whether there are any.
    ``user_mode``: True if registers are those of user space.
    ``call_code``: what code tells of calls, None if it cannot be asked.
    ``regs_code``: addresses of FrameLayout.regs_functions, each from the first up to its end.
    ``entry_text``, ``partial``: addresses likewise, of those in FrameLayout.
    ``saved_registers``: True if registers, and the address behind them, can be what entry code saved.
    ``prologue``: see Arch.
    """

    name: str
    word_bytes: int
    byte_order: str
    pc: int
    sp: int
    fp: int
    return_column: int
    callee_saved: frozenset[int]
    frame: FrameLayout
    regs: RegsLayout | None = None
    null_call: int = 0
    ra_sign_state: int | None = None
    canonical: Callable[[int], int] | None = None
    user_mode: Callable[[Mapping[int, int]], bool] = field(default=lambda registers: False)
    call_code: CallCode | None = None
    prologue: Callable[[bytes], Prologue] | None = None
    regs_code: Ranges = ()
    entry_text: Ranges = ()
    partial: Ranges = ()
    saved_registers: Callable[[Mapping[int, int], int], bool] = field(default=lambda registers, end: False)

    @cached_property
    def mask(self) -> int:
        """All bits of a word."""
        return (1 << 8 * self.word_bytes) - 1

    @cached_property
    def order(self) -> str:
        """The byte order as struct spells it."""
        return "<" if self.byte_order == "little" else ">"

    @cached_property
    def word(self) -> struct.Struct:
        """One unsigned word."""
        return struct.Struct(self.order + ("Q" if self.word_bytes == 8 else "I"))


def target_for(
    arch: Arch,
    regs: RegsLayout | None = None,
    canonical: Callable[[int], int] | None = None,
    regs_code: Ranges = (),
    entry_text: Ranges = (),
    partial: Ranges = (),
) -> Target:
    """The target of an architecture record.

    ``regs``: layout of struct pt_regs as the kernel's types tell it; X86_64_REGS
    does for every x86_64 kernel. ``canonical``: what Arch.code_pointer gives for the kernel.
    ``regs_code``, ``entry_text``, ``partial``: see Target.
    """
    words = arch.word_bytes
    pushes = arch.dwarf[arch.pc] == arch.return_column

    def named(registers: Mapping[int, int]) -> dict[str, int]:
        return {name: registers[n] for name, n in arch.dwarf.items() if n in registers}

    return Target(
        name=arch.name,
        word_bytes=words,
        byte_order=arch.byte_order,
        pc=arch.dwarf[arch.pc],
        sp=arch.dwarf[arch.sp],
        fp=arch.dwarf[arch.fp],
        return_column=arch.return_column,
        callee_saved=arch.callee_saved,
        frame=arch.frame,
        regs=regs,
        null_call=words if pushes else 0,
        ra_sign_state=arch.dwarf.get("ra_sign_state"),
        canonical=canonical,
        user_mode=lambda registers: arch.user_mode(named(registers)),
        saved_registers=lambda registers, end: arch.saved_registers(named(registers), end),
        call_code=arch.call_code,
        prologue=arch.prologue,
        regs_code=regs_code,
        entry_text=entry_text,
        partial=partial,
    )
