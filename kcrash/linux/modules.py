"""Loaded modules (include/linux/module.h): where they lie, and their symbols out of memory."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kcrash.errors import CorruptData, KcrashError
from kcrash.linux.lists import list_for_each_entry
from kcrash.symbols.table import ListedSymbols, Symbol, is_label, plain_name

if TYPE_CHECKING:
    from kcrash.session import Session
    from kcrash.values import Value

MAX_SYMBOLS = 1 << 20
MAX_MODULE_BYTES = 1 << 30
STB_GLOBAL = 1


@dataclass(frozen=True, slots=True)
class Region:
    """Memory of a module: ``name`` is "text", "data", "rodata" ... or "core"; ``size`` in bytes."""

    name: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Module:
    """A loaded module.

    ``address``: of its struct module; ``base``: where its text starts;
    ``size``: bytes of all its regions that stay after initialisation.
    """

    address: int
    name: str
    state: int
    base: int
    size: int
    regions: tuple[Region, ...]

    def covers(self, address: int) -> bool:
        """True if ``address`` lies in the module."""
        return any(r.start <= address < r.start + r.size for r in self.regions)


def for_each_module(session: Session) -> Iterator[Module | KcrashError]:
    """Modules, the last loaded first, as the kernel lists them; the error where the list or one breaks."""
    head = session.symbols.find_kernel("modules")
    if head is None:
        return
    try:
        for address in list_for_each_entry(session, head, "struct module", "list"):
            try:
                yield _read_module(session, address)
            except KcrashError as error:
                yield error
    except KcrashError as error:
        yield error


def modules(session: Session) -> list[Module]:
    """The modules that can be read, by address as crash lists them; kept."""

    def read() -> list[Module]:
        found = (module for module in for_each_module(session) if isinstance(module, Module))
        return sorted(found, key=lambda module: module.base)

    return session.reading("modules", read)


def _read_module(session: Session, address: int) -> Module:
    value = session.value("struct module", address)
    name = value.name.string_().decode("utf-8", "replace")
    regions = tuple(r for r in _regions(session, address) if 0 < r.size <= MAX_MODULE_BYTES)
    text = next((r for r in regions if r.name in ("text", "core")), None)
    state = int(value.state)
    size = sum(region.size for region in regions if not region.name.startswith("init"))
    return Module(address, name, state, text.start if text else 0, size, regions)


def _regions(session: Session, address: int) -> Iterator[Region]:
    """Linux commit ac3b43283923 ("module: replace module_layout with module_memory") in v6.4;
    7523e4dc5057 ("module: use a structure to encapsulate layout.") in v4.5."""
    value = session.value("struct module", address)
    if value.has_("mem"):
        names = {number: name[4:].lower() for name, number in _memory_types(session).items()}
        for index, memory in enumerate(value.mem):
            yield Region(names.get(index, str(index)), int(memory.base), int(memory.size))
    elif value.has_("core_layout"):
        for name in ("core", "init"):
            layout = value.member_(f"{name}_layout")
            yield Region(name, int(layout.base), int(layout.size))
    else:
        yield Region("core", int(value.module_core), int(value.core_size))
        yield Region("init", int(value.module_init), int(value.init_size))


def _memory_types(session: Session) -> dict[str, int]:
    """``enum mod_mem_type``: MOD_TEXT, MOD_DATA, MOD_RODATA, MOD_RO_AFTER_INIT, MOD_INIT_TEXT ..."""
    found = session.types.enumerator("MOD_TEXT")
    if found is None:
        return {}
    return {n: v for n, v in found[0].enumerators.items() if n != "MOD_MEM_NUM_TYPES" and n != "MOD_INVALID"}


def module_taints(session: Session, module: Module) -> str:
    """The letters of what the module taints the kernel with (kernel/panic.c: taint_flags)."""
    if not session.types.has("struct module", "taints"):
        return ""
    mask = int(session.value("struct module", module.address).taints)
    return "".join(letter for bit, letter in enumerate(taint_letters(session)) if mask >> bit & 1)


def taint_letters(session: Session) -> str:
    """The letter of each taint bit. Linux commit 7fd8329ba502 ("taint/module: Clean up global and
    module taint flags handling") in v4.10 made taint_flags; before, the letters are those of v4.9."""
    table = session.symbols.find_kernel("taint_flags")
    if table is None or not session.types.has("struct taint_flag", "c_true"):
        return "PFSRMBUDAWCIOEL"
    size = session.types.size("struct taint_flag")
    offset = session.types.offset("struct taint_flag", "c_true")
    symbol = session.symbols.symbol("taint_flags")
    count = min((symbol.size if symbol else 0) // size or 18, 64)
    data = session.memory.read(table, count * size)
    return "".join(chr(data[i * size + offset]) for i in range(count))


def module_symbols(session: Session, module: Module) -> list[Symbol]:
    """The symbols that the kernel keeps of a module, read from memory (kernel/module/kallsyms.c)."""
    value = session.value("struct module", module.address)
    # struct mod_kallsyms: Linux commit 8244062ef1e5 ("modules: fix longstanding /proc/kallsyms vs
    # module insertion race.") in v4.5.
    tables = value.kallsyms.deref_() if value.has_("kallsyms") else value
    count, symtab, strtab = int(tables.num_symtab), int(tables.symtab), int(tables.strtab)
    if count > MAX_SYMBOLS:
        raise CorruptData(f"module {module.name} claims {count} symbols")
    if not count or not symtab:
        return []
    wide = session.arch.word_bits == 64
    order = "<" if session.arch.byte_order == "little" else ">"
    record = struct.Struct(order + ("IBBHQQ" if wide else "IIIBBH"))
    rows = list(record.iter_unpack(session.memory.read(symtab, count * record.size)))
    names = _strings(session, strtab, [row[0] for row in rows])
    letters = _letters(session, tables, count, [row[1] if wide else row[3] for row in rows])
    found = []
    for row, name, letter in zip(rows, names, letters, strict=True):
        address, size = (row[4], row[5]) if wide else (row[1], row[2])
        if name and not is_label(name, letter) and module.covers(address):
            found.append(Symbol(name, address, letter, size, module.name))
    return found


def _strings(session: Session, strtab: int, offsets: list[int]) -> list[str]:
    """The names at those offsets; the string table is read in one piece up to the last name's end."""
    last = max(offsets, default=0)
    if last > MAX_MODULE_BYTES:
        raise CorruptData("a module's symbol name lies outside its string table")
    end = last + len(session.memory.string(strtab + last, 512)) + 1
    data = session.memory.read(strtab, end)
    return [plain_name(data[offset : data.find(b"\0", offset)]) for offset in offsets]


def _letters(session: Session, tables: Value, count: int, infos: list[int]) -> list[str]:
    """nm's letters: from typetab (Linux commit 1c7651f43777 ("kallsyms: store type information in
    its own array") in v5.2), before that from st_info, where the kernel had put them."""
    if not tables.has_("typetab"):
        return [chr(info) if 0x40 < info < 0x7B else "?" for info in infos]
    letters = session.memory.read(int(tables.typetab), count).decode("latin-1")
    # typetab tells the kind, in small letters; st_info still tells who may see the symbol.
    return [c.upper() if info >> 4 == STB_GLOBAL else c for c, info in zip(letters, infos, strict=True)]


def load_module_symbols(session: Session) -> None:
    """Give the session's symbols one table a module; a module that cannot be read gets an empty one."""
    for module in modules(session):
        ranges = [(r.start, r.start + r.size) for r in module.regions]
        try:
            symbols = module_symbols(session, module)
        except KcrashError:
            symbols = []
        session.symbols.modules[module.name] = ListedSymbols(symbols, ranges)
