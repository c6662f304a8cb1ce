"""Steps and stops on stacks made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kcrash.errors import BadFormat
from kcrash.unwind import CodeMap, Frame, Registers, Tables, Unwinder
from kcrash.unwind.framepointer import frame_row
from kcrash.unwind.memory import BlockReader
from kcrash.unwind.orc import Base, OrcEntry, OrcType, make_row
from kcrash.unwind.rules import Kind, Row, Rule, same_value
from tests.unwind.support import BIG32, X86, Memory

TEXT = 0xFFFFFFFF81000000
STACK = 0xFFFFC90000010000
CALL16 = Row(
    Rule(Kind.REGISTER, 7, 16),
    ((16, Rule(Kind.SAVED, offset=-8)), (7, Rule(Kind.CFA)), (6, Rule(Kind.SAVED, offset=-16))),
    16,
    False,
    "cfi",
)
END = Row(None, (), 16, False, "orc")
USER = {16: 0x401000, 7: 0x7FFE0000, 51: 0x33}


# As x86_64, but with return addresses in a register, where a step need not move the stack.
LINKED = replace(X86, null_call=0)


class Table:
    """Rows by range of 256 bytes; every lookup is remembered."""

    def __init__(self, rows: dict[int, Row | None], switching: set[int] | None = None) -> None:
        self.rows, self.switching, self.asked = rows, switching or set(), list[int]()

    def row(self, pc: int) -> Row | None:
        self.asked.append(pc)
        return self.rows.get(pc & ~0xFF)

    def switches_stack(self, pc: int) -> bool:
        return pc & ~0xFF in self.switching


class Broken(Table):
    def row(self, pc: int) -> Row | None:
        raise BadFormat("broken", "nonsense", 1)

    def switches_stack(self, pc: int) -> bool:
        raise BadFormat("broken", "nonsense", 1)


def function(number: int) -> int:
    return TEXT + 0x100 * number


def code(cfi: Table | None = None, orc: Table | None = None) -> CodeMap:
    found = CodeMap()
    found.add(TEXT, TEXT + 0x10000, Tables(cfi, orc))
    return found


def start(pc: int, sp: int = STACK, **others: int) -> Registers:
    return Registers({16: pc, 7: sp, 51: 0x10} | {int(name[1:]): value for name, value in others.items()})


def trace(memory: Memory, map_: CodeMap, first: Registers, **options: object) -> list[Frame]:
    return list(Unwinder(memory.target, map_, memory).unwind(first, **options))  # type: ignore[arg-type]


def test_calls_to_the_end_of_the_stack() -> None:
    memory = Memory(X86, {STACK: 0xB0, STACK + 8: function(2), STACK + 16: 0xB1, STACK + 24: function(3) + 7})
    table = Table({function(1): CALL16, function(2) - 0x100: CALL16, function(3): END})
    frames = trace(memory, code(table), start(function(1) + 4, r3=9))
    assert [f.pc for f in frames] == [function(1) + 4, function(2), function(3) + 7]
    assert [f.cfa for f in frames] == [STACK + 16, STACK + 32, None]
    assert [f.method for f in frames] == ["start", "cfi", "cfi"]
    assert [f.registers.get(6) for f in frames] == [None, 0xB0, 0xB1]
    assert [f.level for f in frames] == [0, 1, 2] and {f.note for f in frames} == {""}
    # The exact pc of the first frame, one less for return addresses: function(2) begins behind the call.
    assert table.asked == [function(1) + 4, function(2) - 1, function(3) + 6]
    assert [f.lookup_pc for f in frames] == table.asked
    assert frames[1].registers.get(3) is None, "the rows do not speak of rbx: unknown"


def test_a_task_that_never_ran() -> None:
    table = Table({function(4): END})
    frames = trace(Memory(X86), code(table), start(function(4)), interrupted=False)
    assert table.asked == [function(4) - 1, function(4)] and frames[0].note == ""


def regs_memory(at: int, pc: int, sp: int, cs: int = 0x10) -> Memory:
    memory = Memory(X86, {at + 8 * i: 0x100 + i for i in range(21)})
    for offset, value in ((128, pc), (136, cs), (152, sp)):
        memory.put(at + offset, value)
    return memory


def orc(kind: OrcType, base: Base = Base.SP, offset: int = 0, bp: Base = Base.UNDEFINED) -> Row | None:
    return make_row(OrcEntry(kind, base, offset, bp, -16, kind is not OrcType.CALL), X86)


def test_exception_on_another_stack() -> None:
    other = STACK - 0x100000  # the interrupted stack is lower
    memory = regs_memory(STACK + 8, function(2), other)
    table = Table({function(1): orc(OrcType.REGS, offset=8), function(2): END})
    frames = trace(memory, code(None, table), start(function(1)))
    interrupted = frames[1]
    assert (interrupted.method, interrupted.interrupted) == ("regs", True)
    assert interrupted.regs_address == STACK + 8 and frames[0].regs_address is None
    assert (interrupted.pc, interrupted.registers.get(7)) == (function(2), other)
    assert (interrupted.registers.get(15), interrupted.registers.get(6)) == (0x100, 0x104)
    assert table.asked == [function(1), function(2)] and not frames[1].note


def test_exception_on_the_same_stack_page_without_knowing_stacks() -> None:
    memory = regs_memory(STACK + 0x1000, function(2), STACK + 0x100)
    table = Table({function(1): orc(OrcType.REGS), function(2): END})
    frames = trace(memory, code(None, table), start(function(1), STACK + 0x1000))
    assert len(frames) == 2 and not frames[1].note
    unwinder = Unwinder(X86, code(None, table), memory, stack_of=lambda address: "one")
    frames = list(unwinder.unwind(start(function(1), STACK + 0x1000)))
    assert len(frames) == 1 and "not above" in frames[0].note


def test_partial_registers() -> None:
    memory = regs_memory(STACK - 128, function(2), STACK + 64)
    table = Table({function(1): orc(OrcType.REGS_PARTIAL), function(2): END})
    frames = trace(memory, code(None, table), start(function(1), r6=0x77, r10=5, r12=6))
    assert frames[1].regs_address == STACK - 128
    known = {16: function(2), 7: STACK + 64, 51: 0x10, 52: 0x114, 49: 0x112, 6: 0x77, 10: 5}
    assert frames[1].registers == known


def test_user_space_is_the_end() -> None:
    memory = regs_memory(STACK, 0x401000, 0x7FFE0000, cs=0x33)
    frames = trace(memory, code(None, Table({function(1): orc(OrcType.REGS)})), start(function(1)))
    assert len(frames) == 2 and frames[1].pc == 0x401000 and not frames[1].note
    assert [f.pc for f in trace(memory, code(), Registers(USER))] == [0x401000]


def test_cfi_before_orc_and_the_other_way() -> None:
    by_cfi, by_orc = Table({function(1): END}), Table({function(1): END})
    trace(Memory(X86), code(by_cfi, by_orc), start(function(1)))
    assert by_cfi.asked and not by_orc.asked
    by_cfi.asked.clear()
    trace(Memory(X86), code(by_cfi, by_orc), start(function(1)), prefer_orc=True)
    assert by_orc.asked and not by_cfi.asked


def test_orc_where_cfi_has_nothing_or_is_wrong() -> None:
    by_orc = Table({function(1): END})
    assert not trace(Memory(X86), code(Table({}), by_orc), start(function(1)))[0].note
    by_orc = Table({function(1): END}, switching={function(1)})
    by_cfi = Table({function(1): CALL16})
    assert len(trace(Memory(X86), code(by_cfi, by_orc), start(function(1)))) == 1 and not by_cfi.asked


def test_irq_stack_switch() -> None:
    old = STACK + 0x40000
    memory = Memory(X86, {STACK: old, old: function(2) + 1})
    switch = make_row(OrcEntry(OrcType.CALL, Base.SP_INDIRECT, 8, Base.UNDEFINED, 0, False), X86)
    table = Table({function(1): switch, function(2): END}, switching={function(1)})
    frames = trace(memory, code(Table({}), table), start(function(1)))
    assert frames[1].pc == function(2) + 1 and frames[1].registers.get(7) == old + 8 == frames[0].cfa


def test_broken_tables_are_told_and_passed_over() -> None:
    frames = trace(Memory(X86), code(Broken({}), Table({function(1): END})), start(function(1)))
    assert not frames[0].note
    frames = trace(Memory(X86), code(Broken({}), Broken({})), start(function(1)))
    assert "broken: offset 0x1: nonsense" in frames[0].note


def test_loops_end() -> None:
    row = replace_rules(CALL16, {7: same_value(7), 16: same_value(16)})
    table = Table({function(1): row})
    frames = list(Unwinder(LINKED, code(table), Memory(LINKED)).unwind(start(function(1) + 4)))
    assert len(frames) < 5 and "circle" in frames[-1].note


def replace_rules(row: Row, changes: dict[int, Rule]) -> Row:
    return row._replace(rules=tuple((dict(row.rules) | changes).items()))


def test_the_stack_must_grow_smaller() -> None:
    row = replace_rules(
        CALL16, {7: Rule(Kind.CFA, offset=-64), 16: Rule(Kind.CONSTANT, offset=function(1) + 4)}
    )
    frames = trace(Memory(X86), code(Table({function(1): row})), start(function(1), STACK + 0x100))
    assert len(frames) == 1 and "not above" in frames[0].note and frames[0].cfa == STACK + 0x110


def test_limit() -> None:
    memory = Memory(X86, {STACK + 8 * i: function(1) + 1 for i in range(400)})
    frames = trace(memory, code(Table({function(1): CALL16})), start(function(1)), limit=100)
    assert len(frames) == 100 and frames[-1].note == "stopped after 100 frames" and not frames[98].note
    frames = trace(memory, code(Table({function(1): CALL16})), start(function(1)))
    assert "no return address: kernel address" in frames[-1].note


@pytest.mark.parametrize(
    ("registers", "note"),
    [
        (Registers({7: STACK}), "the pc is not known"),
        (Registers({16: function(1)}), "it needs a register that is not known"),
        (Registers({16: function(5), 7: STACK}), "nothing tells how to unwind"),
        (Registers({16: function(5), 7: STACK, 6: 0x11}), "no return address"),
        (Registers({16: function(5), 7: STACK, 6: 0x12}), "nothing tells how to unwind"),
        (Registers({16: function(5), 7: STACK + 64, 6: STACK + 8}), "below the stack pointer"),
        (Registers({16: function(5), 7: STACK, 6: STACK + 64}), "no return address: kernel address"),
    ],
)
def test_why_it_stops(registers: Registers, note: str) -> None:
    frames = trace(Memory(X86), code(Table({function(1): CALL16})), registers)
    assert len(frames) == 1 and note in frames[0].note


def test_return_addresses_outside_code() -> None:
    memory = Memory(X86, {STACK: 0, STACK + 8: 0x1234})
    frames = trace(memory, code(Table({function(1): CALL16})), start(function(1)))
    assert [f.pc for f in frames] == [function(1), 0x1234] and frames[
        1
    ].note == "0x1234 is not in kernel code"


def test_an_undefined_return_address_is_the_end() -> None:
    row = CALL16._replace(rules=CALL16.rules[1:])
    frames = trace(Memory(X86, {STACK: 0}), code(Table({function(1): row})), start(function(1)))
    assert len(frames) == 1 and frames[0].note == ""


def test_calls_of_null_and_of_garbage() -> None:
    table = Table({function(1): END})
    for pc in (0, 0xDEAD0000):
        memory = Memory(X86, {STACK: function(1) + 5})
        frames = trace(memory, code(table), start(pc, r3=7, r12=8))
        assert [f.pc for f in frames] == [pc, function(1) + 5]
        assert frames[1].registers.get(7) == STACK + 8 == frames[0].cfa
        assert frames[1].registers.get(3) == 7 and not frames[1].interrupted
        assert table.asked.pop() == function(1) + 4
        table.asked.clear()


def test_unknown_registers_stay_unknown_and_faults_do_not_stop() -> None:
    row = replace_rules(CALL16, {3: Rule(Kind.SAVED, offset=-80), 12: Rule(Kind.REGISTER, 11)})
    memory = Memory(X86, {STACK: 5, STACK + 8: function(2) + 1})
    frames = trace(memory, code(Table({function(1): row, function(2): END})), start(function(1)))
    assert frames[1].registers == {16: function(2) + 1, 7: STACK + 16, 6: 5}


def test_replaced_return_addresses() -> None:
    memory = Memory(X86, {STACK: 5, STACK + 8: 0xFFFFFFFFC0DE0000})
    seen = []

    def fix(address: int, slot: int) -> int:
        seen.append((address, slot))
        return function(2) + 9

    table = Table({function(1): CALL16, function(2): END})
    frames = list(Unwinder(X86, code(table), memory, fix_return=fix).unwind(start(function(1))))
    assert frames[1].pc == function(2) + 9 and seen == [(0xFFFFFFFFC0DE0000, STACK + 8)]


# -- frame pointers


def test_frame_pointers() -> None:
    fp = STACK + 32
    memory = Memory(X86, {fp: fp + 64, fp + 8: function(6), fp + 64: 0, fp + 72: function(1)})
    frames = trace(memory, code(), start(function(5), r6=fp))
    assert [f.pc for f in frames] == [function(5), function(6), function(1)]
    assert [f.method for f in frames] == ["start", "fp", "fp"]
    assert [f.registers.get(7) for f in frames] == [STACK, fp + 16, fp + 80]
    assert "nothing tells" in frames[-1].note


def test_encoded_pt_regs() -> None:
    """ENCODE_FRAME_POINTER of arch/x86/include/asm/frame.h."""
    memory = regs_memory(STACK + 0x100, function(2), STACK + 0x400)
    frames = trace(memory, code(Table({function(2): END})), start(function(5), r6=STACK + 0x101))
    assert frames[1].method == "regs" and frames[1].interrupted and frames[1].regs_address == STACK + 0x100
    assert frames[1].pc == function(2) and frames[1].registers.get(15) == 0x100
    assert frame_row(replace(X86, regs=None), STACK + 0x101, BlockReader(memory, X86)) is None


def test_big_endian_machine_with_a_link_register() -> None:
    stack, text = 0xC0010000, 0xC0000000
    row = Row(
        Rule(Kind.REGISTER, 1, 16), ((65, Rule(Kind.SAVED, offset=4)), (1, Rule(Kind.CFA))), 65, False, "cfi"
    )
    leaf = Row(Rule(Kind.REGISTER, 1), ((65, same_value(65)), (1, Rule(Kind.CFA))), 65, False, "cfi")
    memory = Memory(BIG32, {stack + 20: text + 0x204})
    map_ = CodeMap()
    map_.add(text, text + 0x1000, Tables(Table({text: leaf, text + 0x100: row})))
    frames = trace(memory, map_, Registers({40: text + 4, 1: stack, 65: text + 0x108}))
    assert [f.pc for f in frames] == [text + 4, text + 0x108, text + 0x204]
    assert frames[1].registers.get(1) == stack and frames[2].registers.get(1) == stack + 16
    assert frames[2].registers.get(65) == text + 0x204


def test_frame_records_without_cfa() -> None:
    fp = 0xC0010020
    memory = Memory(BIG32, {fp: 0, fp + 4: 0xC0000008})
    map_ = CodeMap()
    map_.add(0xC0000000, 0xC0001000)
    frames = trace(memory, map_, Registers({40: 0xC0000100, 31: fp}))
    assert frames[1].registers == {31: 0, 65: 0xC0000008, 40: 0xC0000008}


# -- code and memory


def test_code_map() -> None:
    map_, made = CodeMap(), []
    map_.add(0x3000, 0x4000, lambda: made.append(1) or Tables(None, None))  # type: ignore[func-returns-value]
    map_.add(0x1000, 0x2000)
    assert 0x1FFF in map_ and 0x2000 not in map_ and 0xFFF not in map_ and 0x3000 in map_
    assert not made and map_.find(0x3000) is map_.find(0x3FFF) and len(made) == 1
    assert map_.find(0x2000) is None and map_.find(0x4000) is None
    with pytest.raises(ValueError, match="no code"):
        map_.add(5, 5)


def test_a_stack_is_read_once() -> None:
    memory = Memory(X86, {STACK + 8 * i: i for i in range(2048)})
    reader = BlockReader(memory, X86)
    assert [reader.word(STACK + 8 * i) for i in range(2048)] == list(range(2048)) and memory.reads == 1
    assert reader.read(STACK + 8, 8) == bytes([1, 0, 0, 0, 0, 0, 0, 0]) and memory.reads == 1


def test_pages_and_bytes_where_the_block_is_not_there() -> None:
    memory = Memory(X86, {STACK + 4096 + 8 * i: i for i in range(512)})
    memory.put(STACK + 16, 77)
    reader = BlockReader(memory, X86)
    assert reader.word(STACK + 4104) == 1 and reader.word(STACK + 16) == 77
    before = memory.reads
    assert reader.word(STACK + 4112) == 2 and memory.reads == before
    memory.put(STACK + 8192, 0)
    assert reader.word(STACK + 8188) == 511 >> 32, "over the end of a page"


def test_targets_say_what_they_are() -> None:
    assert (X86.pc, X86.sp, X86.fp, X86.null_call, X86.mask) == (16, 7, 6, 8, (1 << 64) - 1)
    assert X86.callee_saved == {3, 6, 12, 13, 14, 15}
    assert [t.word.size for t in (X86, BIG32)] == [8, 4]
