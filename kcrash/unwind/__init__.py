"""From registers and memory to frames: CFI, ORC, frame pointers."""

from kcrash.arch.base import FrameLayout
from kcrash.unwind.cfi import CfiTable
from kcrash.unwind.codemap import CodeMap, Tables
from kcrash.unwind.orc import OrcTable, choose_layout
from kcrash.unwind.registers import Registers
from kcrash.unwind.target import X86_64_REGS, MemoryReader, RegsLayout, Target, target_for
from kcrash.unwind.unwinder import MAX_FRAMES, Frame, Unwinder

__all__ = [
    "MAX_FRAMES",
    "X86_64_REGS",
    "CfiTable",
    "CodeMap",
    "Frame",
    "FrameLayout",
    "MemoryReader",
    "OrcTable",
    "Registers",
    "RegsLayout",
    "Tables",
    "Target",
    "Unwinder",
    "choose_layout",
    "target_for",
]
