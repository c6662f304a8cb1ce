"""x86 instructions as GNU binutils and gdb write them, from what capstone decodes.

capstone's AT&T form gives every instruction a size suffix, writes small numbers in
decimal and leaves out displacements of 0 and scales of 1.
"""

from __future__ import annotations

import re
from typing import Any

_SUFFIXES = "bwlq"
_NUMBER = re.compile(r"(?<![\w%$.])(-?)(\d+)(?=\()")
_IMMEDIATE = re.compile(r"\$-?\w+")
_INDEXED = re.compile(r"(\(%?\w*,%\w+)\)")
_BASE = re.compile(r"\((%e\w\w)\)")
_BASED = re.compile(r"(^|[,:*])(?=\(%)")
# Instructions whose operands are implied by their name, or that GNU names without a suffix in any case.
_BARE = frozenset({"push", "pop", "call", "ret", "jmp", "leave"})
_IMPLIED = frozenset({"stos", "lods", "scas"})  # the accumulator tells their size
_OTHER_NAMES = {
    "pushfq": "pushf", "popfq": "popf", "pushfl": "pushf", "popfl": "popf",
    "wait": "fwait", "iretl": "iret", "lretl": "lret", "sal": "shl",
}  # fmt: skip
_STRING = re.compile(r"(stos|lods|scas|movs|cmps|ins|outs)[bwlq]$")
_PORT = re.compile(r"(in|out|ins|outs)[bwl]?$")
_DESTINATION, _SOURCE = re.compile(r"(?<!:)\(%[er]di\)"), re.compile(r"(?<!:)\(%[er]si\)")
_SHIFT_BY_ONE = (0xD0, 0xD1)


def assembly(found: Any) -> tuple[str, str]:
    """``(mnemonic, operands)`` of a capstone instruction with details."""
    operands = _operands(found)
    prefix, _, name = found.mnemonic.rpartition(" ")
    if _STRING.match(name):
        operands = _SOURCE.sub(r"%ds:\g<0>", _DESTINATION.sub(r"%es:\g<0>", operands))
    if _PORT.match(name):
        operands = operands.replace("%dx", "(%dx)")
    if name == "nopw" and "%cs:" in operands:  # padding: the prefixes do nothing
        prefix = " ".join([*["data16"] * (bytes(found.bytes).index(0x2E) - 1), "cs"])
        operands = operands.replace("%cs:", "")
    code = bytes(found.bytes)
    if len(code) > 1 and code == b"\x66" * (len(code) - 1) + b"\x90":
        return "data16 " * (len(code) - 2) + "xchg", "%ax,%ax"
    return f"{prefix} {_name(found, name)}".lstrip(), operands


def _name(found: Any, name: str) -> str:
    """``name`` without its suffix, where GNU writes none: a register tells the size."""
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    if name[:-1] in _IMPLIED:
        return name[:-1]
    base = found.insn_name()
    if name[:-1] != base or name[-1] not in _SUFFIXES:
        return str(name)
    if base in _BARE or _has_register(found):
        return str(base)
    return str(name)


def _has_register(found: Any) -> bool:
    return any(operand.type == 1 for operand in found.operands)  # X86_OP_REG


def _has_no_index(found: Any) -> bool:
    """True for an address with a SIB byte that needs none (padding): Intel SDM volume 2, table 2-3."""
    sib = found.modrm < 0xC0 and found.modrm & 7 == 4
    return bool(sib and found.sib >> 3 & 7 == 4 and found.sib & 7 != 4)


def _operands(found: Any) -> str:
    text = found.op_str.replace(", ", ",")
    immediates = [operand for operand in found.operands if operand.type == 2]  # X86_OP_IMM
    for operand in reversed(immediates):  # AT&T order
        value = operand.imm & (1 << 8 * (operand.size or 8)) - 1
        one = "$1" if found.opcode[0] in _SHIFT_BY_ONE else f"${value:#x}"
        text = _IMMEDIATE.sub(one, text, count=1) if len(immediates) == 1 else text
    text = _NUMBER.sub(lambda match: f"{match[1]}{int(match[2]):#x}", text)
    text = _INDEXED.sub(r"\1,1)", text)
    if found.addr_size == 4 and _has_no_index(found):
        text = _BASE.sub(rf"(\1,%eiz,{1 << (found.sib >> 6)})", text)
    if found.encoding.disp_size and found.disp == 0:
        text = _BASED.sub(r"\g<1>0x0", text, count=1)
    return text
