"""Machine code: instructions of a routine, decoded by capstone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from kcrash.errors import KcrashError, MemoryFault
from kcrash.memory.space import AddressSpace

if TYPE_CHECKING:
    from kcrash.session import Session

SINCE_CAPSTONE_6 = {"CS_ARCH_ARM64": "CS_ARCH_AARCH64", "CS_ARCH_SYSZ": "CS_ARCH_SYSTEMZ"}
MAX_INSTRUCTION = 16
CHUNK = 2048


class Instruction(NamedTuple):
    """One instruction: ``mnemonic`` and ``operands`` in the assembler's (AT&T) form; ``target``:
    the address that it refers to (a branch, or relative to the program counter), or None."""

    address: int
    data: bytes
    mnemonic: str
    operands: str
    target: int | None
    is_branch: bool


def _decoder(session: Session) -> Any:
    return session.memo("capstone", lambda: _make_decoder(session))


def _make_decoder(session: Session) -> Any:
    import capstone

    family, *modes = session.arch.capstone
    if not hasattr(capstone, family):
        family = SINCE_CAPSTONE_6.get(family, family)
    if not hasattr(capstone, family):
        raise KcrashError(f"capstone {capstone.__version__} does not disassemble {session.arch.name}")
    decoder = capstone.Cs(getattr(capstone, family), sum(getattr(capstone, mode) for mode in modes))
    decoder.detail = True
    if family == "CS_ARCH_X86":
        decoder.syntax = capstone.CS_OPT_SYNTAX_ATT
    return decoder


def instructions(session: Session, space: AddressSpace, start: int, end: int | None) -> Iterator[Instruction]:
    """Instructions from ``start`` up to ``end`` (None: for ever). Raises MemoryFault where code ends.

    Bytes that are no instruction come one by one with the mnemonic "(bad)".
    """
    import capstone

    decoder = _decoder(session)
    address = start
    while end is None or address < end:
        data = _code(space, address, CHUNK if end is None else min(CHUNK, end - address))
        consumed = 0
        for found in decoder.disasm(data, address):
            if consumed + MAX_INSTRUCTION > len(data) and consumed and len(data) == CHUNK:
                break  # perhaps cut by the chunk's end
            yield _convert(session, found, capstone)
            consumed += found.size
        if not consumed:
            consumed = session.arch.instruction_bytes(data)
            yield Instruction(address, data[:consumed], "(bad)", "", None, False)
        address += consumed


def _code(space: AddressSpace, address: int, size: int) -> bytes:
    """As many of ``size`` bytes as can be read; MemoryFault if none can."""
    try:
        return space.read(address, size)
    except MemoryFault as fault:
        if fault.address <= address:
            raise
        return space.read(address, fault.address - address)


def _convert(session: Session, found: Any, capstone: Any) -> Instruction:
    branch = bool(set(found.groups) & {capstone.CS_GRP_JUMP, capstone.CS_GRP_CALL})
    target = _target(session, found, branch, capstone)
    mnemonic, operands = session.arch.assembly(found)
    if branch and target is not None:
        before, comma, last = operands.rpartition(",")
        if not last.lstrip().startswith("%"):  # a register: s390x's nopr
            operands = f"{before}{comma}{' ' if last.startswith(' ') else ''}{target:#x}"
    return Instruction(found.address, bytes(found.bytes), mnemonic, operands, target, branch)


def _target(session: Session, found: Any, branch: bool, capstone: Any) -> int | None:
    for operand in reversed(found.operands):  # the target comes last, behind what a branch compares with
        if operand.type == capstone.CS_OP_IMM and branch:
            return int(operand.imm) & session.word_mask or None  # s390x branches never to 0
        if operand.type == capstone.CS_OP_MEM and found.reg_name(operand.mem.base) == session.arch.pc:
            pc = found.address + found.size + session.arch.pc_ahead
            return int(pc + operand.mem.disp) & session.word_mask
    return None


def routine(session: Session, address: int) -> tuple[int, int]:
    """``[start, end)`` of the routine that ``address`` lies in. Raises KcrashError if there is none."""
    found = session.symbols.at(address)
    owner = session.symbols.table_at(address)
    if found is None or owner is None:
        raise KcrashError(f"no symbol at {address:x}")
    start = found[0].address
    above = owner[1].neighbours(start)[1]
    end = above.address if above else start + max(found[0].size, 1)
    if found[0].size and start + found[0].size > address:
        end = start + found[0].size
    return start, max(end, address + 1)
