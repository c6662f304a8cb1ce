"""Frames of functions that no table describes, found by the call that made them."""

from __future__ import annotations

import struct
from bisect import bisect_left

import pytest

from kcrash.arch.x86_64 import DWARF, call_target, pushed_registers
from kcrash.symbols.elffile import ElfFile
from kcrash.symbols.table import ElfSymbols
from kcrash.unwind import CfiTable, Frame, Registers, Unwinder
from kcrash.unwind.rules import Kind
from kcrash.unwind.unwinder import MAX_CALL_WORDS
from tests.unwind.support import BIG32, X86, Memory, vmlinuxes
from tests.unwind.test_unwinder import CALL16, END, STACK, Table, code, function, start

BARE = function(9)  # the function without a table
PUSHES = b"\xf3\x0f\x1e\xfa\x0f\x1f\x44\x00\x00\x55\x48\x89\xe5\x41\x57\x53\x48\x83\xec\x20" + bytes(12)


def put(memory: Memory, address: int, data: bytes) -> None:
    memory.bytes.update(enumerate(data, address))


def put_call(memory: Memory, to: int, back: int) -> None:
    """A direct call of ``to`` whose return address is ``back``."""
    put(memory, back - 5, b"\xe8" + struct.pack("<i", to - back))


def machine(slot: int, back: int, entry: bytes = b"\x90" * 0x20) -> Memory:
    """A stack where ``back`` stands at ``slot`` behind a call of BARE, and the caller's frame above it."""
    memory = Memory(X86, {STACK + 8 * i: 7 for i in range(64)})
    memory.put(slot, back)
    memory.put(slot + 16, function(3) + 7)  # CALL16: the return address of the caller
    put_call(memory, BARE, back)
    put(memory, BARE, entry)
    return memory


def frames(memory: Memory, table: Table, first: Registers) -> list[Frame]:
    unwinder = Unwinder(memory.target, code(table), memory, function_start=lambda pc: pc & ~0xFF)
    return list(unwinder.unwind(first))


CALLER = Table({function(2): CALL16, function(3): END})


def test_the_call_proves_the_frame() -> None:
    memory = machine(STACK + 40, function(2) + 5)
    found = frames(memory, CALLER, start(BARE + 0x18))
    assert [f.pc for f in found] == [BARE + 0x18, function(2) + 5, function(3) + 7]
    assert [f.method for f in found] == ["start", "call", "cfi"]
    assert found[0].cfa == STACK + 48 == found[1].registers.get(7)
    assert set(found[1].registers) == {7, 16}, "nothing is known of the other registers"


def test_pushed_registers_come_back() -> None:
    memory = machine(STACK + 40, function(2) + 5, PUSHES)
    for place, value in enumerate((0xB0, 0x15, 0xB3), 1):
        memory.put(STACK + 40 - 8 * place, value)
    found = frames(memory, CALLER, start(BARE + 0x18, r6=STACK + 32, r3=1, r15=2))
    assert [found[1].registers.get(n) for n in (6, 15, 3)] == [0xB0, 0x15, 0xB3]
    # Standing before the push of r15, it has not been saved, and rbx neither.
    early = frames(memory, CALLER, start(BARE + 0xD, r6=STACK + 32, r3=1, r15=2))
    assert early[1].method == "call" and set(early[1].registers) == {6, 7, 16}


@pytest.mark.parametrize(
    ("fp", "kept"), [(STACK + 64, True), (STACK + 8, False), (STACK - 8, False), (1, False)]
)
def test_a_frame_pointer_that_points_up_is_the_callers(fp: int, kept: bool) -> None:
    found = frames(machine(STACK + 40, function(2) + 5), CALLER, start(BARE + 0x18, r6=fp))
    assert found[1].registers.get(6) == (fp if kept else None)


def test_what_is_left_of_other_calls_proves_nothing() -> None:
    memory = machine(STACK + 40, function(2) + 5)
    memory.put(STACK, function(4) + 5)  # behind a call of something else
    put_call(memory, function(5), function(4) + 5)
    memory.put(STACK + 8, function(6) + 5)  # behind a call of BARE, but no table knows the caller
    put_call(memory, BARE, function(6) + 5)
    memory.put(STACK + 16, function(7) + 5)  # likewise, of a caller whose own caller is no code
    put_call(memory, BARE, function(7) + 5)
    memory.put(STACK + 24, function(8) + 5)  # behind a call through a register
    put(memory, function(8), b"\x90\x90\x90\xff\xd0")
    table = Table({**CALLER.rows, function(7): CALL16, function(8): CALL16, function(4): CALL16})
    found = frames(memory, table, start(BARE + 0x18))
    assert [f.pc for f in found] == [BARE + 0x18, function(2) + 5, function(3) + 7]


def test_the_search_is_bounded() -> None:
    far = STACK + 8 * MAX_CALL_WORDS
    memory = machine(far, function(2) + 5)
    for i in range(MAX_CALL_WORDS + 8):
        memory.bytes.setdefault(STACK + 8 * i, 0)
        if STACK + 8 * i not in (far, far + 16):
            memory.put(STACK + 8 * i, 0)
    found = frames(memory, CALLER, start(BARE + 0x18))
    assert len(found) == 1 and "nothing tells" in found[0].note
    memory.put(far - 8, function(2) + 5)
    memory.put(far + 8, function(3) + 7)
    assert len(frames(memory, CALLER, start(BARE + 0x18))) == 3


def test_the_search_ends_with_the_stack() -> None:
    memory = machine(STACK + 40, function(2) + 5)
    unwinder = Unwinder(
        X86, code(CALLER), memory, stack_of=lambda a: a >> 5, function_start=lambda pc: pc & ~0xFF
    )
    assert len(list(unwinder.unwind(start(BARE + 0x18)))) == 1


def test_nothing_to_prove_with() -> None:
    memory = machine(STACK + 40, function(2) + 5)
    assert len(list(Unwinder(X86, code(CALLER), memory).unwind(start(BARE + 0x18)))) == 1
    assert BIG32.call_code is None
    assert len(frames(memory, CALLER, Registers({16: BARE + 0x18, 51: 0x10}))) == 1, "no stack pointer"


def test_call_target() -> None:
    memory = Memory(X86)
    put_call(memory, function(1), function(8))
    assert call_target(memory, function(8)) == function(1)
    put(memory, function(8) - 5, b"\xe9")
    assert call_target(memory, function(8)) is None


@pytest.mark.lab
@pytest.mark.parametrize(("version", "path"), list(vmlinuxes()))
def test_pushes_of_real_functions_are_those_of_cfi(version: str, path: object) -> None:
    """Every 10th function: what it pushes is saved where .debug_frame says, once it has been pushed."""
    elf = ElfFile(str(path))
    symbols, frame = ElfSymbols(elf), elf.section_data(".debug_frame")
    assert frame is not None
    cfi, checked = CfiTable(frame, X86), 0
    text = elf.sections[".text"]
    starts = [s.address for s in symbols.all() if s.type in "tT"]
    low, high = bisect_left(starts, text.addr), bisect_left(starts, text.addr + text.size)
    for address in starts[low:high:10]:
        at = text.offset + address - text.addr
        data = elf.mm[at : at + 40]
        pushed = pushed_registers(data)
        end = next(i for i in range(41) if i == 40 or len(pushed_registers(data[:i])) == len(pushed))
        row = cfi.row(address + end)
        if row is None or row.cfa is None or not pushed:
            continue
        saved = {n: rule.offset for n, rule in row.rules if rule.kind == Kind.SAVED and n != DWARF["rip"]}
        places = [(n, -8 * place) for place, n in enumerate(pushed, 2) if n in X86.callee_saved]
        for number, offset in dict(reversed(places)).items():
            if number in saved:  # behind a frame pointer, gcc says so only when the register changes
                assert saved[number] == offset, f"{version} {address:x} {pushed} {saved}"
                checked += 1
    assert checked > 1000
