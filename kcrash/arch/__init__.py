"""CPU architectures: one file each, found by their ELF machine number or their uname name."""

from __future__ import annotations

from collections.abc import Set
from importlib import import_module
from pkgutil import iter_modules

from kcrash.arch.base import Arch, registered
from kcrash.errors import KcrashError


def _load_all() -> None:
    for module in sorted(info.name for info in iter_modules(__path__)):
        import_module(f"{__name__}.{module}")


def all_arches() -> list[Arch]:
    """Every architecture that there is a file for."""
    _load_all()
    return list(registered().values())


def find_arch(elf_machine: int, byte_order: str, word_bits: int) -> Arch:
    """The architecture of an ELF file with those header values. Raises KcrashError if there is none."""
    _load_all()
    found = registered().get((elf_machine, byte_order, word_bits))
    if found is None:
        raise KcrashError(
            f"no support for machine type {elf_machine} ({word_bits}-bit, {byte_order}-endian) yet; "
            f"known: {', '.join(sorted(arch.name for arch in registered().values()))}"
        )
    return found


def find_arch_by_machine(machine: str, byte_order: str) -> Arch | None:
    """The architecture whose ``uname -m`` is ``machine``, or None."""
    _load_all()
    matches = (arch for arch in registered().values() if arch.machine == machine)
    return next((arch for arch in matches if arch.byte_order == byte_order), None)


def arches_by_prstatus(sizes: Set[int], byte_order: str, word_bits: int) -> list[Arch]:
    """The architectures whose struct elf_prstatus has one of these sizes (bytes).

    Those of the notes' byte order come first; the order of memory may be another.
    """
    fitting = [arch for arch in all_arches() if arch.word_bits == word_bits and arch.prstatus.size in sizes]
    return sorted(fitting, key=lambda arch: arch.byte_order != byte_order)
