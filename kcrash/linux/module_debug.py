"""Debuginfo of modules: which file is a module's, where its sections were loaded, and its use by a session.

What the kernel keeps of a module's sections is what /sys/module/NAME/sections shows (kernel/module/sysfs.c;
kernel/module.c before v5.18).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kcrash.errors import KcrashError, MismatchError
from kcrash.linux.modules import Module
from kcrash.symbols.elffile import ElfFile, find_build_id
from kcrash.symbols.table import ListedSymbols, object_symbols

if TYPE_CHECKING:
    from kcrash.debuginfo import Finder, Found, NotFound
    from kcrash.session import Session
    from kcrash.types.dwarf import DwarfSource
    from kcrash.values import Value

MAX_SECTIONS = 4096
_NOTE_BYTES = 64
_BUILD_ID_NOTE = ".note.gnu.build-id"
Addresses = Mapping[str, int]


@dataclass
class ModuleDebug:
    """A module's file in use.

    ``sections``: where each section was loaded, by name; ``marked``: listings of symbols show them.
    """

    module: Module
    path: str
    elf: ElfFile
    dwarf: DwarfSource
    sections: Addresses
    marked: bool = False

    def covers(self, address: int) -> bool:
        """True if ``address`` lies in the module."""
        return self.module.covers(address)

    def section_ranges(self) -> Iterator[tuple[str, int, int]]:
        """``(name, start, end)`` of the sections that are still there, by address."""
        sizes = {section.name: section.size for section in self.elf.section_list}
        for name, address in sorted(self.sections.items(), key=lambda pair: pair[1]):
            if sizes.get(name) and self.module.covers(address):
                yield name, address, address + sizes[name]


# -- what the kernel says


def section_addresses(session: Session, module: Module) -> dict[str, int]:
    """Where a module's sections were loaded, by name; {} where the kernel keeps no list (CONFIG_KALLSYMS=n).

    Sections of the initialisation are still listed when their memory has gone.
    """
    attrs = session.value("struct module", module.address)
    if not attrs.has_("sect_attrs") or not int(attrs.sect_attrs):
        return {}
    found: dict[str, int] = {}
    for name, address in _section_attributes(session, attrs.sect_attrs.deref_()):
        found.setdefault(name, address)
    return found


def _section_attributes(session: Session, attrs: Value) -> Iterator[tuple[str, int]]:
    if not attrs.has_("nsections"):
        # Linux commits d8959b947a8d ("module: sysfs: Drop member 'module_sect_attrs::nsections'") and
        # 4b2c11e4aaf7 ("module: sysfs: Drop member 'module_sect_attr::address'") in v6.14.
        yield from _binary_attributes(session, attrs)
        return
    count = min(int(attrs.nsections), MAX_SECTIONS)
    for index in range(count):
        entry = attrs.attrs[index]
        # Linux commit ed66f991bb19 ("module: Refactor section attr into bin attribute") in v5.8.
        name = entry.battr.attr.name if entry.has_("battr") else entry.name
        yield _text(name), int(entry.address)


def _binary_attributes(session: Session, attrs: Value) -> Iterator[tuple[str, int]]:
    """The NULL-terminated list of ``struct bin_attribute *``, whose ``private`` is the address."""
    place, width = int(attrs.grp.bin_attrs), session.arch.word_bytes
    for index in range(MAX_SECTIONS):
        pointer = session.memory.word(place + index * width)
        if not pointer:
            return
        entry = session.value("struct bin_attribute", pointer)
        yield _text(entry.attr.name), int(entry.private)


def _text(name: Value) -> str:
    return name.string_(256).decode("utf-8", "replace")


def module_build_id(session: Session, module: Module) -> str | None:
    """The build-id of a loaded module in hex; None if the dump does not tell.

    Linux commit 9294523e3768 ("module: add printk formats to add module build ID to stacktraces") in v5.14
    keeps it if CONFIG_STACKTRACE_BUILD_ID is set; else it is in the module's note section.
    """
    value = session.value("struct module", module.address)
    if value.has_("build_id"):
        kept = bytes(value.build_id.read_())
        return kept.hex() if any(kept) else None
    address = section_addresses(session, module).get(_BUILD_ID_NOTE)
    data = session.memory.try_read(address, _NOTE_BYTES) if address else None
    return find_build_id(data, session.arch.byte_order) if data else None


# -- its file


def find_file(session: Session, module: Module, given: str | None = None) -> Found:
    """The file of a loaded module: ``given``, a file or a folder, or where one may be found.

    Raises MismatchError for one of another build (unless the session's ``force``),
    KcrashError if there is none.
    """
    from kcrash.debuginfo import NotFound

    found = _search(session, module, given, module_build_id(session, module), session.options.force)
    if isinstance(found, NotFound):
        raise found.error()
    if not found.has_dwarf:
        raise KcrashError(f"{found.path} has no debug information")
    return found


def _search(
    session: Session, module: Module, given: str | None, build_id: str | None, force: bool
) -> Found | NotFound:
    release = session.release_hint
    if given is not None:
        return _finder(session, (), servers=()).find_module(
            module.name, build_id, release, given=[given], force=force
        )
    trees, beside = _near_kernel(session)
    folders: list[str | Path] = [*_named_folders(session), *beside]
    return _finder(session, trees).find_module(module.name, build_id, release, given=folders, want_dwarf=True)


def _named_folders(session: Session) -> list[str]:
    """Those of ``--mod``, or else of $CRASH_MODULE_PATH."""
    path = os.environ.get("CRASH_MODULE_PATH", "")
    return session.options.module_dirs or [folder for folder in path.split(os.pathsep) if folder]


def _finder(session: Session, trees: Sequence[Path], servers: Sequence[str] | None = None) -> Finder:
    from kcrash.debuginfo import DEFAULT_DIRS, Finder

    key = ("module finder", tuple(trees), servers)
    dirs = () if servers is not None else (*trees, *DEFAULT_DIRS)
    progress = session.options.total_progress
    return session.memo(key, lambda: Finder.make(dirs=dirs, servers=servers, progress=progress))


def _near_kernel(session: Session) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """``(trees, folders)`` to look in beside the vmlinux: the root of its tree, or else its folder."""
    from kcrash.debuginfo.places import tree_of_kernel

    if session.vmlinux is None:
        return (), ()
    path = Path(session.vmlinux.path).resolve()
    tree = tree_of_kernel(path, session.release_hint)
    return ((tree,), ()) if tree is not None else ((), (path.parent,))


# -- its use


def load(session: Session, module: Module, given: str | None = None) -> ModuleDebug:
    """Use a module's debuginfo from now on: types, lines and symbols. Raises as find_file(), BadFormat."""
    from kcrash.types.dwarf import DwarfSource

    sections = section_addresses(session, module)
    if not sections:
        raise KcrashError(f"the kernel keeps no list of where the sections of module {module.name} are")
    found = find_file(session, module, given)
    elf = ElfFile(found.path)
    if elf.machine != session.arch.elf_machine:
        raise MismatchError(f"{found.path} is for another machine than the dump")
    dwarf = DwarfSource(elf, section_addresses=sections, notice=session.options.notice)
    made = ModuleDebug(module, str(found.path), elf, dwarf, sections)
    unload(session, module.name)
    session.module_debug[module.name] = made
    session.types.add(made.dwarf, last_resort=True, module=module.name)
    _complete_symbols(session, made)
    session.forget("unwinder")
    return made


def unload(session: Session, name: str) -> bool:
    """Use the debuginfo of a module no longer; False if it was not in use."""
    old = session.module_debug.pop(name, None)
    if old is None:
        return False
    session.types.remove(old.dwarf)
    session.forget("unwinder")
    return True


def _complete_symbols(session: Session, debug: ModuleDebug) -> None:
    """Add the file's symbols that the kernel did not keep: without CONFIG_KALLSYMS_ALL those of data."""
    table = session.symbols.module_table(debug.module.name)
    known = list(table.all()) if table else []
    there = {(symbol.name, symbol.address) for symbol in known}
    more = [
        symbol._replace(module=debug.module.name)
        for symbol in object_symbols(debug.elf, debug.sections)
        if (symbol.name, symbol.address) not in there and debug.covers(symbol.address)
    ]
    if more:
        ranges = [(region.start, region.start + region.size) for region in debug.module.regions]
        session.symbols.modules[debug.module.name] = ListedSymbols([*known, *more], ranges)
