"""A TypeSource over the DWARF of one file, which also knows lines and inlined functions."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from time import perf_counter
from typing import TypeVar

from kcrash.symbols.elffile import ElfFile
from kcrash.types.dwarf import constants as dw
from kcrash.types.dwarf.abbrev import Abbrev
from kcrash.types.dwarf.convert import Converter, DeclaredType, inherited
from kcrash.types.dwarf.encoding import Malformed, guarded
from kcrash.types.dwarf.index import SLOW
from kcrash.types.dwarf.info import DebugInfo, Die, Unit
from kcrash.types.dwarf.line import LineInfo, LineTables
from kcrash.types.dwarf.lookup import Hit, NameLookup, Query
from kcrash.types.dwarf.ranges import AddressMap
from kcrash.types.dwarf.scopes import Frame, FrameScope, FunctionInfo, Scopes
from kcrash.types.dwarf.sections import Progress, Sections
from kcrash.types.dwarf.variables import CallSite
from kcrash.types.model import ArrayType, EnumType, Type

_Found = TypeVar("_Found")

_MAX_CACHED = 50_000
_OP_ADDRX, _OP_GNU_ADDR_INDEX = 0xA1, 0xFB
_BLOCKS = (dw.DW_FORM_exprloc, dw.DW_FORM_block1, dw.DW_FORM_block, dw.DW_FORM_block2, dw.DW_FORM_block4)


def _is(*tags: int) -> Callable[[Abbrev], bool]:
    return lambda abbrev: abbrev.tag in tags


def _may_be_global(abbrev: Abbrev) -> bool:
    """Locals have the same tag; most show themselves by having no fixed place or none at all."""
    if abbrev.tag != dw.DW_TAG_variable:
        return False
    forms = abbrev.forms
    return (
        dw.DW_AT_external in forms
        or dw.DW_AT_declaration in forms
        or dw.DW_AT_const_value in forms
        or forms.get(dw.DW_AT_location) in _BLOCKS
    )


_TESTS: dict[str, Callable[[Abbrev], bool]] = {
    "struct": _is(dw.DW_TAG_structure_type, dw.DW_TAG_class_type),
    "union": _is(dw.DW_TAG_union_type),
    "enum": _is(dw.DW_TAG_enumeration_type),
    "typedef": _is(dw.DW_TAG_typedef),
    "base": _is(dw.DW_TAG_base_type),
    "variable": _may_be_global,
    "function": _is(dw.DW_TAG_subprogram),
    "enumerator": _is(dw.DW_TAG_enumerator),
}


def _any(die: Die) -> bool:
    return True


def _is_complete(die: Die) -> bool:
    return not die.flag(dw.DW_AT_declaration)


class DwarfSource:
    """The debug info of a kernel or a module (a TypeSource).

    ``elf``: the file, or its path; ``section_addresses``: where the sections of
    a module were loaded, by name (a linked file has its own addresses);
    ``progress``: hears of the unpacking of compressed sections; ``notice``: of
    .dwo files that are not there. Opening reads nothing: every question reads
    what it needs. All methods raise BadFormat.
    """

    def __init__(
        self,
        elf: ElfFile | str | PathLike[str],
        *,
        section_addresses: Mapping[str, int] | None = None,
        progress: Progress | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.elf = elf if isinstance(elf, ElfFile) else ElfFile(elf)
        self.file = self.elf.path
        self.info = DebugInfo(self.file, Sections(self.elf, section_addresses, progress))
        self.info.notice = notice
        self.types = Converter(self.info, self._complete)
        self._names = NameLookup(self.info)
        self._scopes = Scopes(self.info, AddressMap(self.info), LineTables(self.info), self.types)
        self._found: dict[tuple[str, str], object] = {}

    def present(self) -> bool:
        """True if the file has debug info at all."""
        return any(name in self.elf.sections for name in (".debug_info", ".zdebug_info"))

    # -- the TypeSource protocol

    @guarded
    def find(self, kind: str, name: str) -> Type | None:
        """The type ``name`` of a kind (see kcrash.types.source), a complete one if there is any."""
        return self._memoised(kind, name, self.types.of)

    @guarded
    def variable(self, name: str) -> Type | None:
        """The type of a global variable."""
        return self._memoised("variable", name, self._target)

    @guarded
    def function(self, name: str) -> Type | None:
        """The FunctionType of a function."""
        return self._memoised("function", name, self.types.function)

    @guarded
    def enumerator(self, name: str) -> tuple[EnumType, int] | None:
        """The enum that has the constant ``name``, and its value."""
        return self._memoised("enumerator", name, self._enumerator)

    def names(self, kind: str) -> Iterator[str]:
        """All names of a kind, each once. Walks every unit: seconds for a kernel."""
        seen: set[str] = set()
        raw_seen: set[int] = set()
        for info in (self.info, *self.info.splits.infos()):
            for start in info.starts:
                for name in self._unit_names(info, start, _TESTS[kind], raw_seen):
                    if name and name not in seen:
                        seen.add(name)
                        yield name

    @guarded
    def _unit_names(
        self, info: DebugInfo, start: int, test: Callable[[Abbrev], bool], seen: set[int]
    ) -> list[str]:
        """Names of file scope in one unit; strings of ``seen`` offsets are left out."""
        unit = info.unit(start)
        codes = unit.abbrevs.wanted(test).codes
        names = []
        for position, code in self.info.top_level(unit):
            if code not in codes:
                continue
            die = self.info.die(position, unit)
            if die.abbrev.forms[dw.DW_AT_name] == dw.DW_FORM_strp:
                value = die.values[dw.DW_AT_name]
                if value in seen:
                    continue
                seen.add(value)
            names.append(die.name)
        return names

    def _memoised(self, kind: str, name: str, make: Callable[[Die], _Found]) -> _Found | None:
        """``make`` of the DIE of a name; None if there is none."""
        key = (kind, name)
        if key not in self._found:
            if len(self._found) >= _MAX_CACHED:
                self._found.clear()
            die = self._die(kind, name)
            self._found[key] = None if die is None else make(die)
            self.info.index.flush()
        found: _Found | None = self._found[key]  # type: ignore[assignment]
        return found

    def _die(self, kind: str, name: str) -> Die | None:
        """The DIE of a name: where an earlier session found it, or searched for."""
        kept = self.info.index.name(kind, name)
        if kept == 0:
            return None
        if kept is not None and (die := self._kept_die(kind, name, kept)) is not None:
            return die
        began = perf_counter()
        die = self._search(kind, name)
        # What a .dwo file is missing for may be found when it is there.
        if perf_counter() - began > SLOW and (die or not self.info.splits.missing):
            self.info.index.keep_name(kind, name, die.key if die else 0)
        return die

    def _kept_die(self, kind: str, name: str, offset: int) -> Die | None:
        """The DIE at an offset, if it is of that kind and name."""
        try:
            die = self.info.die(offset)
            named = inherited(die, dw.DW_AT_name)
        except (Malformed, IndexError, struct.error):
            return None
        return die if named.name == name and _TESTS[kind](named.abbrev) else None

    def _search(self, kind: str, name: str) -> Die | None:
        searches = {
            "variable": self._variable_die,
            "function": self._function_die,
            "enumerator": self._enumerator_die,
        }
        search = searches.get(kind)
        return search(name) if search else self._type_die(kind, name)

    def _complete(self, kind: str, name: str) -> Type | None:
        return self.find(kind, name)

    def _hits(self, kind: str, name: str, accept: Callable[[Die], bool] = _any) -> Iterator[Hit]:
        return self._names.hits(name, Query(_TESTS[kind], accept))

    def _type_die(self, kind: str, name: str) -> Die | None:
        """The first complete type of file scope, or else one of a narrower scope, or a declaration."""
        inner: Die | None = None
        for die, parents in self._hits(kind, name, _is_complete):
            if len(parents) <= 1:
                return die
            inner = inner or die
        if inner is None:  # most units only declare what they do not use: looked at in the last place
            inner = next((die for die, _parents in self._hits(kind, name)), None)
        return inner

    def _variable_die(self, name: str) -> Die | None:
        """The one with the type: a definition or a declaration, whichever is first and says all of it."""
        fallback: Die | None = None
        for die, parents in self._hits("variable", name, _is_static):
            if len(parents) > 1 or not inherited(die, dw.DW_AT_type).has(dw.DW_AT_type):
                continue
            found = die if _is_whole(self._target(die)) else self._definition(die) or die
            if _is_whole(self._target(found)):
                return found
            fallback = fallback or found
        return fallback

    def _target(self, die: Die) -> Type:
        lazy = self.types.target(die)
        return lazy if isinstance(lazy, Type) else lazy()

    def _definition(self, die: Die) -> Die | None:
        """Of ``extern char x[]``, the definition, which may know the length."""
        shared = die.unit.info is self.info.alternate
        units = self._names.units_with(die.offset) if shared else [die.unit]
        return next((found for unit in units if (found := self._definition_in(unit, die)) is not None), None)

    def _definition_in(self, unit: Unit, die: Die) -> Die | None:
        codes = unit.abbrevs.codes
        for position, code in self.info.top_level(unit):
            abbrev = codes[code]
            if abbrev.tag == dw.DW_TAG_variable and dw.DW_AT_specification in abbrev.forms:
                other = self.info.die(position, unit)
                if other.reference(dw.DW_AT_specification) == die.key and other.has(dw.DW_AT_type):
                    return other
        return None

    def _function_die(self, name: str) -> Die | None:
        """A definition, for it names its parameters, or else a declaration."""
        best: Die | None = None
        for die, parents in self._hits("function", name):
            if len(parents) == 1 and not die.flag(dw.DW_AT_declaration):
                return die
            best = best or die
        return best

    def _enumerator_die(self, name: str) -> Die | None:
        return next(
            (die for die, _parents in self._hits("enumerator", name) if self._enumerator(die) is not None),
            None,
        )

    def _enumerator(self, die: Die) -> tuple[EnumType, int] | None:
        path = die.unit.info.path_to(die.unit, die.offset)
        parent = self.info.die(path[-2], die.unit) if len(path) > 1 else None
        value = die.number(dw.DW_AT_const_value)
        if parent is None or parent.tag != dw.DW_TAG_enumeration_type or value is None:
            return None
        found = self.types.of(parent)
        return (found, value) if isinstance(found, EnumType) else None

    # -- addresses (link-time ones: the caller subtracts what KASLR added)

    @guarded
    def line_of(self, address: int, *, last_row: bool = False) -> LineInfo | None:
        """File and line of an address; None if unknown.

        Where several rows of the line table are for one address, crash and gdb
        show the one at which a statement starts, addr2line the last (``last_row``).
        """
        return self._kept(self._scopes.line_of(address, last_row=last_row))

    @guarded
    def inline_frames(self, address: int) -> list[Frame]:
        """The functions at an address, the innermost first, as ``addr2line -i -f``; empty if unknown."""
        return self._kept(self._scopes.inline_frames(address))

    @guarded
    def frame_scopes(self, address: int) -> list[FrameScope]:
        """As inline_frames(), each with the variables in sight there."""
        return self._scopes.frame_scopes(address)

    @guarded
    def call_site(self, address: int) -> CallSite | None:
        """The call that returns to an address; None if it is not described."""
        return self._scopes.call_site(address)

    @guarded
    def frame_base(self, address: int) -> bytes | None:
        """The expression that gives the frame base at an address; None if there is none."""
        return self._scopes.frame_base(address)

    @guarded
    def function_at(self, address: int) -> FunctionInfo | None:
        """The function at an address: name, range, parameters; None if unknown."""
        return self._kept(self._scopes.function_at(address))

    def _kept(self, answer: _Found) -> _Found:
        """The answer, once what was learnt on the way is on disk."""
        self.info.index.flush()
        return answer


def _is_static(die: Die) -> bool:
    """True for what lives at a fixed address, or is declared so, or is a constant."""
    if die.flag(dw.DW_AT_external) or die.flag(dw.DW_AT_declaration) or die.has(dw.DW_AT_const_value):
        return True
    location = die.block(dw.DW_AT_location)
    return (
        bool(location)
        and location is not None
        and location[0] in (dw.DW_OP_addr, _OP_ADDRX, _OP_GNU_ADDR_INDEX)
    )


def _is_whole(found: Type) -> bool:
    """False for ``[]``, whose length only the definition tells, and for what is only declared."""
    plain = found.underlying
    if isinstance(plain, ArrayType):
        return plain.count is not None
    return not isinstance(plain, DeclaredType) or plain.complete
