"""What a file is, judged by its first bytes."""

from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING, Literal

from kcrash.dump.base import HEAD, formats
from kcrash.dump.flattened import inner_of_flattened
from kcrash.dump.source import Reader, Source, open_source
from kcrash.errors import KcrashError
from kcrash.files.unpack import chunks, compression

if TYPE_CHECKING:
    from pathlib import Path

ELF_MAGIC = b"\x7fELF"
ET_NAMES = {0: "no type", 1: "relocatable object", 2: "executable", 3: "shared object", 4: "core"}
ET_EXEC, ET_DYN, ET_CORE = 2, 3, 4
TEXT_HEAD = 512

Kind = Literal["kernel", "dump", "object", "compressed", "text", "unknown"]

# What a compression that Python cannot undo here is undone with.
_UNPACKERS = {"lz4": "lz4 -d"}
_OTHERS = (
    (b"MZ", "kernel image that boots (bzImage or Image): give the vmlinux it was made from"),
    (b"PAGEDU64", "Windows crash dump"),
    (b"PAGEDUMP", "Windows crash dump"),
    (b"QFI\xfb", "qcow2 disk image"),
    (b"PK\x03\x04", "zip archive"),
    (b"!<arch>\n", "archive (ar or .deb)"),
    (b"\xed\xab\xee\xdb", "RPM package"),
)


def elf_type(head: bytes) -> int | None:
    """e_type of an ELF file by its first 18 bytes, None of anything else."""
    if len(head) < 18 or not head.startswith(ELF_MAGIC):
        return None
    kind: int = unpack_from(">H" if head[5] == 2 else "<H", head, 16)[0]
    return kind


def is_vmlinux(source: Source) -> bool:
    """True for an ELF executable (x86 and most) or shared object (arm64, s390x, powerpc): not a core."""
    return elf_type(source.peek(18)) in (ET_EXEC, ET_DYN)


def identify(path: str | Path) -> Kind:
    """What the file is good for. Raises BadFormat if it cannot be read at all.

    "kernel": ELF executable; "object": relocatable ELF (a module); "dump": in a
    known container, compressed as a whole or not; "compressed": something else
    that is; "text": System.map or a script, say.
    """
    with open_source(path) as source:
        codec = compression(source.peek(8))
        kind = _kind(source.peek(HEAD) if codec is None else _inner_head(source, codec))
    return "compressed" if codec and kind != "dump" else kind


def _kind(head: bytes) -> Kind:
    kind = elf_type(head)
    if kind is not None and kind != ET_CORE:
        return "kernel" if kind in (ET_EXEC, ET_DYN) else "object"
    if any(entry.sniff(head) for entry in formats()):
        return "dump"
    return "text" if _is_text(head[:TEXT_HEAD]) else "unknown"


def _inner_head(source: Source, codec: str) -> bytes:
    """The first bytes that a compressed file unpacks to, as many as there are without an error."""
    head = b""
    try:
        for chunk in chunks(codec, Reader(source), source.path):
            head += chunk
            if len(head) >= HEAD:
                break
    except KcrashError:
        pass
    return inner_of_flattened(head[:HEAD]) or head[:HEAD]


def _is_text(head: bytes) -> bool:
    return bool(head) and not any(byte < 7 or 14 <= byte < 27 or byte == 127 for byte in head)


def describe(source: Source) -> str:
    """Why a file is no dump: one line about what it is instead."""
    head = source.peek(TEXT_HEAD)
    packed = compression(head)
    if packed:
        return f"is compressed with {packed}: decompress it first ({_UNPACKERS.get(packed, packed + ' -d')})"
    kind = elf_type(head)
    if kind is not None:
        return f"not a dump but an ELF {ET_NAMES.get(kind, f'file of type {kind}')}"
    if head.startswith(ELF_MAGIC):
        return f"ends within its ELF header, after {len(head)} bytes"
    for magic, name in _OTHERS:
        if head.startswith(magic):
            return f"not a dump but a {name}" if "dump" not in name else name
    if not head.strip(b"\0"):
        return f"not a dump in any known format (starts with {len(head)} zero bytes)"
    if _is_text(head):
        return "not a dump but a text file"
    return f"not a dump in any known format (starts with {head[:8].hex(' ')})"
