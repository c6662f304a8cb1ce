"""Kernels whose fast system calls leave half of pt_regs unwritten: a kernel stack known word by word."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kcrash.arch.x86_64 import DWARF, X86_64
from kcrash.errors import KcrashError
from kcrash.extensions.gcore.process import Thread
from kcrash.extensions.gcore.regsets.base import UserRegisters
from kcrash.extensions.gcore.regsets.x86_64 import NO_CALL, partial_registers
from kcrash.unwind.codemap import CodeMap, Tables
from kcrash.unwind.registers import Registers
from kcrash.unwind.rules import Kind, Row, Rule
from kcrash.unwind.target import target_for
from kcrash.unwind.unwinder import Unwinder
from tests.linux.fakes import ULONG, FakeMemory, struct_type
from tests.linux.fakes import session as fake_session

CALLEE_SAVED = ("rbx", "rbp", "r12", "r13", "r14", "r15")
TRUE = {name: 0x1111 * (n + 1) for n, name in enumerate(CALLEE_SAVED)}
JUNK = dict.fromkeys(CALLEE_SAVED, 0xDEAD)
STACK, SIZE = 0x8000, 0x1000
SCHEDULE, SYS_READ, ENTRY = 0x100, 0x200, 0x300  # __schedule, sys_read, entry_SYSCALL_64_fastpath


class Table:
    """Rows by function: what CFI would say."""

    def __init__(self, rows: dict[int, Row]) -> None:
        self.rows = rows

    def row(self, pc: int) -> Row | None:
        return self.rows.get(pc & ~0xFF)


def _row(cfa: int, saved: dict[str, int], last: bool = False) -> Row:
    rules = [(DWARF[name], Rule(Kind.SAVED, 0, offset)) for name, offset in saved.items()]
    rules += [(DWARF[n], Rule(Kind.REGISTER, DWARF[n])) for n in CALLEE_SAVED if n not in saved]
    rules.append((DWARF["rip"], Rule(Kind.SAVED, 0, -8)))
    rules.append((DWARF["rsp"], Rule(Kind.CFA)))
    return Row(None if last else Rule(Kind.REGISTER, DWARF["rsp"], cfa), tuple(rules), 16, False, "cfi")


def _stack() -> tuple[FakeMemory, int, int]:
    """__schedule saved rbx and rbp, sys_read r12 to r14; r15 was never touched. (memory, sp, top)"""
    top = STACK + SIZE - 168
    words: dict[int, int] = {}
    at = top  # the frame of entry_SYSCALL_64 is pt_regs itself
    words[at - 8] = ENTRY + 0x20  # sys_read returns there
    words[at - 16], words[at - 24], words[at - 32] = TRUE["r12"], TRUE["r13"], TRUE["r14"]
    at -= 40
    words[at] = SYS_READ + 0x30  # __schedule returns there
    words[at - 8], words[at - 16] = TRUE["rbx"], TRUE["rbp"]
    sp = at - 16
    memory = FakeMemory()
    raw = bytearray(SIZE)
    for address, value in words.items():
        struct.pack_into("<Q", raw, address - STACK, value)
    memory.pieces[STACK] = bytes(raw)
    return memory, sp, top


ROWS = {
    SCHEDULE: _row(24, {"rbx": -16, "rbp": -24}),
    SYS_READ: _row(32, {"r12": -16, "r13": -24, "r14": -32}),
    ENTRY: _row(0, {}, last=True),
}


def _frames(rows: dict[int, Row], known: dict[str, int]) -> list[Any]:
    memory, sp, _ = _stack()
    code = CodeMap()
    code.add(0x100, 0x400, lambda: Tables(cast(Any, Table(rows)), None))
    start = {DWARF["rip"]: SCHEDULE + 0x10, DWARF["rsp"]: sp} | {DWARF[n]: v for n, v in known.items()}
    machine = Unwinder(target_for(X86_64), code, memory, stack_of=lambda address: 1)
    return list(machine.unwind(Registers(start), interrupted=False))


def _thread(monkeypatch: pytest.MonkeyPatch, frames: Any, orig_rax: int) -> Thread:
    memory, _, top = _stack()
    memory.put(0x100, 0x7000, 0)
    types = (
        struct_type("task_struct", ("pid", ULONG, 0)),
        struct_type("thread_info", ("flags", ULONG, 0)),
        struct_type("pt_regs", ("ss", ULONG, 160)),
    )
    session = fake_session(memory, *types)
    session.arch = X86_64
    monkeypatch.setattr("kcrash.extensions.gcore.process.frames", frames)
    monkeypatch.setattr("kcrash.extensions.gcore.process.user_regs_address", lambda *_: top)
    monkeypatch.setattr(
        Thread,
        "entry_registers",
        lambda self: UserRegisters(JUNK | {"rip": 1, "rflags": 2, "orig_rax": orig_rax}, "stack"),
    )
    return Thread(
        session, cast(Any, SimpleNamespace(address=0x100, pid=1, session=session, stack=0x108)), None
    )


def test_saved_registers_come_from_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = _thread(monkeypatch, lambda *_: _frames(ROWS, {"r15": TRUE["r15"]}), 0)
    found = partial_registers(thread)
    assert {name: found.values[name] for name in CALLEE_SAVED} == TRUE
    assert found.missing == ()


def test_frames_without_cfi(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way up ends in sys_read, which may have changed any register: nothing is known."""
    rows = {SCHEDULE: ROWS[SCHEDULE]}
    thread = _thread(monkeypatch, lambda *_: _frames(rows, {"r15": TRUE["r15"]}), 0)
    found = partial_registers(thread)
    assert found.missing == CALLEE_SAVED
    assert all(found.values[name] == 0 for name in found.missing)


def test_a_register_that_a_frame_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = _thread(monkeypatch, lambda *_: _frames(ROWS, {}), 0)
    found = partial_registers(thread)
    assert found.missing == ("r15",)
    assert {n: found.values[n] for n in CALLEE_SAVED if n != "r15"} == {
        n: v for n, v in TRUE.items() if n != "r15"
    }


def test_nothing_to_start_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[Any]:
        raise KcrashError("no registers")

    found = partial_registers(_thread(monkeypatch, fail, 0))
    assert found.missing == CALLEE_SAVED


def test_interrupts_save_all(monkeypatch: pytest.MonkeyPatch) -> None:
    found = partial_registers(_thread(monkeypatch, lambda *_: [], NO_CALL))
    assert {name: found.values[name] for name in CALLEE_SAVED} == JUNK
    assert found.missing == ()
