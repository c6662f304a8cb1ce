"""Cores of 31-bit programs on s390x, for which the lab has no compiler: the registers' short forms."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kcrash.arch.s390x import ACCESS
from kcrash.extensions.gcore.regsets import s390, s390x
from kcrash.extensions.gcore.regsets.base import UserRegisters

GPRS = {f"r{number}": 0xAAAA_0000_0000_0000 + (number << 32) | 0x1111 * number for number in range(16)}


def thread(mask: int, address: int) -> Any:
    """A thread that sleeps; its access registers are 0 to 15."""
    values = {"pswm": mask, "pswa": address, "orig_gpr2": 7, **GPRS}
    saved = {
        "thread.acrs": struct.pack(">16I", *range(16)),
        "thread.last_break": (0x1_8000_2468).to_bytes(8, "big"),
    }
    types = SimpleNamespace(
        has=lambda name, path: path in saved, offset=lambda name, path: [*saved].index(path)
    )
    memory = SimpleNamespace(read=lambda at, size: [*saved.values()][at][:size])
    return SimpleNamespace(
        session=SimpleNamespace(types=types, memory=memory, arch=SimpleNamespace(byte_order="big")),
        task=SimpleNamespace(address=0),
        cpu=None,
        cpu_note=None,
        entry_registers=lambda: UserRegisters(dict(values), "kernel stack"),
    )


def test_registers_of_a_31_bit_program() -> None:
    """__peek_user_compat(): the upper word of the PSW's mask, the address with the mode's bit."""
    found = s390.general(cast(Any, thread(0x0705_1000_8000_0000, 0x40_1234))).values
    assert found["pswm"] == 0x070D_1000 and found["pswa"] == 0x8040_1234
    assert [found[f"a{number}"] for number in range(16)] == list(range(16))
    words = [found[name] & 0xFFFF_FFFF for name in s390.PRSTATUS.registers]
    assert words[2:18] == [0x1111 * number for number in range(16)] and words[-1] == 7
    halves = struct.unpack(">16I", s390.high_halves(cast(Any, thread(0, 0))))
    assert halves == tuple(0xAAAA_0000 + number for number in range(16))


def test_sizes_are_those_that_debuggers_expect() -> None:
    """s390_regs of 31 bits has 36 words (gdb's s390_sizeof_gregset), the last of them padding."""
    layout = s390.PRSTATUS
    assert layout.regs == 72 and len(layout.registers) == 35 and layout.fpvalid == layout.regs + 36 * 4
    assert layout.size == (layout.fpvalid + 4 + 7 & -8)


def test_last_break_is_a_short_number() -> None:
    assert s390.short_last_break(cast(Any, thread(0, 0))) == bytes(4) + (0x8000_2468).to_bytes(4, "big")


@pytest.mark.parametrize(
    "mask, shown", [(0, 0x0705 << 48), (1 << 39, 0x0705_0080 << 32), (1 << 46, 0x0705_4000 << 32)]
)
def test_the_mask_shows_what_a_program_may_have(mask: int, shown: int) -> None:
    """__peek_user(): PSW_MASK_USER and PSW_MASK_RI, the other bits as of any program."""
    found = s390x.registers(cast(Any, thread(mask | 0xFF << 56, 0))).values
    assert found["pswm"] == shown and found[ACCESS[0]] == 1
