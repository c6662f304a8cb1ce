"""Types of modules, out of the dump itself: the kernel keeps each module's BTF (kernel/bpf/btf.c)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from kcrash.errors import KcrashError
from kcrash.linux.lists import list_for_each_entry
from kcrash.types.btf import BtfSource
from kcrash.types.model import Type
from kcrash.types.namespace import Types
from kcrash.types.source import TypeSource

if TYPE_CHECKING:
    from kcrash.session import Session

MAX_BTF = 1 << 26


def module_types(session: Session, *names: str, instead: TypeSource | None = None) -> Types:
    """The session's types and those of the modules ``names``, as far as the dump or module debuginfo
    that is in use has them.

    ``instead``: asked before the session's sources where a module's types are not in the
    dump, so that what the kernel cannot have is not searched for in its DWARF.
    Linux commit 36e68442d1af ("bpf: Load and verify kernel module BTFs") in v5.11.
    """
    in_use = tuple(name for name in names if name in session.module_debug)
    return session.memo(("module types", names, in_use), lambda: _make(session, names, instead))


def _make(session: Session, names: tuple[str, ...], instead: TypeSource | None) -> Types:
    made = Types(session.types.byte_order, session.types.pointer_size)
    for name in names:
        debug = session.module_debug.get(name)
        source: TypeSource | None = _source(session, name) or (debug.dwarf if debug else None)
        if source is not None:
            made.add(source)
    own, rest = session.types.sources[:1], session.types.sources[1:]
    for known in (*own, *([instead] if instead is not None else []), *rest):
        made.add(known)
    return made


def find_in_modules(session: Session, kind: str, name: str) -> Type | None:
    """The type ``name`` of a kind of the first module whose BTF has it; None if none has."""
    sources = (_source(session, module) for module in session.reading("module BTF", lambda: _blobs(session)))
    found = (source.find(kind, name) for source in sources if source is not None)
    return next((type_ for type_ in found if type_ is not None), None)


def _blobs(session: Session) -> dict[str, tuple[int, int]]:
    """``(address, bytes)`` of the BTF of modules, as far as the list can be read."""
    found: dict[str, tuple[int, int]] = {}
    with suppress(KcrashError):
        for name, data, size in _loaded(session):
            found.setdefault(name, (data, size))
    return found


def _source(session: Session, name: str) -> BtfSource | None:
    return session.reading(("module BTF", name), lambda: _read(session, name))


def _read(session: Session, name: str) -> BtfSource | None:
    base = next((source for source in session.types.sources if isinstance(source, BtfSource)), None)
    data, size = session.reading("module BTF", lambda: _blobs(session)).get(name, (0, 0))
    if not 0 < size <= MAX_BTF:
        return None
    with suppress(KcrashError):
        blob = session.memory.read(data, size)
        return BtfSource(blob, f"module {name}", pointer_size=session.arch.word_bytes, base=base)
    return None


def _loaded(session: Session) -> Iterator[tuple[str, int, int]]:
    """``(module, address of its BTF, bytes)``."""
    head = session.symbols.find_kernel("btf_modules")
    if head is None:
        return
    for address in list_for_each_entry(session, head, "struct btf_module", "list"):
        value = session.value("struct btf_module", address)
        name = value.module.name.string_().decode("utf-8", "replace")
        yield name, int(value.btf.data), int(value.btf.data_size)
