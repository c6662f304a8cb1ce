"""ARM instructions as GNU binutils and gdb write them, from what capstone decodes.

capstone has names for r9 to r12, hexadecimal immediates, and no remarks.
"""

from __future__ import annotations

import re
from typing import Any

_LIST = re.compile(r"\{([ds])(\d+), [^}]*, [ds](\d+)\}")
_NAMES = {"sb": "r9", "sl": "r10", "fp": "r11", "ip": "r12"}
_REGISTER = re.compile(r"\b(sb|sl|fp|ip)\b")
_IMMEDIATE = re.compile(r"#(-?)(0x[0-9a-f]+|\d+)")
_TRANSFER = re.compile(r"p(\d+), c(\d+), ")
_COPROCESSOR = re.compile(r"p(\d+), #(\w+), (.*), c(\d+), c(\d+), #(\w+)$")
_ONE_WORD = {
    "str": (re.compile(r"(\w+), \[sp, #-4\]!$"), "push"),
    "ldr": (re.compile(r"(\w+), \[sp\], #4$"), "pop"),
}
# Conditions that have two names: of ARM's manual, which capstone takes, and of compares without sign.
_CONDITIONS = {"hs": "cs", "lo": "cc"}
_REMARKED = range(-16, 33)  # other values are remarked in hexadecimal
_CARRY = (3, 4)  # ARM_CC_HS, ARM_CC_LO


def assembly(found: Any) -> tuple[str, str]:
    """``(mnemonic, operands)`` of a capstone instruction with details."""
    mnemonic = _mnemonic(found)
    text = _REGISTER.sub(lambda match: _NAMES[match[1]], found.op_str)
    short = _push_or_pop(mnemonic, text)
    if short is not None:
        return short
    coprocessor = _COPROCESSOR.match(text)
    if coprocessor:
        number, opcode, register, first, second, last = coprocessor.groups()
        return mnemonic, f"{number}, {int(opcode, 0)}, {register}, cr{first}, cr{second}, {{{int(last, 0)}}}"
    if mnemonic.startswith(("ldrd", "strd")):
        text = re.sub(r"^(\w+), \w+, ", r"\1, ", text)  # the second register is the next one
    if mnemonic.startswith(("ldc", "stc")):
        text = _TRANSFER.sub(r"\1, cr\2, ", text)
    if mnemonic.startswith(("ldrex", "strex")):
        text = re.sub(r"^(\w+, )?lr\b", r"\1r14", text)  # GNU has numbers for these alone
    text = _LIST.sub(r"{\1\2-\1\3}", text)  # floating-point registers follow one another
    text = _IMMEDIATE.sub(lambda match: f"#{match[1]}{_signed(int(match[2], 0))}", text)
    return mnemonic, text + _remark(text) if text or mnemonic != "nop" else "{0}"


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


def _mnemonic(found: Any) -> str:
    name = str(found.mnemonic)
    if found.cc in _CARRY and name[-2:] in _CONDITIONS:
        name = name[:-2] + _CONDITIONS[name[-2:]]
    if name.startswith("stm") and found.writeback and name[3:5] not in ("ia", "ib", "da", "db"):
        name = f"stmia{name[3:]}"
    return name


def _push_or_pop(mnemonic: str, text: str) -> tuple[str, str] | None:
    """Of one register: an access through the stack pointer."""
    form, name = _ONE_WORD.get(mnemonic[:3], (None, ""))
    match = form.match(text) if form and mnemonic[3:4] not in ("b", "h", "d", "e") else None
    return None if match is None else (name + mnemonic[3:], f"{{{match[1]}}}\t\t@ ({mnemonic} {text})")


def _remark(text: str) -> str:
    values = re.findall(r"#(-?\d+)", text)
    if not values or "[pc" in text or re.search(r"(lsl|lsr|asr|ror) #\d+\]?!?$", text):
        return ""
    value = int(values[-1])
    return "" if value in _REMARKED else f"\t@ {value & 0xFFFFFFFF:#x}"
