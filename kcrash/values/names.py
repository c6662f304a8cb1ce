"""Which symbol an address is shown with: ``<init_task+168>``, chosen as gdb chooses.

gdb (minsyms.c, printcmd.c: build_address_symbolic) names an address only if it
lies inside a symbol that has a size, or behind one of text; of several symbols
at one address it takes the function that debuginfo knows, else the last by name.
A module's symbols are known without sizes: the nearest below counts.
"""

from __future__ import annotations

from typing import Protocol

from kcrash.symbols.table import Symbol, Symbols
from kcrash.types.namespace import Types

MAX_CACHED = 100_000
MAX_BACK = 64  # labels without a size that may stand between an address and its symbol


class SymbolicTarget(Protocol):
    """What naming addresses needs of a session."""

    symbols: Symbols
    types: Types


class AddressNames:
    """Names addresses of ``target``; calling it gives ``" <name+offset>"``, or ``""``."""

    def __init__(self, target: SymbolicTarget) -> None:
        self._target = target
        self._known: dict[int, str] = {}

    def __call__(self, address: int) -> str:
        found = self._known.get(address)
        if found is None:
            if len(self._known) >= MAX_CACHED:
                self._known.clear()
            name = self.name(address)
            found = self._known[address] = f" <{name}>" if name else ""
        return found

    def name(self, address: int) -> str:
        """``init_task+168``, or "" where gdb would name nothing."""
        owner = self._target.symbols.table_at(address)
        if owner is None:
            return ""
        module, table = owner
        symbol = table.at(address) if module else self._kernel_symbol(table, address)
        if symbol is None:
            return ""
        name, offset = _function_name(symbol), address - symbol.address
        return f"{name}+{offset}" if offset else name

    def _kernel_symbol(self, table: object, address: int) -> Symbol | None:
        """The symbol of the kernel's table that covers ``address``."""
        label = None
        at = address
        for _ in range(MAX_BACK):
            here = self._best_at(table, at)
            if here is None:
                break
            if here.size:
                return here if address < here.address + here.size else label
            if label is None and here.type in "tTwW":
                label = here
            at = here.address - 1
        return label

    def _best_at(self, table: object, address: int) -> Symbol | None:
        """Of the symbols at the highest address not above ``address``, the one to show."""
        first: Symbol | None = table.at(address)  # type: ignore[attr-defined]
        if first is None:
            return None
        last: Symbol | None = table.neighbours(first.address + 1)[0]  # type: ignore[attr-defined]
        if last is None or last.name == first.name:
            return first
        return max((first, last), key=self._preference)

    def _preference(self, symbol: Symbol) -> tuple[bool, bool, str]:
        # An alias of a static function (__x64_sys_fork of __do_sys_fork) is global, and not what DWARF names.
        known = symbol.type == "t" and self._target.types.function(symbol.name, symbol.module) is not None
        return bool(symbol.size), known, symbol.name


def _function_name(symbol: Symbol) -> str:
    """The name of the function that the compiler made ``foo.isra.0`` or ``foo.constprop.0`` of."""
    if symbol.type in "tT" and "." in symbol.name and ".cold" not in symbol.name:
        return symbol.name.split(".", 1)[0] or symbol.name
    return symbol.name
