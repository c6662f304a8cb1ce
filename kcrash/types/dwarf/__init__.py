"""DWARF, read lazily: types, variables and functions by name, lines and inlined functions by address.

DWARF Debugging Information Format, versions 2 to 5 (https://dwarfstd.org). The
debug info of a kernel is 200 to 400 MB: nothing here reads a section from end
to end to answer one question, except to search it for a few bytes.
"""

from __future__ import annotations

from kcrash.types.dwarf.line import LineInfo
from kcrash.types.dwarf.scopes import Frame, FrameScope, FunctionInfo
from kcrash.types.dwarf.source import DwarfSource
from kcrash.types.dwarf.variables import CallSite, Variable

__all__ = ["CallSite", "DwarfSource", "Frame", "FrameScope", "FunctionInfo", "LineInfo", "Variable"]
