"""The shared libraries that a program of any architecture needs, found without running it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment


def interpreter(program: Path) -> str:
    """The dynamic loader's path, as the program names it."""
    with program.open("rb") as file:
        for segment in ELFFile(file).iter_segments():
            if isinstance(segment, InterpSegment):
                return str(segment.get_interp_name())
    raise LookupError(f"{program} names no dynamic loader")


def needed(program: Path, folders: Sequence[Path]) -> list[Path]:
    """The libraries of a program and of those libraries, where they lie in ``folders``."""
    found: dict[str, Path] = {}
    waiting = [program]
    while waiting:
        for name in _named(waiting.pop()):
            if name not in found:
                found[name] = find(name, folders)
                waiting.append(found[name])
    return list(found.values())


def find(name: str, folders: Iterable[Path]) -> Path:
    """A library by its name; LookupError if no folder has it."""
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    raise LookupError(f"no library {name}")


def _named(program: Path) -> Iterator[str]:
    with program.open("rb") as file:
        for section in ELFFile(file).iter_sections():
            if isinstance(section, DynamicSection):
                yield from (tag.needed for tag in section.iter_tags("DT_NEEDED"))
