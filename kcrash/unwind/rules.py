"""How a frame's caller is found: one rule for the CFA, one for each register.

Both DWARF CFI (DWARF 5, section 6.4.1 "Structure of Call Frame Information")
and ORC come down to these.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """What a rule computes; ``M[a]`` is the memory at ``a``, ``R`` the rule's register."""

    SAVED = 0  # M[CFA + offset]         DWARF: offset(N)
    CFA = 1  # CFA + offset              DWARF: val_offset(N)
    REGISTER = 2  # R + offset           DWARF: register(R), same value, def_cfa
    AT_REGISTER = 3  # M[R + offset]
    FROM_REGISTER = 4  # M[R] + offset
    EXPRESSION = 5  # M[expression]
    VALUE = 6  # expression              DWARF: val_expression(E), def_cfa_expression
    CONSTANT = 7  # offset


class Rule(NamedTuple):
    """One rule. ``size``: bytes read from memory, 0 for a word; ``offset`` is signed."""

    kind: int
    register: int = 0
    offset: int = 0
    expression: bytes = b""
    size: int = 0


class Row(NamedTuple):
    """What holds at one pc.

    ``cfa``: None at the end of the stack: there is no caller. ``rules``: of the
    caller's registers; those without one are unknown. ``return_column``: the
    register that holds the caller's pc. ``interrupted``: the caller was
    interrupted at its pc, it did not call. ``method``: "cfi", "orc",
    "call", "fp" or "regs" (the rules read a saved struct pt_regs). ``regs_offset``: from the CFA to
    that struct, None if there is none.
    """

    cfa: Rule | None
    rules: tuple[tuple[int, Rule], ...]
    return_column: int
    interrupted: bool
    method: str
    regs_offset: int | None = None


def same_value(register: int) -> Rule:
    """The caller's register still holds its value."""
    return Rule(Kind.REGISTER, register)
