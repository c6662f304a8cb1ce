"""Parameters and locals of a function, where they are, and what calls handed over.

DWARF 5, sections 2.6 (locations), 3.4 (call sites) and 4.1 (variables); the GNU forms of call sites in
DWARF 4: https://sourceware.org/elfutils/DwarfExtensions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from kcrash.types.dwarf import constants as dw
from kcrash.types.dwarf.convert import Converter, inherited
from kcrash.types.dwarf.encoding import Malformed
from kcrash.types.dwarf.info import Die, Unit
from kcrash.types.dwarf.ranges import ListReader, list_offset
from kcrash.types.model import Lazy

MAX_ENTRIES = 100_000
_VARIABLES = (dw.DW_TAG_formal_parameter, dw.DW_TAG_variable)
_CALL_SITES = (dw.DW_TAG_call_site, dw.DW_TAG_GNU_call_site)
_CALL_PARAMETERS = (dw.DW_TAG_call_site_parameter, dw.DW_TAG_GNU_call_site_parameter)


class Variable(NamedTuple):
    """A parameter or local of a scope.

    ``location``: a DWARF expression, None if the compiler has dropped it there; ``constant``: its bytes
    or number where it is a constant; ``unit``: what the expression's offsets and indices are of.
    """

    name: str
    parameter: bool
    type: Lazy
    location: bytes | None
    constant: int | bytes | None
    unit: Unit


class CallSite(NamedTuple):
    """A call as its caller describes it.

    ``callee``: the function called, "" if the call is indirect; ``target``: then the expression that gives
    its address, None if there is none; ``values``: by the expression of a place of the callee's, what was
    there when it was entered, as an expression of the caller's.
    """

    callee: str
    target: bytes | None
    values: dict[bytes, bytes]
    unit: Unit


def variables_of(scope: Die, address: int, types: Converter) -> Iterator[Variable]:
    """The variables that a function, inlined function or block declares itself."""
    for die in scope.unit.info.children(scope):
        if die.tag in _VARIABLES:
            found = variable(die, address, types)
            if found is not None:
                yield found


def variable(die: Die, address: int, types: Converter) -> Variable | None:
    """A variable as it is at an address; None for a declaration of what is elsewhere."""
    named = inherited(die, dw.DW_AT_name)
    if not named.name or die.flag(dw.DW_AT_declaration) or named.flag(dw.DW_AT_external):
        return None
    parameter = die.tag == dw.DW_TAG_formal_parameter
    constant = _constant(inherited(die, dw.DW_AT_const_value))
    owner = inherited(die, dw.DW_AT_location)
    location = None if constant is not None else location_at(owner, dw.DW_AT_location, address)
    return Variable(named.name, parameter, types.target(die), location, constant, owner.unit)


def _constant(die: Die) -> int | bytes | None:
    number = die.number(dw.DW_AT_const_value)
    if number is not None and die.abbrev.forms[dw.DW_AT_const_value] == dw.DW_FORM_string:
        return die.string(dw.DW_AT_const_value).encode("utf-8", "surrogateescape") + b"\0"
    if number is not None:
        return number
    block = die.block(dw.DW_AT_const_value)
    return bytes(block) if block is not None else None


def location_at(die: Die, attribute: int, address: int) -> bytes | None:
    """The expression that holds at an address; None if there is none. Raises Malformed."""
    if not die.has(attribute):
        return None
    block = die.block(attribute)
    if block is not None:
        return bytes(block)
    value = die.number(attribute)
    if value is None:
        return None
    unit = die.unit
    if unit.layout.version < 5:
        return _old_entry(unit, value, address) if unit.places is None else _gnu_entry(unit, value, address)
    if die.abbrev.forms[attribute] == dw.DW_FORM_loclistx:
        value = list_offset(unit, value, dw.DW_AT_loclists_base, ".debug_loclists")
    return _new_entry(unit, value, address)


def _old_entry(unit: Unit, position: int, address: int) -> bytes | None:
    """DWARF 4, section 2.6.2: pairs of addresses, then the length of an expression."""
    data, order = unit.info.sections[".debug_loc"], unit.info.order
    size = unit.layout.address_size
    pair = struct.Struct(order + {2: "HH", 4: "II", 8: "QQ"}[size])
    base, largest = unit.low_pc, (1 << size * 8) - 1
    for _ in range(MAX_ENTRIES):
        low, high = pair.unpack_from(data, position)
        position += pair.size
        if low == largest:
            base = high
            continue
        if not low and not high:
            return None
        length = struct.unpack_from(order + "H", data, position)[0]
        position += 2
        if base + low <= address < base + high:
            return bytes(data[position : position + length])
        position += length
    raise Malformed("a location list without end")


def _gnu_entry(unit: Unit, position: int, address: int) -> bytes | None:
    """The lists of .debug_loc.dwo: bounds by index, a length of 4 bytes, that of the expression of 2."""
    reader = ListReader(unit, position + (unit.places or {}).get(".debug_loc", 0), ".debug_loc")
    order = unit.info.order
    for _ in range(MAX_ENTRIES):
        kind = reader.byte()
        if kind == dw.DW_LLE_GNU_end_of_list:
            return None
        low = reader.indexed()
        if kind == dw.DW_LLE_GNU_base_address:  # what follows does not count from it
            continue
        if kind == dw.DW_LLE_GNU_start_end:
            high = reader.indexed()
        elif kind == dw.DW_LLE_GNU_start_length:
            high = low + int(struct.unpack(order + "I", reader.block(4))[0])
        else:
            raise Malformed(f"a location list entry of kind {kind}")
        expression = reader.block(struct.unpack(order + "H", reader.block(2))[0])
        if low <= address < high:
            return bytes(expression)
    raise Malformed("a location list without end")


def _new_entry(unit: Unit, position: int, address: int) -> bytes | None:
    """DWARF 5, section 7.7.3."""
    reader = ListReader(unit, position, ".debug_loclists")
    base = unit.low_pc
    default: bytes | None = None
    for _ in range(MAX_ENTRIES):
        kind = reader.byte()
        if kind == dw.DW_RLE_end_of_list:
            return default
        if kind == dw.DW_LLE_default_location:
            default = bytes(reader.block(reader.number()))
            continue
        kind -= kind > dw.DW_LLE_default_location
        if kind in (dw.DW_RLE_base_addressx, dw.DW_RLE_base_address):
            base = reader.indexed() if kind == dw.DW_RLE_base_addressx else reader.address()
            continue
        low, high = reader.bounds(kind, base)
        expression = reader.block(reader.number())
        if low <= address < high:
            return bytes(expression)
    raise Malformed("a location list without end")


# -- calls


def call_site(function: Die, return_address: int) -> CallSite | None:
    """The call in a function (inlined ones included) that returns to an address; None if none is told."""
    info, unit = function.unit.info, function.unit
    codes = {code for code, abbrev in unit.abbrevs.codes.items() if abbrev.tag in _CALL_SITES}
    for position, depth, code in info.walk(unit, function.end) if function.abbrev.children else ():
        if depth < 0:
            return None
        if code in codes:
            die = info.die(position, unit)
            modern = die.tag == dw.DW_TAG_call_site
            if die.address(dw.DW_AT_call_return_pc if modern else dw.DW_AT_low_pc) == return_address:
                return _decoded(die, modern)
    return None


def _decoded(die: Die, modern: bool) -> CallSite:
    origin = die.reference(dw.DW_AT_call_origin if modern else dw.DW_AT_abstract_origin)
    callee = inherited(die.unit.info.die(origin), dw.DW_AT_name).name if origin is not None else ""
    target = die.block(dw.DW_AT_call_target if modern else dw.DW_AT_GNU_call_site_target)
    values = {}
    for child in die.unit.info.children(die):
        place = child.block(dw.DW_AT_location)
        value = child.block(dw.DW_AT_call_value if modern else dw.DW_AT_GNU_call_site_value)
        if child.tag in _CALL_PARAMETERS and place is not None and value is not None:
            values[bytes(place)] = bytes(value)
    return CallSite(callee, None if target is None else bytes(target), values, die.unit)
