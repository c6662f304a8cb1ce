"""The file of debug info that several files share, as ``dwz -m`` makes it.

Section .gnu_debugaltlink (binutils, "Separate debug info") or, in DWARF 5, .debug_sup (section 7.3.6): the
file's name and what it is known by.
"""

from __future__ import annotations

from pathlib import Path

from kcrash.errors import BadFormat
from kcrash.symbols.elffile import ElfFile
from kcrash.types.dwarf.encoding import Malformed, uleb


def find_alternate(elf: ElfFile) -> ElfFile | None:
    """The shared file that ``elf`` names, beside it or by build-id; None if none is named or there."""
    name, identity = _named(elf)
    if not identity:
        return None
    from kcrash.debuginfo.places import build_id_names

    folder = Path(elf.path).resolve().parent
    for path in (folder / name, *(Path("/") / place for place in build_id_names(identity))):
        try:
            found = ElfFile(path)
            if identity in (found.build_id, _supplementary(found, shared=True)[1]):
                return found
        except (BadFormat, OSError, ValueError):
            continue
    return None


def _named(elf: ElfFile) -> tuple[str, str]:
    """``(path, what it is known by, in hex)``, "" where nothing is said."""
    link = elf.section_data(".gnu_debugaltlink")
    if link is not None:
        name, _nul, build_id = bytes(link[:8192]).partition(b"\0")
        return name.decode("utf-8", "surrogateescape"), build_id.hex()
    return _supplementary(elf, shared=False)


def _supplementary(elf: ElfFile, *, shared: bool) -> tuple[str, str]:
    """.debug_sup: version, a byte (1 in the shared file), name, length of a checksum, the checksum."""
    data = elf.section_data(".debug_sup")
    if data is None or len(data) < 4 or bool(data[2]) != shared:
        return "", ""
    name, _nul, _rest = bytes(data[3:8192]).partition(b"\0")
    try:
        length, start = uleb(data, 4 + len(name))
    except (Malformed, IndexError):
        return "", ""
    return name.decode("utf-8", "surrogateescape"), bytes(data[start : start + length]).hex()
